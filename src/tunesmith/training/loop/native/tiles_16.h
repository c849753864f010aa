/* Numbers of bfloat16 packed into tiles (AMX), and small products of them.
 *
 * A tile has 16 rows of 64 bytes. Of a product's two factors the first lies as (16 rows, 32 along the sum), the second
 * as (16 pairs along the sum, 16 columns, 2); the result is (16, 16) of float32. So a matrix by rows is a first factor
 * summed along its rows, and turned pair by pair (`turn`) a second one; two rows side by side (`pair`) are a second
 * factor summed over the rows, and that turned a first one (`turn_pairs`). What is beyond the matrix is zero.
 */
#pragma once

#include <stdint.h>

#include "pairs_16.h"
#include "vector.h"
#include "wide.h"

#if HAVE_WIDE
WIDE_BEGIN

#define TILE 512 /* numbers of 16 bits in a tile */
#define SUMS 256 /* of float32 */
#define WIDE_INLINE static inline __attribute__((always_inline))

struct shapes {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

/* All eight tiles whole. Each item of work begins so and ends with released(): others on this thread use tiles too. */
WIDE_INLINE void shaped(void) {
  struct shapes shapes = {.palette = 1};
  for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
  __asm__ volatile("" : : "r"(&shapes) : "memory"); /* all of it is read, which compilers do not know */
  _tile_loadconfig(&shapes);
}

WIDE_INLINE void released(void) { _tile_release(); }

/* Tiles are read and written behind the compiler's back. */
WIDE_INLINE void settled(void) { __asm__ volatile("" ::: "memory"); }

/* A product rounded before anything is added to it. */
WIDE_INLINE __m512 alone(__m512 product) {
  __asm__("" : "+v"(product));
  return product;
}

/* A factor's tiles: how far apart along the sum and across it. */
struct strip {
  const uint16_t *at;
  int64_t along, across;
};

/* Four tiles of sums, `down` and `right` apart, their rows `stride` bytes, (+)= a b over `steps` of 32. */
WIDE_INLINE void product4(struct strip a, struct strip b, int64_t steps, int added, float *c, int64_t down,
                          int64_t right, int64_t stride) {
  settled();
  if (added) {
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + right, stride);
    _tile_loadd(2, c + down, stride);
    _tile_loadd(3, c + down + right, stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < steps; i++) {
    _tile_loadd(4, a.at + i * a.along, 64);
    _tile_loadd(6, b.at + i * b.along, 64);
    _tile_loadd(7, b.at + i * b.along + b.across, 64);
    _tile_loadd(5, a.at + i * a.along + a.across, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + right, stride);
  _tile_stored(2, c + down, stride);
  _tile_stored(3, c + down + right, stride);
  settled();
}

/* Puts a factor of two tiles across and one or two along into registers, for half_product. */
WIDE_INLINE void kept(struct strip b, int64_t steps) {
  settled();
  _tile_loadd(4, b.at, 64);
  _tile_loadd(5, b.at + b.across, 64);
  if (steps == 1) return;
  _tile_loadd(6, b.at + b.along, 64);
  _tile_loadd(7, b.at + b.along + b.across, 64);
}

WIDE_INLINE void half_product(const uint16_t *a, int64_t steps, float *c, int64_t right, int64_t stride) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(2, a, 64);
  _tile_dpbf16ps(0, 2, 4);
  _tile_dpbf16ps(1, 2, 5);
  if (steps == 2) {
    _tile_loadd(3, a + TILE, 64);
    _tile_dpbf16ps(0, 3, 6);
    _tile_dpbf16ps(1, 3, 7);
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + right, stride);
}

/* Which of 32 numbers from `d` on a row of `dim`, a multiple of 8, has. */
WIDE_INLINE __mmask32 within(int d, int dim) { return dim - d >= 32 ? ~0u : dim <= d ? 0 : (1u << (dim - d)) - 1; }

/* 32 numbers of each of `count` rows, zeros where one is not there. */
WIDE_INLINE void rows32(const uint16_t *from, int64_t stride, int64_t rows, __mmask32 mask, int count, __m512i *to) {
  if (rows >= count) {
#pragma GCC unroll 32
    for (int i = 0; i < count; i++) to[i] = _mm512_maskz_loadu_epi16(mask, from + i * stride);
  } else {
    for (int i = 0; i < count; i++)
      to[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, from + i * stride) : _mm512_setzero_si512();
  }
}

WIDE_INLINE void tile_of(const __m512i r[16], uint16_t *to) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * 32, r[i]);
}

