/* The gate of a feed-forward block, act(gate) * up, and its gradients. */
#pragma once

#include <stdint.h>

struct pool;

enum activation { SILU = 1, GELU_TANH = 2 }; /* as library.py has them */

#define GELU_CUBIC 0.044715f
#define GELU_SLOPE 1.5957691216f /* twice the square root of 2 / pi: see gelu8 in vector.h */
#define GELU_FAR 10.0f /* from here on GELU is x, or nothing, to the last place */
#define GATED_SPAN 16384 /* numbers a thread takes at once */

/* Matrices of `count` numbers each, in any shape: float32, bfloat16 for what ends in _16.
 *
 * product: act(gate) * up; made forward and, as it is not kept, backward again.
 * grad: of the product; becomes gate's. grad_up: up's. Both backward only.
 */
struct gated {
  const void *gate, *up;
  void *product, *grad, *grad_up;
  int64_t count;
  int32_t activation;
};

static inline int gated_parts(const struct gated *p) { return (int)((p->count + GATED_SPAN - 1) / GATED_SPAN); }

static inline int64_t gated_end(const struct gated *p, int64_t item) {
  const int64_t end = (item + 1) * GATED_SPAN;
  return end < p->count ? end : p->count;
}

void gated_forward(struct pool *pool, struct gated *gated);
void gated_backward(struct pool *pool, struct gated *gated);
void gated_forward_16(struct pool *pool, struct gated *gated);
void gated_backward_16(struct pool *pool, struct gated *gated);
