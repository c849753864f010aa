/* Weights rounded to 8 bits, with one scale an output. */
#pragma once

#include "pool.h"
#include "product.h"

/* to (outputs, inputs) and scale (outputs), so that to * scale is next to weights (outputs, inputs) of FLOAT32, FLOAT16 or
 * BFLOAT16: the largest of an output is 127. A number that is none makes its output's scale none. */
void round_outputs(struct pool *pool, int kind, const void *from, int outputs, int inputs, int8_t *to, float *scale);
