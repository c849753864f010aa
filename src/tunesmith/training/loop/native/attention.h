/* Causal attention over examples that lie one after the other, forward and backward, float32. */
#pragma once

#include <stdint.h>

struct pool;

/* Rows of `dim` numbers, those of a head `token` apart, heads `head` apart. */
struct heads {
  const float *at;
  int64_t head, token;
};

/* lengths: tokens of each example, in order; none sees another.
 * window: how many tokens are seen, its own the last of them; 0 for all.
 * out, dq (tokens, heads, dim), dk, dv (tokens, kv_heads, dim), shares (heads, tokens, 2), contiguous. `dim`: a
 * multiple of 8, at most ATTENTION_DIM.
 * shares: of each row the largest score, times log2 e, and 1 / the sum of all e^(score - largest); written forward,
 * read backward. The logarithm of the sum, one number for both, would be off by the rounding of the largest.
 * grad, dq, dk, dv: backward alone. room: scratch of attention_room(..) bytes.
 */
struct attention {
  struct heads q, k, v, grad;
  float *out, *shares, *dq, *dk, *dv;
  void *room;
  const int64_t *lengths;
  int64_t examples, tokens, window;
  int32_t heads, kv_heads, dim;
  float scale;
};

#define ATTENTION_DIM 256

int64_t attention_room(const struct attention *a, int backward);
void attention_forward(struct pool *pool, struct attention *a);
void attention_backward(struct pool *pool, struct attention *a);
