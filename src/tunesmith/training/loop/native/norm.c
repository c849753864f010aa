/* A row is read from memory once: sums and products find it in the first cache. */
#include "norm.h"

#include <math.h>

#include "pool.h"
#include "vector.h"

static float sum_of_squares(const float *x, int64_t width) {
  __m256 a = _mm256_setzero_ps(), b = a;
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    const __m256 v = _mm256_loadu_ps(x + i), w = _mm256_loadu_ps(x + i + 8);
    a = _mm256_fmadd_ps(v, v, a);
    b = _mm256_fmadd_ps(w, w, b);
  }
  float sum = sum8(_mm256_add_ps(a, b));
  for (; i < width; i++) sum = fmaf(x[i], x[i], sum);
  return sum;
}

/* The sum of x * scale * grad. */
static float sum_of_products(const float *x, const float *scale, const float *grad, int64_t width) {
  __m256 a = _mm256_setzero_ps(), b = a;
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(scale + i), _mm256_loadu_ps(grad + i));
    const __m256 w = _mm256_mul_ps(_mm256_loadu_ps(scale + i + 8), _mm256_loadu_ps(grad + i + 8));
    a = _mm256_fmadd_ps(v, _mm256_loadu_ps(x + i), a);
    b = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + i + 8), b);
  }
  float sum = sum8(_mm256_add_ps(a, b));
  for (; i < width; i++) sum = fmaf(scale[i] * grad[i], x[i], sum);
  return sum;
}

static void forward_rows(void *given, int item, int thread) {
  (void)thread;
  const struct norm *p = given;
  const int64_t first = (int64_t)item * norm_rows(p), width = p->width;
  for (int64_t row = first; row < first + norm_rows(p) && row < p->rows; row++) {
    const float *x = (const float *)p->x + row * width;
    const float over = 1.0f / sqrtf(sum_of_squares(x, width) / (float)width + p->eps);
    float *y = (float *)p->y + row * width;
    for (int64_t i = 0; i < width; i++) y[i] = p->scale[i] * (x[i] * over);
    p->over[row] = over;
  }
}

/* With n = x / root: root * grad of x = scale * grad - n * mean(n * scale * grad). */
static void backward_rows(void *given, int item, int thread) {
  (void)thread;
  const struct norm *p = given;
  const int64_t first = (int64_t)item * norm_rows(p), width = p->width;
  for (int64_t row = first; row < first + norm_rows(p) && row < p->rows; row++) {
    const float *x = (const float *)p->x + row * width, *grad = (const float *)p->grad + row * width;
    const float over = p->over[row];
    const float mean = sum_of_products(x, p->scale, grad, width) * over / (float)width;
    const float along = mean * over;
    float *y = (float *)p->y + row * width;
    for (int64_t i = 0; i < width; i++) y[i] = over * (p->scale[i] * grad[i] - along * x[i]);
  }
}

void norm_forward(struct pool *pool, struct norm *norm) { pool_run(pool, forward_rows, norm, norm_parts(norm)); }
void norm_backward(struct pool *pool, struct norm *norm) { pool_run(pool, backward_rows, norm, norm_parts(norm)); }
