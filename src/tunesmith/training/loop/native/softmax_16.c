#include "softmax.h"

#include "pool.h"
#include "vector_16.h"

#if HAVE_WIDE
WIDE_BEGIN

static float largest(const float *x, int64_t count) {
  const __m512 none = _mm512_set1_ps(-INFINITY);
  __m512 a = none, b = none;
  for (int64_t i = 0; i < count; i += 32) {
    a = _mm512_max_ps(a, _mm512_mask_loadu_ps(none, first_of(count - i), x + i));
    b = _mm512_max_ps(b, _mm512_mask_loadu_ps(none, first_of(count - i - 16), x + i + 16));
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

static inline __m512 exponential(const float *x, __mmask16 some, __m512 most, bf16 *share) {
  const __m512 e = exp16(_mm512_sub_ps(_mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), some, x), most));
  if (share) store_some(share, some, e);
  return e;
}

static float exponentials(const float *x, bf16 *shares, int64_t count, __m512 most) {
  __m512 a = _mm512_setzero_ps(), b = a;
  for (int64_t i = 0; i < count; i += 32) {
    bf16 *share = shares ? shares + i : NULL, *next = shares ? share + 16 : NULL;
    a = _mm512_add_ps(a, exponential(x + i, first_of(count - i), most, share));
    b = _mm512_add_ps(b, exponential(x + i + 16, first_of(count - i - 16), most, next));
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

static void row(void *given, int item, int thread) {
  (void)thread;
  const struct softmax *p = given;
  const int64_t width = p->width;
  const float *x = p->x + item * width;
  const __m512 most = _mm512_set1_ps(softmax_begin(p, item, largest(x, width)));
  double total = 0.0;
  for (int64_t i = 0; i < width; i += SOFTMAX_STRIDE) {
    const int64_t count = width - i < SOFTMAX_STRIDE ? width - i : SOFTMAX_STRIDE;
    total += exponentials(x + i, p->shares ? p->shares + item * width + i : NULL, count, most);
  }
  softmax_end(p, item, total);
}

void softmax_parts_16(struct pool *pool, struct softmax *softmax) { pool_run(pool, row, softmax, (int)softmax->rows); }

WIDE_END
#endif
