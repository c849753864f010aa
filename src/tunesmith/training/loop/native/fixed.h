/* Matrix products in block fixed point: sixteen bits a number, a scale for each block of a row. */
#pragma once

#include <stdint.h>

#include "low_rank.h"

struct pool;

enum kind { FLOAT16 = 1, BFLOAT16 = 2 }; /* as library.py has them */

/* y (rows, columns) = x (rows, inner) times a weight + bias + middle second, float32; added to y where `added`.
 * _16: x and the weight are bfloat16, and so is y but where it is to be `wide`, float32.
 *
 * weight: (columns, inner), multiplied transposed; or (inner, columns) where `plain`. Contiguous.
 * bias: (columns), or NULL.
 * first, second: (inner, rank) and (rank, columns); of rank 0 where there is no branch.
 * middle: x first, which is returned, float32; rows in sixes (_16: in thirty-twos) and ranks in sixteens, zeros behind
 *   the last.
 * packed: scratch of frozen_scratch() bytes, aligned to 64.
 */
struct product {
  const void *x, *weight;
  void *y;
  void *packed;
  const float *bias;
  float *middle;
  struct factor first, second;
  int64_t rows, inner, columns, rank;
  int32_t kind, plain, added, wide;
};

int64_t frozen_scratch(const struct pool *pool, const struct product *product);
void frozen_product(struct pool *pool, const struct product *product);

int64_t frozen_scratch_16(const struct pool *pool, const struct product *product);
void frozen_product_16(struct pool *pool, const struct product *product);

/* The digest of the sources it was compiled from. */
const char *trainer_sources(void);
