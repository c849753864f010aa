/* Sixteen numbers at a time: bfloat16 in memory, float32 in registers (AVX-512). */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "wide.h"

#if HAVE_WIDE
WIDE_BEGIN

typedef uint16_t bf16;

static inline __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline __m512 load16(const bf16 *x) { return widened(_mm256_loadu_si256((const __m256i *)x)); }
static inline __m512 load_some(const bf16 *x, __mmask16 some) { return widened(_mm256_maskz_loadu_epi16(some, x)); }

/* Rounded to the nearest, ties to even. */
static inline __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline void store16(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, narrowed(x)); }
static inline void store_some(bf16 *to, __mmask16 some, __m512 x) { _mm256_mask_storeu_epi16(to, some, narrowed(x)); }

/* Sixteen numbers, or as many as there are. */
static inline __mmask16 first_of(int64_t count) {
  return count >= 16 ? 0xffff : count > 0 ? (__mmask16)((1u << count) - 1) : 0;
}

/* As exp8 in vector.h, for x at most 0; what is not a number stays so. */
static inline __m512 exp16(__m512 x) {
  const __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  enum { nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), nearest);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_maskz_scalef_ps(some, p, n);
}

WIDE_END
#endif
