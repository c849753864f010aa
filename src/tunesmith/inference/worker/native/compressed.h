/* Weights of bfloat16 in 12 bits instead of 16, and the same to the bit: a step reads a quarter less from memory.
 *
 * The upper eight bits of a bfloat16 are its sign and most of its exponent, and hardly any weight of a panel has others
 * than the sixteen that are most frequent there (arXiv:2411.05239, arXiv:2504.11651): they are written in four bits. The
 * lower eight bits stay as they are, and what has other upper bits is written whole beside it.
 *
 * A panel begins with a head, whole lines of 64 bytes: its sixteen upper bytes, and of each chunk of CHUNK tiles how many
 * weights are exceptions, in 16 bits. A tile is 32 inputs of its outputs, in whichever order BFLOAT16_TILES or BFLOAT16 has
 * them. Each chunk is its tiles, COMPRESSED bytes each, and its exceptions, filled up to whole lines: place in the chunk
 * times 65536 plus the weight, in 32 bits. 128 weights are 128 lower bytes and 64 bytes of two codes of upper ones, those of
 * the first 64 in the lower halves; each sixteen in the order in which unpacking bytes of registers wants them. */
#pragma once

#include "pool.h"
#include "tiles.h"

#define BYTES 1024     /* of a tile of weights */
#define COMPRESSED 768 /* the same, compressed */
#define CHUNK 4        /* tiles */

static inline int tiles_of_inputs(int inputs) { return (inputs + 31) / 32; }

static inline int chunks_of_inputs(int inputs) { return (tiles_of_inputs(inputs) + CHUNK - 1) / CHUNK; }

static inline long head_bytes(int inputs) { return (16 + 2 * chunks_of_inputs(inputs) + 63) / 64 * 64; }

static inline long exception_bytes(int count) { return (4L * count + 63) / 64 * 64; }

/* The weights of one panel, read a few tiles at a time. */
struct chunks {
  const uint8_t *at, *end; /* of the panel */
  const uint8_t *next;     /* where reading goes on after it */
  const uint8_t *upper;
  const uint16_t *exceptions; /* of the chunks to come */
  int tiles;                  /* to come */
};

/* `other`: the panel that is read at the same time, or the same; a pair of neighbours is followed by the next pair. */
struct chunks chunks_of(const struct product *it, int panel, int other);

/* Where the byte lies that will be read so many bytes later. */
static inline const uint8_t *read_later(const struct chunks *from, long bytes) {
  const uint8_t *at = from->at + bytes;
  return at < from->end ? at : at + (from->next - from->end);
}

/* The next `tiles` of them as they were: whole chunks, or all that are left. The other way is for processors with AVX-512. */
void uncompressed(struct chunks *from, int tiles, char *to);
void wide_uncompressed(struct chunks *from, int tiles, char *to);

/* sums and more (rows, 16) of two panels of TILES_COMPRESSED for at most two tiles of rows. */
void compressed_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums, float *more);

/* What the panels of weights (outputs, inputs), row by row, will take as BFLOAT16_COMPRESSED or TILES_COMPRESSED: upper
 * (panels, 16), and begin[1] and so on, where the first is to lie at line begin[0] of all. 0, or -1 without memory. */
int measure_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, uint8_t *upper,
                   uint32_t *begin);

/* Write them, after that. */
int compress_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, const uint8_t *upper,
                    const uint32_t *begin, uint8_t *to);
