/* Tiles of bfloat16 (AMX): their shapes, and numbers packed for them.
 *
 * One instruction adds to 16 x 16 sums the products of SIDE rows of 32 numbers, as they lie, with 16 pairs of such rows
 * of the other factor, interleaved: a step of the summed dimension. Two tiles of rows and two of columns, a stripe and
 * a panel, share what is loaded: four products for four loads.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "low_rank.h"
#include "pairs_16.h"
#include "wide.h"

#define SIDE 16
#define STEP 32                  /* numbers of the summed dimension */
#define STRIPE 32                /* rows */
#define PANEL 32                 /* columns */
#define TILE (SIDE * STEP)       /* numbers of a tile */
#define PACKED (PANEL * STEP)    /* numbers of one step of a panel */
#define ROUND_UP(n, to) (((n) + (to)-1) / (to) * (to))

#if HAVE_WIDE
WIDE_BEGIN

#define UNROLL _Pragma("GCC unroll 16")

/* All eight tiles alike: what is smaller is filled up with zeros. */
static const struct {
  _Alignas(64) uint8_t palette;
  uint8_t start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} SHAPES = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

INLINE void tiles_begin(void) { _tile_loadconfig(&SHAPES); }
INLINE void tiles_end(void) { _tile_release(); }

/* What is in memory is what the compiler believes to be there: it does not know that tiles are read from it. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

INLINE __m512 widened16(const uint16_t *from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

INLINE __mmask32 mask32(int64_t count) { return count >= 32 ? ~0u : count <= 0 ? 0 : (1u << count) - 1; }
INLINE __mmask16 mask16(int64_t count) { return (__mmask16)mask32(count); }

/* One step of up to PANEL columns out of rows of `columns`, `stride` apart. */
INLINE void pack_rows16(const uint16_t *from, int64_t stride, int64_t rows, int64_t columns, uint16_t *to) {
  const __mmask32 mask = mask32(columns);
  const __m512i low = _mm512_cvtepi8_epi16(
      _mm256_setr_epi8(0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13,
                       45, 14, 46, 15, 47));
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  UNROLL for (int pair = 0; pair < SIDE; pair++, from += 2 * stride) {
    const __m512i even = _mm512_maskz_loadu_epi16(2 * pair < rows ? mask : 0, from);
    const __m512i odd = _mm512_maskz_loadu_epi16(2 * pair + 1 < rows ? mask : 0, from + stride);
    _mm512_store_si512(to + pair * STEP, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_store_si512(to + TILE + pair * STEP, _mm512_permutex2var_epi16(even, high, odd));
  }
}

/* One step of SIDE columns out of columns of up to STEP numbers, `stride` apart. */
INLINE void pack_columns16(const uint16_t *from, int64_t stride, int64_t rows, int64_t columns, uint16_t *to) {
  const __mmask32 mask = mask32(rows);
  __m512i r[16];
  UNROLL for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi16(i < columns ? mask : 0, from + i * stride);
  turned16(r);
  UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * STEP, r[i]);
}

/* One step of a panel of a factor, from `row` and `column` on, rounded. */
static inline void pack_factor16(const struct factor *factor, int64_t rows, int64_t columns, int64_t row,
                                 int64_t column, uint16_t *to) {
  _Alignas(64) uint16_t rounded[STEP * PANEL];
  const int64_t tall = rows - row < STEP ? rows - row : STEP;
  const int64_t across = columns - column < PANEL ? columns - column : PANEL;
  const float *from = factor->values + row * factor->row + column * factor->column;
  const __m512 scale = _mm512_set1_ps(factor->scale);
  const int turned = factor->row == 1 && factor->column != 1;
  const int64_t lines = turned ? across : tall, here = turned ? tall : across;
  const int64_t stride = turned ? factor->column : factor->row, apart = turned ? factor->row : factor->column;
  for (int64_t line = 0; line < lines; line++, from += stride) {
    __m512 v[2];
    if (apart == 1) {
      v[0] = _mm512_maskz_loadu_ps(mask16(here), from);
      v[1] = _mm512_maskz_loadu_ps(mask16(here - SIDE), from + SIDE);
    } else {
      float spread[STEP] = {0};
      for (int64_t i = 0; i < here; i++) spread[i] = from[i * apart];
      v[0] = _mm512_loadu_ps(spread), v[1] = _mm512_loadu_ps(spread + SIDE);
    }
    _mm512_store_si512(rounded + line * STEP, narrowed(_mm512_mul_ps(scale, v[0]), _mm512_mul_ps(scale, v[1])));
  }
  if (turned) {
    pack_columns16(rounded, STEP, tall, across, to);
    pack_columns16(rounded + TILE, STEP, tall, across - SIDE, to + TILE);
  } else {
    pack_rows16(rounded, STEP, tall, across, to);
  }
}

WIDE_END
#endif
