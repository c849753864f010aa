/* The low-rank branch beside a product with a frozen weight, and its gradients, in float32.
 *
 * y += (x first) second. The product in the middle is made while rows of x are in the first cache, the other one while
 * a tile of y is in registers: neither x nor y is read again for it.
 */
#pragma once

#include <stdint.h>

#include "tiles.h"

/* unrolled early, or compilers keep sums in memory */
#define EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < count; i++)

struct pool;

/* A small matrix by its strides, taken times `scale`. */
struct factor {
  const float *values;
  int64_t row, column;
  float scale;
};

/* A sum over rows: to = scale wide' low, (columns, rank) by its strides.
 *
 * wide: (rows, columns), contiguous, float32. low: (rows, rank), rows `stride` apart.
 */
struct outer {
  const void *wide;
  const float *low;
  float *to;
  int64_t columns, rank, stride, column, lane;
  float scale;
};

/* The sums of a frozen layer's branch: those of A and of B.
 *
 * packed: scratch of outer_scratch_16() bytes, aligned to 64; NULL otherwise.
 */
struct outers {
  struct outer of[2];
  int64_t rows;
  void *packed;
};

void outer_products(struct pool *pool, const struct outers *outers);

/* wide: bfloat16, which the narrow matrix is rounded to. */
int64_t outer_scratch_16(const struct outers *outers);
void outer_products_16(struct pool *pool, const struct outers *outers);

/* WIDE columns of a factor from `first` on: (rows, WIDE), zeros behind the last. */
INLINE void pack_factor(const struct factor *factor, int64_t rows, int64_t columns, int64_t first, float *to) {
  const int64_t here = columns - first < WIDE ? columns - first : WIDE;
  for (int64_t row = 0; row < rows; row++, to += WIDE) {
    const float *from = factor->values + row * factor->row + first * factor->column;
    for (int64_t lane = 0; lane < here; lane++) to[lane] = factor->scale * from[lane * factor->column];
    for (int64_t lane = here; lane < WIDE; lane++) to[lane] = 0.0f;
  }
}
