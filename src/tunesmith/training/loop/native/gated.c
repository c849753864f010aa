/* One pass where torch makes three forward and five back: these matrices are larger than every cache. */
#include "gated.h"

#include <string.h>

#include "pool.h"
#include "vector.h"

#define INLINE static inline __attribute__((always_inline))
#define SPAN 16384 /* numbers a thread takes at once */
#define GELU 1.5957691216f /* twice the square root of 2 / pi: see gelu8 */
#define FAR 10.0f /* from here on GELU is x, or nothing, to the last place */

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
  const __m256 c = _mm256_min_ps(_mm256_set1_ps(FAR), _mm256_max_ps(_mm256_set1_ps(-FAR), x));
  const __m256 one = _mm256_set1_ps(1.0f), cubic = _mm256_mul_ps(_mm256_mul_ps(c, c), _mm256_set1_ps(0.044715f));
  const __m256 v = _mm256_mul_ps(c, _mm256_set1_ps(GELU));
  const __m256 s = logistic(_mm256_mul_ps(v, _mm256_add_ps(one, cubic)), &rest);
  const __m256 inner = _mm256_mul_ps(v, _mm256_fmadd_ps(cubic, _mm256_set1_ps(3.0f), one)); /* x times that's slope */
  *slope = _mm256_fmadd_ps(_mm256_mul_ps(inner, s), rest, s);
  return s;
}

INLINE __m256 product8(__m256 g, __m256 u, int activation) {
  __m256 slope;
  return _mm256_mul_ps(_mm256_mul_ps(g, share(g, activation, &slope)), u);
}

INLINE __m256 gradients8(__m256 grad, __m256 g, __m256 u, int activation, __m256 *grad_u) {
  __m256 slope;
  *grad_u = _mm256_mul_ps(grad, _mm256_mul_ps(g, share(g, activation, &slope)));
  return _mm256_mul_ps(_mm256_mul_ps(grad, u), slope);
}

/* The eight numbers at `at`, of which the last may be behind the end. */
INLINE __m256i within(int64_t at, int64_t end) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(end - at < 8 ? (int)(end - at) : 8), lanes);
}

INLINE void forward(const struct gated *p, int64_t begin, int64_t end, int activation) {
  int64_t i = begin;
  for (; i + 8 <= end; i += 8)
    _mm256_storeu_ps(p->out + i, product8(_mm256_loadu_ps(p->gate + i), _mm256_loadu_ps(p->up + i), activation));
  if (i == end) return;
  const __m256i some = within(i, end);
  const __m256 g = _mm256_maskload_ps(p->gate + i, some), u = _mm256_maskload_ps(p->up + i, some);
  _mm256_maskstore_ps(p->out + i, some, product8(g, u, activation));
}

INLINE void backward(const struct gated *p, int64_t begin, int64_t end, int activation) {
  int64_t i = begin;
  __m256 grad_u;
  for (; i + 8 <= end; i += 8) {
    const __m256 grad = _mm256_loadu_ps(p->grad + i), g = _mm256_loadu_ps(p->gate + i);
    _mm256_storeu_ps(p->grad + i, gradients8(grad, g, _mm256_loadu_ps(p->up + i), activation, &grad_u));
    _mm256_storeu_ps(p->out + i, grad_u);
  }
  if (i == end) return;
  const __m256i some = within(i, end);
  const __m256 grad = _mm256_maskload_ps(p->grad + i, some), g = _mm256_maskload_ps(p->gate + i, some);
  _mm256_maskstore_ps(p->grad + i, some, gradients8(grad, g, _mm256_maskload_ps(p->up + i, some), activation, &grad_u));
  _mm256_maskstore_ps(p->out + i, some, grad_u);
}

static void forward_part(void *given, int item, int thread) {
  (void)thread;
  const struct gated *p = given;
  const int64_t begin = (int64_t)item * SPAN, end = p->count - begin < SPAN ? p->count : begin + SPAN;
  if (p->activation == SILU)
    forward(p, begin, end, SILU);
  else
    forward(p, begin, end, GELU_TANH);
}

static void backward_part(void *given, int item, int thread) {
  (void)thread;
  const struct gated *p = given;
  const int64_t begin = (int64_t)item * SPAN, end = p->count - begin < SPAN ? p->count : begin + SPAN;
  if (p->activation == SILU)
    backward(p, begin, end, SILU);
  else
    backward(p, begin, end, GELU_TANH);
}

void gated_forward(struct pool *pool, struct gated *gated) {
  pool_run(pool, forward_part, gated, (int)((gated->count + SPAN - 1) / SPAN));
}

void gated_backward(struct pool *pool, struct gated *gated) {
  pool_run(pool, backward_part, gated, (int)((gated->count + SPAN - 1) / SPAN));
}
