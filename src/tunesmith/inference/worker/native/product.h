/* Matrix products with weights of 32, 16 or 8 bits, computed in float32. */
#pragma once

#include <stdint.h>

#include "vector.h"

#define PANEL 16 /* outputs whose weights lie together: (inputs, 16) */
#define TILE 6   /* rows whose sums are in registers at once */
#define PAIRED 2 /* rows up to which panels are computed in pairs: there are registers for so many sums */
#define FEW 16   /* rows up to which each tile widens the weights for itself, while they come from memory */
#define BLOCK 256 /* inputs that are widened at once where there are more rows than that */

enum kind { FLOAT32, FLOAT16, BFLOAT16, INT8 };

/* y = x W^T * scale + bias; weights in panels, the last filled up with zeros.
 *
 * A panel of BFLOAT16 has its outputs in the order 0, 8, 1, 9, ...: then the lower and the upper halves of 32 bits are
 * eight outputs each. */
struct product {
  const void *weight;
  const float *scale; /* (outputs), INT8 alone */
  const float *bias;  /* (outputs), or NULL */
  int32_t kind, inputs, outputs;
};

static inline int panels_of(const struct product *it) { return (it->outputs + PANEL - 1) / PANEL; }

/* Bytes of the numbers that one panel has for one input. */
static inline long stride_of(const struct product *it) {
  return PANEL * (it->kind == FLOAT32 ? 4 : it->kind == INT8 ? 1 : 2);
}

/* sums (rows, 16) of one panel, before scale and bias. Every sum runs over the inputs in their order, whatever the
 * number of rows, so that a row's numbers do not depend on what else is computed.
 *
 * block: room for BLOCK * PANEL floats, used with more than FEW rows. */
void panel_sums(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums, float *block);

/* The same for two panels at once and up to PAIRED rows, which lie one after the other. */
void panel_sums_of_two(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                       float *more);

/* The same for numbers in memory: sums (rows, 16) += x (rows, inputs) w (inputs, 16), w with `ldw` floats an input. */
void add_sums(const float *x, long ldx, const float *w, long ldw, int inputs, int rows, float *sums, long lds);

/* The weights of one panel, (outputs, inputs) row by row, as they are multiplied; missing outputs are zeros. */
void pack_panel(int kind, const void *from, int outputs, int inputs, void *to);
