/* Small products in float32 with all sums in registers (AVX2, FMA).
 *
 * What is multiplied lies in panels of WIDE columns: (width / WIDE, rows, WIDE), filled up with zeros to whole panels.
 * Each sum is taken over the inner dimension from its first place to its last, whatever tile it is in.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "vector.h"

#define INLINE static inline __attribute__((always_inline))
#define TALL 6 /* rows of a tile, and columns: 12 sums, two vectors and a number fill the registers */
#define WIDE 16

/* sums += a b; a: `rows` rows `row` apart, their numbers `step` apart; b: (inner, WIDE). */
INLINE void multiplied(__m256 sums[TALL][2], int rows, const float *a, int row, int step, const float *b,
                       int64_t inner) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < inner; i++) {
    const __m256 b0 = _mm256_loadu_ps(b + i * WIDE), b1 = _mm256_loadu_ps(b + i * WIDE + 8);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      const __m256 x = _mm256_broadcast_ss(a + i * step + r * row);
      sums[r][0] = _mm256_fmadd_ps(x, b0, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(x, b1, sums[r][1]);
    }
  }
}

/* One call for each number of rows there may be, so that each has its sums in registers. */
#define OF_ROWS(rows, TILE)                             \
  switch (rows) {                                       \
    case 1: TILE(1); break;                             \
    case 2: TILE(2); break;                             \
    case 3: TILE(3); break;                             \
    case 4: TILE(4); break;                             \
    case 5: TILE(5); break;                             \
    default: TILE(6);                                   \
  }

INLINE void dot_tile(const float *a, int64_t apart, const float *b, int width, int rows, float *c, int stride) {
  __m256 sums[TALL][2];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int at = 0; at < width; at += WIDE) multiplied(sums, rows, a + at * apart, WIDE, 1, b + at * WIDE, WIDE);
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) {
    _mm256_storeu_ps(c + r * stride, sums[r][0]);
    _mm256_storeu_ps(c + r * stride + 8, sums[r][1]);
  }
}

/* c (rows, WIDE), rows `stride` apart, = rows of a times b; a: panels of `apart` rows each; b: (width, WIDE). */
static inline void dots(const float *a, int64_t apart, const float *b, int width, int rows, float *c, int stride) {
#define DOTS(n) dot_tile(a, apart, b, width, n, c, stride)
  OF_ROWS(rows, DOTS)
#undef DOTS
}

INLINE void sum_tile(const float *a, int row, int step, const float *b, int64_t inner, int rows, float *c) {
  __m256 sums[TALL][2];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) {
    sums[r][0] = _mm256_loadu_ps(c + r * WIDE);
    sums[r][1] = _mm256_loadu_ps(c + r * WIDE + 8);
  }
  multiplied(sums, rows, a, row, step, b, inner);
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) {
    _mm256_storeu_ps(c + r * WIDE, sums[r][0]);
    _mm256_storeu_ps(c + r * WIDE + 8, sums[r][1]);
  }
}

/* Eight by eight numbers, rows `stride` apart, turned: columns of `rows` rows, what is below zero, to WIDE apart. */
INLINE void turned8(const float *from, int64_t stride, int rows, float *to) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; i++) r[i] = i < rows ? _mm256_loadu_ps(from + i * stride) : _mm256_setzero_ps();
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * WIDE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * WIDE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

/* Rows of `dim` numbers, a multiple of 8, turned: (rows / WIDE, width, WIDE). */
static inline void turn(const float *from, int64_t stride, int64_t rows, int dim, int width, float *to) {
  for (int64_t first = 0; first < rows; first += WIDE, to += WIDE * width) {
    for (int half = 0; half < WIDE; half += 8) {
      const int64_t left = rows - first - half;
      const int here = left < 0 ? 0 : left < 8 ? (int)left : 8;
      const float *at = from + (first + half) * stride;
      if (here == 8)
        for (int d = 0; d < dim; d += 8) turned8(at + d, stride, 8, to + d * WIDE + half);
      else
        for (int d = 0; d < dim; d += 8) turned8(at + d, stride, here, to + d * WIDE + half);
    }
    if (dim < width) memset(to + dim * WIDE, 0, sizeof(float) * WIDE * (width - dim));
  }
}

/* Rows of `dim` numbers, a multiple of 8, times `by`, as panels of `apart` rows each. */
static inline void panels(const float *from, int64_t stride, int64_t rows, int dim, int width, float by, int64_t apart,
                          float *to) {
  const __m256 by8 = _mm256_set1_ps(by);
  for (int64_t row = 0; row < rows; row++, from += stride)
    for (int d = 0; d < width; d += 8) {
      const __m256 v = d < dim ? _mm256_mul_ps(by8, _mm256_loadu_ps(from + d)) : _mm256_setzero_ps();
      _mm256_storeu_ps(to + d / WIDE * apart * WIDE + row * WIDE + d % WIDE, v);
    }
}

/* A row out of panels, times `by`. */
INLINE void row_of(const float *panels, int64_t apart, int64_t row, int dim, float by, float *to) {
  const __m256 by8 = _mm256_set1_ps(by);
  for (int d = 0; d < dim; d += 8) {
    const __m256 v = _mm256_loadu_ps(panels + d / WIDE * apart * WIDE + row * WIDE + d % WIDE);
    _mm256_storeu_ps(to + d, _mm256_mul_ps(by8, v));
  }
}
