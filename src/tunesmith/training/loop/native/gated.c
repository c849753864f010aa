/* One pass where torch makes three forward and five back: these matrices are larger than every cache. */
#include "gated.h"

#include <string.h>

#include "pool.h"
#include "vector.h"

#define INLINE static inline __attribute__((always_inline))

/* The logistic function of v, and 1 minus it without cancellation. */
INLINE __m256 logistic(__m256 v, __m256 *rest) {
  const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
  const __m256 e = exp8(_mm256_or_ps(v, sign)); /* of -|v|: never above 1 */
  const __m256 large = _mm256_div_ps(one, _mm256_add_ps(one, e)), small = _mm256_mul_ps(e, large);
  *rest = _mm256_blendv_ps(small, large, v);
  return _mm256_blendv_ps(large, small, v);
}

/* What x is multiplied by to be activated, in [0, 1]; the derivative of the product. */
INLINE __m256 share(__m256 x, int activation, __m256 *slope) {
  __m256 rest;
  if (activation == SILU) {
    const __m256 s = logistic(x, &rest);
    *slope = _mm256_fmadd_ps(_mm256_mul_ps(x, s), rest, s);
    return s;
  }
  /* clamped, or its powers would overflow where they are multiplied by nothing; what is not a number stays so */
  const __m256 c = _mm256_min_ps(_mm256_set1_ps(GELU_FAR), _mm256_max_ps(_mm256_set1_ps(-GELU_FAR), x));
  const __m256 one = _mm256_set1_ps(1.0f), square = _mm256_mul_ps(c, c);
  const __m256 v = _mm256_mul_ps(c, _mm256_set1_ps(GELU_SLOPE));
  const __m256 s = logistic(_mm256_mul_ps(v, _mm256_fmadd_ps(square, _mm256_set1_ps(GELU_CUBIC), one)), &rest);
  /* x times that's slope */
  const __m256 inner = _mm256_mul_ps(v, _mm256_fmadd_ps(square, _mm256_set1_ps(3.0f * GELU_CUBIC), one));
  *slope = _mm256_fmadd_ps(_mm256_mul_ps(inner, s), rest, s);
  return s;
}

/* The eight numbers at `at`, of which the last may be behind the end. */
INLINE __m256i within(int64_t at, int64_t end) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(end - at < 8 ? (int)(end - at) : 8), lanes);
}

INLINE __m256 load_some(const float *x, int64_t at, int64_t end) {
  return at + 8 <= end ? _mm256_loadu_ps(x + at) : _mm256_maskload_ps(x + at, within(at, end));
}

INLINE void store_some(float *x, int64_t at, int64_t end, __m256 v) {
  if (at + 8 <= end)
    _mm256_storeu_ps(x + at, v);
  else
    _mm256_maskstore_ps(x + at, within(at, end), v);
}

INLINE void forward(const struct gated *p, int item, int activation) {
  const float *gate = p->gate, *up = p->up;
  float *product = p->product;
  const int64_t end = gated_end(p, item);
  __m256 slope;
  for (int64_t i = (int64_t)item * GATED_SPAN; i < end; i += 8) {
    const __m256 g = load_some(gate, i, end), u = load_some(up, i, end);
    store_some(product, i, end, _mm256_mul_ps(_mm256_mul_ps(g, share(g, activation, &slope)), u));
  }
}

INLINE void backward(const struct gated *p, int item, int activation) {
  const float *gate = p->gate, *up = p->up;
  float *product = p->product, *grad = p->grad, *grad_up = p->grad_up;
  const int64_t end = gated_end(p, item);
  __m256 slope;
  for (int64_t i = (int64_t)item * GATED_SPAN; i < end; i += 8) {
    const __m256 d = load_some(grad, i, end), g = load_some(gate, i, end), u = load_some(up, i, end);
    const __m256 active = _mm256_mul_ps(g, share(g, activation, &slope));
    store_some(product, i, end, _mm256_mul_ps(active, u));
    store_some(grad_up, i, end, _mm256_mul_ps(d, active));
    store_some(grad, i, end, _mm256_mul_ps(_mm256_mul_ps(d, u), slope));
  }
}

static void forward_part(void *given, int item, int thread) {
  (void)thread;
  const struct gated *p = given;
  if (p->activation == SILU)
    forward(p, item, SILU);
  else
    forward(p, item, GELU_TANH);
}

static void backward_part(void *given, int item, int thread) {
  (void)thread;
  const struct gated *p = given;
  if (p->activation == SILU)
    backward(p, item, SILU);
  else
    backward(p, item, GELU_TANH);
}

void gated_forward(struct pool *pool, struct gated *gated) { pool_run(pool, forward_part, gated, gated_parts(gated)); }

void gated_backward(struct pool *pool, struct gated *gated) {
  pool_run(pool, backward_part, gated, gated_parts(gated));
}
