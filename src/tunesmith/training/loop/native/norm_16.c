/* As norm.c, in bfloat16: computed in float32, rounded once. Sums run in sixteen lanes, from the first to the last. */
#include <math.h>

#include "norm.h"
#include "pool.h"
#include "vector_16.h"

#if HAVE_WIDE
WIDE_BEGIN

static float sum_of_squares(const bf16 *x, int64_t width) {
  __m512 a = _mm512_setzero_ps(), b = a;
  for (int64_t i = 0; i < width; i += 32) {
    const __m512 v = load_some(x + i, first_of(width - i)), w = load_some(x + i + 16, first_of(width - i - 16));
    a = _mm512_fmadd_ps(v, v, a);
    b = _mm512_fmadd_ps(w, w, b);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

static inline __m512 scaled(const float *scale, const bf16 *grad, __mmask16 some) {
  return _mm512_mul_ps(_mm512_maskz_loadu_ps(some, scale), load_some(grad, some));
}

/* The sum of x * scale * grad. */
static float sum_of_products(const bf16 *x, const float *scale, const bf16 *grad, int64_t width) {
  __m512 a = _mm512_setzero_ps(), b = a;
  for (int64_t i = 0; i < width; i += 32) {
    const __mmask16 some = first_of(width - i), more = first_of(width - i - 16);
    a = _mm512_fmadd_ps(scaled(scale + i, grad + i, some), load_some(x + i, some), a);
    b = _mm512_fmadd_ps(scaled(scale + i + 16, grad + i + 16, more), load_some(x + i + 16, more), b);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

static void forward_rows(void *given, int item, int thread) {
  (void)thread;
  const struct norm *p = given;
  const int64_t first = (int64_t)item * norm_rows(p), width = p->width;
  for (int64_t row = first; row < first + norm_rows(p) && row < p->rows; row++) {
    const bf16 *x = (const bf16 *)p->x + row * width;
    const float over = 1.0f / sqrtf(sum_of_squares(x, width) / (float)width + p->eps);
    const __m512 overs = _mm512_set1_ps(over);
    bf16 *y = (bf16 *)p->y + row * width;
    for (int64_t i = 0; i < width; i += 16) {
      const __mmask16 some = first_of(width - i);
      const __m512 scale = _mm512_maskz_loadu_ps(some, p->scale + i);
      store_some(y + i, some, _mm512_mul_ps(scale, _mm512_mul_ps(load_some(x + i, some), overs)));
    }
    p->over[row] = over;
  }
}

/* See norm.c. */
static void backward_rows(void *given, int item, int thread) {
  (void)thread;
  const struct norm *p = given;
  const int64_t first = (int64_t)item * norm_rows(p), width = p->width;
  for (int64_t row = first; row < first + norm_rows(p) && row < p->rows; row++) {
    const bf16 *x = (const bf16 *)p->x + row * width, *grad = (const bf16 *)p->grad + row * width;
    const float over = p->over[row];
    const float mean = sum_of_products(x, p->scale, grad, width) * over / (float)width;
    const __m512 overs = _mm512_set1_ps(over), along = _mm512_set1_ps(mean * over);
    bf16 *y = (bf16 *)p->y + row * width;
    for (int64_t i = 0; i < width; i += 16) {
      const __mmask16 some = first_of(width - i);
      const __m512 across =
          _mm512_fnmadd_ps(along, load_some(x + i, some), scaled(p->scale + i, grad + i, some));
      store_some(y + i, some, _mm512_mul_ps(overs, across));
    }
  }
}

void norm_forward_16(struct pool *pool, struct norm *norm) { pool_run(pool, forward_rows, norm, norm_parts(norm)); }
void norm_backward_16(struct pool *pool, struct norm *norm) { pool_run(pool, backward_rows, norm, norm_parts(norm)); }

WIDE_END
#endif
