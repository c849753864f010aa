/* Matrix products by AMX tiles: 16 rows times 16 outputs at once, over 32 inputs of 16 bits or 64 of 8. With
 * BFLOAT16_TILES inputs are rounded to bfloat16 and sums are float32; INT8_TILES gives what INT8 gives, to the bit. Only
 * where wide_tiles has said yes. */
#pragma once

#include "product.h"

/* Inputs of one product as tiles want them, TILES_COMPRESSED as BFLOAT16_TILES. Rows are dealt to tiles of one height, at most 16; the last may have more
 * rows than there are, and nobody looks at their sums.
 *
 * BFLOAT16_TILES: x (tiles, inputs / 32, height, 32) of bfloat16. INT8_TILES: x (blocks, tiles, BLOCK / 64, 2, height,
 * 64) bytes, the 16 bits of `struct narrow` as two digits, the higher signed, the lower not. */
struct tiled {
  char *x;
  float *scale; /* (blocks, rows), INT8_TILES alone */
  int rows, tiles, height;
};

static inline int by_tiles(int kind) { return kind >= BFLOAT16_TILES; }

/* Rows that are multiplied at once: so many that their inputs stay near the processor while all weights pass. */
int tiled_rows(const struct product *it, int rows);

/* Bytes of memory for `rows` rows, at most tiled_rows, and where things lie in them. */
long tiled_room(const struct product *it, int rows);
struct tiled tiled_in(const struct product *it, int rows, char *room);

/* Rows for which sums need room. */
static inline long tiled_height(int rows) { return rows + (rows + 15) / 16; }

/* Write one row's inputs. */
void tiled_row(const struct product *it, const float *x, int row, const struct tiled *to);

/* The thread's tiles get their shapes, and are given back: others use them, too. */
void tiles_begin(const struct tiled *in);
void tiles_end(void);

/* sums and more (tiles * height, 16) of two panels, which may be the same, before scale and bias. Every sum runs over
 * its inputs in their order, whatever the number of rows. The memory of y (rows, 32), `ldy` floats a row, is asked for:
 * it is written next; NULL where it is not. */
void tiled_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums, float *more,
                float *y, long ldy);
