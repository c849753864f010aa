#include "softmax.h"

#include "pool.h"
#include "vector.h"

#define STRIDE 1024 /* numbers summed in float32; their sums are in float64, or a vocabulary would cost digits */

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
  const __m256 most = _mm256_broadcast_ss(p->most + item);
  double total = 0.0;
  for (int64_t i = 0; i < p->width; i += STRIDE)
    total += exponentials(x + i, p->width - i < STRIDE ? p->width - i : STRIDE, most);
  p->total[item] = (float)total;
}

void softmax_parts(struct pool *pool, struct softmax *softmax) { pool_run(pool, row, softmax, (int)softmax->rows); }
