/* The gate of a feed-forward block, act(gate) * up, and its gradients. */
#pragma once

#include <stdint.h>

struct pool;

enum activation { SILU = 1, GELU_TANH = 2 }; /* as library.py has them */

/* Matrices of `count` numbers each, in any shape.
 *
 * grad: of the product; unused forward; becomes gate's.
 * out: the product; backward up's gradient.
 */
struct gated {
  const float *gate, *up;
  float *grad, *out;
  int64_t count;
  int32_t activation;
};

void gated_forward(struct pool *pool, struct gated *gated);
void gated_backward(struct pool *pool, struct gated *gated);