/* Rows, their columns beside each other in `to`: (rows / 16, width / 32, 16, 32). */
WIDE_INLINE void lay(const uint16_t *from, int64_t stride, int64_t rows, int64_t padded, int dim, int width,
                     uint16_t *to) {
  for (int64_t first = 0; first < padded; first += 16)
    for (int d = 0; d < width; d += 32, to += TILE) {
      __m512i r[16];
      rows32(from + first * stride + d, stride, rows - first, within(d, dim), 16, r);
      tile_of(r, to);
    }
}

/* (rows / 16, width / 32, 16 pairs, 16 rows, 2). */
WIDE_INLINE void turn(const uint16_t *from, int64_t stride, int64_t rows, int64_t padded, int dim, int width,
                      uint16_t *to) {
  for (int64_t first = 0; first < padded; first += 16)
    for (int d = 0; d < width; d += 32, to += TILE) {
      __m512i r[16];
      rows32(from + first * stride + d, stride, rows - first, within(d, dim), 16, r);
      turned16(r);
      tile_of(r, to);
    }
}

/* Sixteen columns of two rows side by side, the low or the high half. */
WIDE_INLINE __m512i side_by_side(__m512i a, __m512i b, int high) {
  return _mm512_permutex2var_epi16(a, high ? twice_each(16, 48) : twice_each(0, 32), b);
}

WIDE_INLINE void pairs32(const uint16_t *from, int64_t stride, int64_t rows, __mmask32 mask, __m512i low[16],
                         __m512i high[16]) {
  __m512i r[32];
  rows32(from, stride, rows, mask, 32, r);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    low[i] = side_by_side(r[2 * i], r[2 * i + 1], 0);
    high[i] = side_by_side(r[2 * i], r[2 * i + 1], 1);
  }
}

/* (rows / 32, width / 16, 16 pairs, 16 columns, 2). */
WIDE_INLINE void pair(const uint16_t *from, int64_t stride, int64_t rows, int64_t padded, int dim, int width,
                      uint16_t *to) {
  for (int64_t first = 0; first < padded; first += 32)
    for (int d = 0; d < width; d += 32, to += 2 * TILE) {
      __m512i low[16], high[16];
      pairs32(from + first * stride + d, stride, rows - first, within(d, dim), low, high);
      tile_of(low, to);
      tile_of(high, to + TILE);
    }
}

/* (rows / 32, width / 16, 16 columns, 32 rows). */
WIDE_INLINE void turn_pairs(const uint16_t *from, int64_t stride, int64_t rows, int64_t padded, int dim, int width,
                            uint16_t *to) {
  for (int64_t first = 0; first < padded; first += 32)
    for (int d = 0; d < width; d += 32, to += 2 * TILE) {
      __m512i low[16], high[16];
      pairs32(from + first * stride + d, stride, rows - first, within(d, dim), low, high);
      turned16(low);
      turned16(high);
      tile_of(low, to);
      tile_of(high, to + TILE);
    }
}

/* Rows out of their sums (rows / 16, width / 16, 16 columns, 16 rows), each times its own of `by`. */
WIDE_INLINE void rows_of(const float *sums, const float *by, int64_t rows, int dim, int width, uint16_t *to,
                         int64_t stride) {
  for (int64_t first = 0; first < rows; first += 16) {
    const __m512 by16 = _mm512_loadu_ps(by + first);
    for (int d = 0; d < width; d += 32, sums += 2 * SUMS) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        const __m512 even = _mm512_mul_ps(by16, _mm512_load_ps(sums + 32 * i));
        const __m512 odd = _mm512_mul_ps(by16, _mm512_load_ps(sums + 32 * i + 16));
        r[i] = halves_paired(narrowed(even, odd));
      }
      turned16(r);
      const __mmask32 mask = within(d, dim);
      for (int i = 0; i < 16 && first + i < rows; i++)
        _mm512_mask_storeu_epi16(to + (first + i) * stride + d, mask, r[i]);
    }
  }
}

WIDE_END
#endif
