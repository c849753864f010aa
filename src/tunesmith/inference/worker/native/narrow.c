/* Products with weights of 8 bits, in integers: 16 weights of a pair of inputs are multiplied by one instruction, and
 * only a block's sums become float32. */
#include <math.h>
#include <string.h>

#include "product.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST 32767.0f /* an input: a block of them times weights, even 128 above what they are, is within 32 bits */
#define LEAST 1e-30f  /* of a block's largest: below, its scale would have no inverse, and its inputs are zeros */

static int blocks_of(int inputs) { return (inputs + BLOCK - 1) / BLOCK; }

long narrow_room(const struct product *it, int rows) {
  if (it->kind != INT8) return 0;
  return (long)blocks_of(it->inputs) * rows * (BLOCK * (long)sizeof(int16_t) + 8) + 64;
}

struct narrow narrow_in(const struct product *it, int rows, char *room) {
  const long all = (long)blocks_of(it->inputs) * rows;
  int16_t *x = (int16_t *)room;
  float *scale = (float *)(x + all * BLOCK);
  return (struct narrow){x, scale, (int32_t *)(scale + all), rows};
}

void narrow_block(const float *x, int some, int16_t *to, float *scale, int32_t *start) {
  float last[BLOCK] = {0};
  if (some < BLOCK) x = memcpy(last, x, sizeof(float) * some);
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), ones = _mm256_set1_epi16(1);
  __m256i top = _mm256_setzero_si256(); /* as integers: what is no number is above what is infinite */
  for (int k = 0; k < BLOCK; k += 8)
    top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + k)), magnitude));
  int32_t each[8], bits = 0;
  _mm256_storeu_si256((__m256i *)each, top);
  for (int i = 0; i < 8; i++) bits = each[i] > bits ? each[i] : bits;
  float most;
  memcpy(&most, &bits, sizeof most);
  if (!isfinite(most)) {
    memset(to, 0, sizeof(int16_t) * BLOCK);
    *scale = NAN, *start = 0;
    return;
  }
  most = most > LEAST ? most : LEAST;
  const __m256 by = _mm256_set1_ps(MOST / most);
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < BLOCK; k += 16) {
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), by));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + 8), by));
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    _mm256_storeu_si256((__m256i *)(to + k), both);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(both, ones));
  }
  _mm256_storeu_si256((__m256i *)each, sum);
  *scale = most / MOST;
  *start = 0;
  for (int i = 0; i < 8; i++) *start -= each[i] * 128;
}

void narrow_row(const struct product *it, const float *x, int row, const struct narrow *to) {
  for (int b = 0; b < blocks_of(it->inputs); b++, x += BLOCK) {
    const long at = (long)b * to->rows + row;
    const int some = it->inputs - b * BLOCK;
    narrow_block(x, some < BLOCK ? some : BLOCK, to->x + at * BLOCK, to->scale + at, to->start + at);
  }
}

/* One pair of inputs: c[0] += lower + 256 upper, which saves taking the lower half out, and c[1] += upper. */
INLINE void pair_of(const int16_t *x, const uint8_t *w, int rows, __m256i c[TILE][2]) {
  const __m256i both = _mm256_loadu_si256((const __m256i *)w), high = _mm256_srai_epi16(both, 8);
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++) {
    int32_t pair;
    memcpy(&pair, x + m * BLOCK, sizeof pair);
    const __m256i one = _mm256_set1_epi32(pair);
    c[m][0] = _mm256_add_epi32(c[m][0], _mm256_madd_epi16(one, both));
    c[m][1] = _mm256_add_epi32(c[m][1], _mm256_madd_epi16(one, high));
    __asm__("" : "+x"(c[m][0]), "+x"(c[m][1])); /* else the compiler adds two pairs first and is out of registers */
  }
}

/* sums (rows, 16) += a block's; inlined with `rows` known, so that the integers stay in registers */
INLINE void tile(const int16_t *x, const float *scale, const int32_t *start, const uint8_t *w, int inputs, int rows,
                 float *sums) {
  __m256i c[TILE][2];
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++) c[m][0] = _mm256_set1_epi32(start[m]), c[m][1] = _mm256_setzero_si256();
  for (const uint8_t *end = w + inputs * PANEL; w < end; w += QUAD * PANEL, x += QUAD) {
    _mm_prefetch(w + AHEAD, _MM_HINT_T0);
    pair_of(x, w, rows, c);
    pair_of(x + 2, w + 2 * PANEL, rows, c);
  }
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++, sums += PANEL) {
    const __m256 by = _mm256_set1_ps(scale[m]);
    /* 256 times the upper half may have gone over 32 bits; without it the rest is right, as everything is modulo 2^32 */
    const __m256i low = _mm256_sub_epi32(c[m][0], _mm256_slli_epi32(c[m][1], 8));
    _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), by, _mm256_loadu_ps(sums)));
    _mm256_storeu_ps(sums + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(c[m][1]), by, _mm256_loadu_ps(sums + 8)));
  }
}

#define TILED(ROWS)                                                                                              \
  static void tile_##ROWS(const int16_t *x, const float *scale, const int32_t *start, const uint8_t *w, int inputs, \
                          float *sums) {                                                                         \
    tile(x, scale, start, w, inputs, ROWS, sums);                                                                \
  }

TILED(1)
TILED(2)
TILED(3)
TILED(4)
TILED(5)
TILED(6)

typedef void (*tile_fn)(const int16_t *, const float *, const int32_t *, const uint8_t *, int, float *);
static const tile_fn TILE_OF[] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

void narrow_sums(const struct product *it, int panel, const struct narrow *in, float *sums) {
  const uint8_t *w = (const uint8_t *)it->weight + panel_bytes(it->kind, it->inputs) * panel;
  memset(sums, 0, sizeof(float) * PANEL * in->rows);
  for (int b = 0; b < blocks_of(it->inputs); b++, w += BLOCK * PANEL) {
    const int left = padded(it->kind, it->inputs) - b * BLOCK, inputs = left < BLOCK ? left : BLOCK;
    long at = (long)b * in->rows;
    float *to = sums;
    for (int rows = in->rows, some; rows > 0; rows -= some, at += some, to += some * PANEL) {
      const int tiles = (rows + TILE - 1) / TILE;
      some = (rows + tiles - 1) / tiles;
      TILE_OF[some - 1](in->x + at * BLOCK, in->scale + at, in->start + at, w, inputs, to);
    }
  }
}

void pack_narrow(const int8_t *from, int outputs, int inputs, uint8_t *to) {
  for (int k = 0; k < padded(INT8, inputs); k += 2)
    for (int o = 0; o < PANEL / 2; o++)
      for (int i = k; i < k + 2; i++, to += 2) {
        to[0] = (uint8_t)((o < outputs && i < inputs ? from[(long)o * inputs + i] : 0) + 128);
        to[1] = (uint8_t)(o + 8 < outputs && i < inputs ? from[(long)(o + 8) * inputs + i] : 0);
      }
}
