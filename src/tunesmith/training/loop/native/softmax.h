/* The numerators of a softmax, and their sums. */
#pragma once

#include <stdint.h>

struct pool;

/* x (rows, width) becomes e^(x - most), total (rows) the sum of each row. most (rows): the largest there is. */
struct softmax {
  float *x, *total;
  const float *most;
  int64_t rows, width;
};

void softmax_parts(struct pool *pool, struct softmax *softmax);
