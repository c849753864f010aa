/* Division of rows by their root mean square (arXiv:1910.07467), and its gradient. */
#pragma once

#include <stdint.h>

struct pool;

#define NORM_SPAN 16384 /* numbers a thread takes at once */

/* y (rows, width) = scale * x / sqrt(mean of the row's squares + eps).
 *
 * x, y and grad are float32, bfloat16 for what ends in _16; scale and over are float32.
 *
 * over (rows): one over that root, made forward and read back.
 * grad: of y, read back only; then y is the gradient of x.
 */
struct norm {
  const void *x;
  const float *scale;
  const void *grad;
  void *y;
  float *over;
  int64_t rows, width;
  float eps;
};

static inline int norm_rows(const struct norm *p) { return p->width < NORM_SPAN ? (int)(NORM_SPAN / p->width) : 1; }

static inline int norm_parts(const struct norm *p) {
  const int each = norm_rows(p);
  return (int)((p->rows + each - 1) / each);
}

void norm_forward(struct pool *pool, struct norm *norm);
void norm_backward(struct pool *pool, struct norm *norm);
void norm_forward_16(struct pool *pool, struct norm *norm);
void norm_backward_16(struct pool *pool, struct norm *norm);
