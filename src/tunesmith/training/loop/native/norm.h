/* Division of rows by their root mean square (arXiv:1910.07467), and its gradient. */
#pragma once

#include <stdint.h>

struct pool;

/* y (rows, width) = scale * x / sqrt(mean of the row's squares + eps).
 *
 * over (rows): one over that root, made forward and read back.
 * grad: of y, read back only; then y is the gradient of x.
 */
struct norm {
  const float *x, *scale, *grad;
  float *y, *over;
  int64_t rows, width;
  float eps;
};

void norm_forward(struct pool *pool, struct norm *norm);
void norm_backward(struct pool *pool, struct norm *norm);
