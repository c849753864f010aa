#include "softmax.h"

#include "pool.h"
#include "vector.h"

static float largest(const float *x, int64_t count) {
  __m256 most = _mm256_set1_ps(-INFINITY);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(x + i));
  float found = max8(most);
  for (; i < count; i++) found = x[i] > found ? x[i] : found;
  return found;
}

static float exponentials(float *x, int64_t count, __m256 most) {
  __m256 a = _mm256_setzero_ps(), b = a;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256 v = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), most));
    const __m256 w = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), most));
    _mm256_storeu_ps(x + i, v);
    _mm256_storeu_ps(x + i + 8, w);
    a = _mm256_add_ps(a, v);
    b = _mm256_add_ps(b, w);
  }
  float sum = sum8(_mm256_add_ps(a, b));
  for (; i < count; i++) {
    x[i] = _mm256_cvtss_f32(exp8(_mm256_sub_ps(_mm256_set1_ps(x[i]), most)));
    sum += x[i];
  }
  return sum;
}

static void row(void *given, int item, int thread) {
  (void)thread;
  const struct softmax *p = given;
  float *x = p->x + item * p->width;
  const __m256 most = _mm256_set1_ps(softmax_begin(p, item, largest(x, p->width)));
  double total = 0.0;
  for (int64_t i = 0; i < p->width; i += SOFTMAX_STRIDE)
    total += exponentials(x + i, p->width - i < SOFTMAX_STRIDE ? p->width - i : SOFTMAX_STRIDE, most);
  softmax_end(p, item, total);
}

void softmax_parts(struct pool *pool, struct softmax *softmax) { pool_run(pool, row, softmax, (int)softmax->rows); }
