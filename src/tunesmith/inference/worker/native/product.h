/* Matrix products with weights of 32 or 16 bits, computed in float32, and of 8, computed in integers. */
#pragma once

#include <stdint.h>

#include "pool.h"
#include "vector.h"

#define PANEL 16  /* outputs whose weights lie together: (inputs, 16) */
#define TILE 6    /* rows whose sums are in registers at once, with AVX2 */
#define PAIRED 2  /* rows up to which panels are computed in pairs: there are registers for so many sums */
#define FEW 16    /* rows up to which each tile widens the weights for itself, while they come from memory */
#define BLOCK 256 /* inputs that are widened at once where there are more rows than that; INT8: those of one scale */

#define QUAD 4     /* INT8: inputs are filled up to a multiple of it */
#define AHEAD 4096 /* bytes of weights that are asked for before they are wanted: the processor asks for too few */

enum kind {
  FLOAT32, FLOAT16, BFLOAT16, INT8, BFLOAT16_COMPRESSED, /* by tiles: */ BFLOAT16_TILES, INT8_TILES, TILES_COMPRESSED
};

/* y = x W^T * scale + bias; weights in panels, the last filled up with zeros.
 *
 * A panel of BFLOAT16 has its outputs in the order 0, 8, 1, 9, ...: then the lower and the upper halves of 32 bits are
 * eight outputs each. One of INT8 has two inputs of an output beside each other, outputs 0 to 7 in the lower halves of
 * 16 bits and 128 above what they are, outputs 8 to 15 in the upper halves. Those of tiles (tiles.h) have four bytes of
 * an output, two or four of its inputs, beside the next output's, and whole tiles of inputs. BFLOAT16_COMPRESSED and
 * TILES_COMPRESSED are BFLOAT16 and BFLOAT16_TILES in fewer bits: compressed.h. */
struct product {
  const void *weight;
  const float *scale; /* (outputs), INT8 and INT8_TILES alone */
  const float *bias;  /* (outputs), or NULL */
  const uint32_t *begin; /* (panels + 1), compressed ones alone: where each lies, in lines of 64 bytes */
  int32_t kind, inputs, outputs;
};

static inline int panels_of(const struct product *it) { return (it->outputs + PANEL - 1) / PANEL; }

/* Bytes of the numbers that one panel has for one input. */
static inline long stride_of(int kind) {
  return PANEL * (kind == FLOAT32 ? 4 : kind == INT8 || kind == INT8_TILES ? 1 : 2);
}

static inline int padded(int kind, int inputs) {
  const int tiles = kind == BFLOAT16_TILES || kind == TILES_COMPRESSED;
  const int by = kind == INT8 ? QUAD : tiles ? 32 : kind == INT8_TILES ? 64 : 1;
  return (inputs + by - 1) / by * by;
}

static inline long panel_bytes(int kind, int inputs) { return stride_of(kind) * padded(kind, inputs); }

/* sums (rows, 16) of one panel of 32 or 16 bits, before the bias. Every sum runs over the inputs in their order,
 * whatever the number of rows, so that a row's numbers do not depend on what else is computed.
 *
 * block: room for BLOCK * PANEL floats, used with more than FEW rows. */
void panel_sums(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums, float *block);

/* The same for two panels at once and up to PAIRED rows, which lie one after the other. */
void panel_sums_of_two(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                       float *more);

/* Inputs of an INT8 product: (blocks, rows, BLOCK) of 16 bits, filled up with zeros. A row's block has a scale of its
 * own, so its numbers keep 15 bits of the largest near them, and depend on nothing else. */
struct narrow {
  int16_t *x;
  float *scale;   /* (blocks, rows); not a number where an input is none or infinite */
  int32_t *start; /* (blocks, rows): what the sums of outputs 0 to 7 begin with, since their weights are 128 above */
  int rows;
};

/* Bytes of memory for it, and where things lie in them. */
long narrow_room(const struct product *it, int rows);
struct narrow narrow_in(const struct product *it, int rows, char *room);

/* BLOCK inputs, the last of which from `some` on are zeros; its scale, and what `struct narrow` says of `start`. */
void narrow_block(const float *x, int some, int16_t *to, float *scale, int32_t *start);

/* Write one row's inputs. */
void narrow_row(const struct product *it, const float *x, int row, const struct narrow *to);

/* sums (rows, 16) of one panel, before scale and bias: those of a block exact, one block after the other. */
void narrow_sums(const struct product *it, int panel, const struct narrow *in, float *sums);

/* The weights of one panel, (outputs, inputs) row by row, as they are multiplied; missing outputs are zeros. */
void pack_panel(int kind, const void *from, int outputs, int inputs, void *to);

/* All panels, one after the other. */
void pack_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, void *to);

/* The same as pack_panel for INT8 alone. */
void pack_narrow(const int8_t *from, int outputs, int inputs, uint8_t *to);
