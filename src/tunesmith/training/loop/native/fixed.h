/* Matrix products in block fixed point: sixteen bits a number, a scale for each block of a row. */
#pragma once

#include <stdint.h>

struct pool;

enum kind { FLOAT16 = 1, BFLOAT16 = 2 }; /* as library.py has them */

/* y (rows, columns) = x (rows, inner) times a weight, float32.
 *
 * weight: (columns, inner), multiplied transposed; or (inner, columns) where `plain`. Contiguous.
 * packed: scratch of fixed_scratch(rows, inner) bytes.
 */
struct product {
  const float *x;
  const void *weight;
  float *y;
  void *packed;
  int64_t rows, inner, columns;
  int32_t kind, plain;
};

int64_t fixed_scratch(int64_t rows, int64_t inner);
void fixed_product(struct pool *pool, struct product *product);

/* The digest of the sources it was compiled from. */
const char *fixed_sources(void);
