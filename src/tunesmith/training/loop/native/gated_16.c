/* As gated.c, in bfloat16: computed in float32, rounded once. */
#include "gated.h"
#include "pool.h"
#include "vector_16.h"

#if HAVE_WIDE
WIDE_BEGIN

#define INLINE static inline __attribute__((always_inline))

/* 1 / x within two units of the last place, for x in [1, 2]: one step of Newton's from 14 bits. */
INLINE __m512 inverse(__m512 x) {
  const __m512 near = _mm512_rcp14_ps(x);
  return _mm512_fmadd_ps(near, _mm512_fnmadd_ps(x, near, _mm512_set1_ps(1.0f)), near);
}

/* The logistic function of v, and 1 minus it without cancellation. */
INLINE __m512 logistic(__m512 v, __m512 *rest) {
  const __m512 e = exp16(_mm512_or_ps(v, _mm512_set1_ps(-0.0f))); /* of -|v|: never above 1 */
  const __m512 large = inverse(_mm512_add_ps(_mm512_set1_ps(1.0f), e)), small = _mm512_mul_ps(e, large);
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(v));
  *rest = _mm512_mask_blend_ps(negative, small, large);
  return _mm512_mask_blend_ps(negative, large, small);
}

/* What x is multiplied by to be activated, in [0, 1]; the derivative of the product. */
INLINE __m512 share(__m512 x, int activation, __m512 *slope) {
  __m512 rest;
  if (activation == SILU) {
    const __m512 s = logistic(x, &rest);
    *slope = _mm512_fmadd_ps(_mm512_mul_ps(x, s), rest, s);
    return s;
  }
  /* clamped, or its powers would overflow where they are multiplied by nothing; what is not a number stays so */
  const __m512 c = _mm512_min_ps(_mm512_set1_ps(GELU_FAR), _mm512_max_ps(_mm512_set1_ps(-GELU_FAR), x));
  const __m512 one = _mm512_set1_ps(1.0f), square = _mm512_mul_ps(c, c);
  const __m512 v = _mm512_mul_ps(c, _mm512_set1_ps(GELU_SLOPE));
  const __m512 s = logistic(_mm512_mul_ps(v, _mm512_fmadd_ps(square, _mm512_set1_ps(GELU_CUBIC), one)), &rest);
  /* x times that's slope */
  const __m512 inner = _mm512_mul_ps(v, _mm512_fmadd_ps(square, _mm512_set1_ps(3.0f * GELU_CUBIC), one));
  *slope = _mm512_fmadd_ps(_mm512_mul_ps(inner, s), rest, s);
  return s;
}

INLINE void forward(const struct gated *p, int item, int activation) {
  const bf16 *gate = p->gate, *up = p->up;
  bf16 *product = p->product;
  const int64_t end = gated_end(p, item);
  __m512 slope;
  for (int64_t i = (int64_t)item * GATED_SPAN; i < end; i += 16) {
    const __mmask16 some = first_of(end - i);
    const __m512 g = load_some(gate + i, some), u = load_some(up + i, some);
    store_some(product + i, some, _mm512_mul_ps(_mm512_mul_ps(g, share(g, activation, &slope)), u));
  }
}

INLINE void backward(const struct gated *p, int item, int activation) {
  const bf16 *gate = p->gate, *up = p->up;
  bf16 *product = p->product, *grad = p->grad, *grad_up = p->grad_up;
  const int64_t end = gated_end(p, item);
  __m512 slope;
  for (int64_t i = (int64_t)item * GATED_SPAN; i < end; i += 16) {
    const __mmask16 some = first_of(end - i);
    const __m512 d = load_some(grad + i, some), g = load_some(gate + i, some), u = load_some(up + i, some);
    const __m512 active = _mm512_mul_ps(g, share(g, activation, &slope));
    store_some(product + i, some, _mm512_mul_ps(active, u));
    store_some(grad_up + i, some, _mm512_mul_ps(d, active));
    store_some(grad + i, some, _mm512_mul_ps(_mm512_mul_ps(d, u), slope));
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

void gated_forward_16(struct pool *pool, struct gated *gated) {
  pool_run(pool, forward_part, gated, gated_parts(gated));
}

void gated_backward_16(struct pool *pool, struct gated *gated) {
  pool_run(pool, backward_part, gated, gated_parts(gated));
}

WIDE_END
#endif
