/* Rows and weights as integers of sixteen bits, a scale for each of their blocks (see fixed.c for the bounds). */
#pragma once

#include <string.h>

#include "fixed.h"

#define BLOCK 512 /* at most: a panel of 16 columns then fills half of the first cache */
#define MOST_NORM 46000.0f
#define MOST 32700.0f
#define TINY 1e-30f /* a block without a larger number counts as zeros */

/* How the summed dimension is cut: evenly, at even places. */
struct cut {
  int64_t inner, blocks, length;
};

static struct cut cut_of(int64_t inner) {
  const int64_t blocks = inner > BLOCK ? (inner + BLOCK - 1) / BLOCK : 1;
  const int64_t length = (inner + blocks - 1) / blocks;
  const int64_t even = length ? (length + 15) / 16 * 16 : 16;
  return (struct cut){inner, inner ? (inner + even - 1) / even : 1, even};
}

INLINE __m256 widened(const uint16_t *w, int kind) {
  const __m128i half = _mm_loadu_si128((const __m128i *)w);
  if (kind == FLOAT16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m256 magnitude(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

/* The scale of a block from its largest magnitude, and the sum of squares of what is left when divided by it. */
INLINE float scale_of(float largest, float squares) {
  if (largest < TINY) return squares == squares ? 0.0f : squares;
  const float by_norm = sqrtf(squares) * (1.0f / MOST_NORM);
  return largest * (by_norm < 1.0f / MOST ? 1.0f / MOST : by_norm);
}

INLINE float reciprocal(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

/* Sixteen numbers as integers, in order. */
INLINE __m256i integers(__m256 a, __m256 b, __m256 by) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(a, by)), high = _mm256_cvtps_epi32(_mm256_mul_ps(b, by));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

/* One block of a row, `length` a multiple of 16, zeros behind its end: integers to q, the scale is returned. */
INLINE float row_block(const float *v, int length, int16_t *q) {
  __m256 most = _mm256_setzero_ps(), squares = _mm256_setzero_ps(), more = _mm256_setzero_ps();
  for (int i = 0; i < length; i += 8) most = _mm256_max_ps(most, magnitude(_mm256_loadu_ps(v + i)));
  const float largest = max8(most);
  const __m256 unit = _mm256_set1_ps(largest < TINY ? 0.0f : 1.0f / largest);
  for (int i = 0; i < length; i += 16) {
    const __m256 a = _mm256_mul_ps(unit, _mm256_loadu_ps(v + i)), b = _mm256_mul_ps(unit, _mm256_loadu_ps(v + i + 8));
    squares = _mm256_fmadd_ps(a, a, squares);
    more = _mm256_fmadd_ps(b, b, more);
  }
  const float scale = scale_of(largest, sum8(_mm256_add_ps(squares, more)));
  const __m256 by = _mm256_set1_ps(reciprocal(scale));
  for (int i = 0; i < length; i += 16) {
    const __m256i four = integers(_mm256_loadu_ps(v + i), _mm256_loadu_ps(v + i + 8), by);
    _mm256_storeu_si256((__m256i *)(q + i), four);
  }
  return scale;
}

/* Pairs of eight rows, side by side, `stride` apart; those of the last rows are overwritten where that is below 8. */
INLINE void transposed8(const int16_t *const rows[8], int at, int32_t *to, int stride) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(rows[i] + at)));
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++)
    _mm256_storeu_ps((float *)(to + i * stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
  for (int i = 0; i < 4; i++)
    _mm256_storeu_ps((float *)(to + (i + 4) * stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
}

/* WIDE rows of a (columns, inner) weight, one block of each: (length / 2, WIDE, 2). */
INLINE void pack_transposed(const struct product *p, struct cut cut, int64_t column, int64_t block, int kind,
                            int16_t *panel, float *scales) {
  const int64_t begin = block * cut.length;
  const int64_t here = cut.inner - begin < cut.length ? cut.inner - begin : cut.length;
  float v[BLOCK];
  uint16_t last[BLOCK];
  int16_t q[WIDE][BLOCK];
  const int16_t *rows[WIDE];
  for (int lane = 0; lane < WIDE; lane++) {
    rows[lane] = q[lane];
    const uint16_t *w = (const uint16_t *)p->weight + (column + lane) * cut.inner + begin;
    if (column + lane >= p->columns || here < cut.length) {
      memset(last, 0, sizeof last);
      if (column + lane < p->columns) memcpy(last, w, here * sizeof *w);
      w = last;
    } else if (begin + cut.length < cut.inner) {
      for (int i = 0; i < cut.length; i += 32) _mm_prefetch((const char *)(w + cut.length + i), _MM_HINT_T1);
    }
    for (int i = 0; i < cut.length; i += 8) _mm256_storeu_ps(v + i, widened(w + i, kind));
    scales[lane] = row_block(v, (int)cut.length, q[lane]);
  }
  for (int i = 0; i < cut.length; i += 16) {
    transposed8(rows, i, (int32_t *)panel + i / 2 * WIDE, WIDE);
    transposed8(rows + 8, i, (int32_t *)panel + i / 2 * WIDE + 8, WIDE);
  }
}

/* WIDE columns of an (inner, columns) weight, one block of each: as pack_transposed leaves them. */
INLINE void pack_plain(const struct product *p, struct cut cut, int64_t column, int64_t block, int kind,
                       int16_t *panel, float *scales) {
  const int64_t begin = block * cut.length;
  const int here = (int)(cut.inner - begin < cut.length ? cut.inner - begin : cut.length);
  const int64_t there = p->columns - column < WIDE ? p->columns - column : WIDE;
  float v[BLOCK][WIDE];
  __m256 most[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, squares[2] = {most[0], most[0]}, unit[2], by[2];
  for (int i = 0; i < here; i++) {
    const uint16_t *w = (const uint16_t *)p->weight + (begin + i) * p->columns + column;
    uint16_t last[WIDE] = {0};
    if (there < WIDE) w = memcpy(last, w, there * sizeof *w);
    for (int half = 0; half < 2; half++) {
      const __m256 wide = widened(w + 8 * half, kind);
      _mm256_storeu_ps(v[i] + 8 * half, wide);
      most[half] = _mm256_max_ps(most[half], magnitude(wide));
    }
  }
  for (int half = 0; half < 2; half++) {
    const __m256 counts = _mm256_cmp_ps(most[half], _mm256_set1_ps(TINY), _CMP_NLT_UQ);
    unit[half] = _mm256_and_ps(counts, _mm256_div_ps(_mm256_set1_ps(1.0f), most[half]));
  }
  for (int i = 0; i < here; i++)
    for (int half = 0; half < 2; half++) {
      const __m256 a = _mm256_mul_ps(unit[half], _mm256_loadu_ps(v[i] + 8 * half));
      squares[half] = _mm256_fmadd_ps(a, a, squares[half]);
    }
  float largest[WIDE], sums[WIDE], over[WIDE];
  for (int half = 0; half < 2; half++) {
    _mm256_storeu_ps(largest + 8 * half, most[half]);
    _mm256_storeu_ps(sums + 8 * half, squares[half]);
  }
  for (int lane = 0; lane < WIDE; lane++) {
    scales[lane] = scale_of(largest[lane], sums[lane]);
    over[lane] = reciprocal(scales[lane]);
  }
  for (int half = 0; half < 2; half++) by[half] = _mm256_loadu_ps(over + 8 * half);
  if (here < cut.length) memset(v[here], 0, (cut.length - here) * sizeof *v);
  const __m256i low = _mm256_set1_epi32(0xffff);
  for (int i = 0; i < cut.length; i += 2)
    for (int half = 0; half < 2; half++) {
      const __m256i even = _mm256_cvtps_epi32(_mm256_mul_ps(by[half], _mm256_loadu_ps(v[i] + 8 * half)));
      const __m256i odd = _mm256_cvtps_epi32(_mm256_mul_ps(by[half], _mm256_loadu_ps(v[i + 1] + 8 * half)));
      const __m256i pair = _mm256_or_si256(_mm256_and_si256(even, low), _mm256_slli_epi32(odd, 16));
      _mm256_storeu_si256((__m256i *)(panel + i * WIDE + 16 * half), pair);
    }
}

static void pack_panel(const struct product *p, struct cut cut, int64_t column, int64_t block, int16_t *panel,
                       float *scales) {
  if (p->plain && p->kind == BFLOAT16)
    pack_plain(p, cut, column, block, BFLOAT16, panel, scales);
  else if (p->plain)
    pack_plain(p, cut, column, block, FLOAT16, panel, scales);
  else if (p->kind == BFLOAT16)
    pack_transposed(p, cut, column, block, BFLOAT16, panel, scales);
  else
    pack_transposed(p, cut, column, block, FLOAT16, panel, scales);
}
