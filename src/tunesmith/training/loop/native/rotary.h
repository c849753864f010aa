/* Rotary position embeddings (arXiv:2104.09864) in the order of transformers: a number is turned with the one half a
 * head behind it. */
#pragma once

#include <stdint.h>

struct pool;

#define ROTARY_SPAN 16 /* tokens a thread takes at once */

/* y = x cos + r sin, where r is x with its halves exchanged and the first of them negative; back: x = that of y, turned
 * back, which is the gradient of the one from the other's.
 *
 * x: (tokens, heads, dim), dim contiguous, the strides of the others in numbers. y: the same, contiguous.
 * cos, sin: (tokens, dim). All bfloat16; computed in float32, rounded once.
 */
struct rotary {
  const void *x, *cos, *sin;
  void *y;
  int64_t tokens, heads, dim, token, head;
  int32_t back;
};

void rotary_16(struct pool *pool, struct rotary *rotary);
