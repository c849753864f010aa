/* Numbers of bfloat16 in registers, made ready for tiles (AMX): the engine's and the trainer's. */
#pragma once

#include <immintrin.h>

#include "wide.h"

#if HAVE_WIDE
WIDE_BEGIN

#define PAIRS_INLINE static inline __attribute__((always_inline))

/* Sixteen by sixteen numbers of 32 bits turned. */
PAIRS_INLINE void turned16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

/* 32 numbers, rounded to nearest even. */
PAIRS_INLINE __m512i narrowed(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* 0, 0, 1, 1, .. 15, 15, and `even` and `odd` added. */
PAIRS_INLINE __m512i twice_each(int even, int odd) {
  const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_add_epi16(_mm512_mullo_epi32(count, _mm512_set1_epi32(0x10001)), _mm512_set1_epi32(odd << 16 | even));
}

/* The low half beside the high half. */
PAIRS_INLINE __m512i halves_paired(__m512i a) { return _mm512_permutexvar_epi16(twice_each(0, 16), a); }

/* 2^x for x that is not above 0, to 3e-6 of itself (a polynomial with the smallest largest error on [-1/2, 1/2]); 0
 * below -127, what is no number stays none. Adding `shift` leaves the nearest integer, raised as an exponent is, in the
 * lowest bits. */
PAIRS_INLINE __m512 power16(__m512 x) {
  const __m512 shift = _mm512_set1_ps(12582912.0f + 127.0f);
  x = _mm512_max_ps(_mm512_set1_ps(-127.0f), x); /* of a number and none, the second */
  const __m512 shifted = _mm512_add_ps(x, shift), f = _mm512_sub_ps(x, _mm512_sub_ps(shifted, shift));
  __m512 p = _mm512_set1_ps(9.582852817e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.590642784e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402409864e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931241930e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}

WIDE_END
#endif
