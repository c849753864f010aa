/* Sixteen float32, as many as a panel has outputs: two vectors of AVX2, or one of AVX-512 where WIDE is 1.
 *
 * What is written in these gives the same bits both ways, since each number is computed by itself. Included once in a
 * file, after WIDE_BEGIN where WIDE is 1. */
#pragma once

#include "vector.h"

#define INLINE static inline __attribute__((always_inline))

#if WIDE

typedef __m512 floats;
typedef __mmask16 lanes;

INLINE floats v_load(const void *at) { return _mm512_loadu_ps(at); }
INLINE void v_store(float *at, floats v) { _mm512_storeu_ps(at, v); }
INLINE lanes v_first(int count) { return (lanes)((1u << count) - 1); }
INLINE floats v_load_some(const void *at, lanes some) { return _mm512_maskz_loadu_ps(some, at); }
INLINE void v_store_some(float *at, lanes some, floats v) { _mm512_mask_storeu_ps(at, some, v); }
INLINE floats v_all(float x) { return _mm512_set1_ps(x); }
INLINE floats v_add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats v_sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats v_mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats v_div(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats v_max(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats v_min(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats v_fma(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE __m256 v_lower(floats v) { return _mm512_castps512_ps256(v); }
INLINE __m256 v_upper(floats v) { return _mm512_extractf32x8_ps(v, 1); }

/* lanes [from, to) of v, either below or above all of them too; the others are minus infinity */
INLINE floats v_between(floats v, int from, int to) {
  const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 before = _mm512_cmplt_epi32_mask(each, _mm512_set1_epi32(to));
  const __mmask16 in = _mm512_mask_cmpge_epi32_mask(before, each, _mm512_set1_epi32(from));
  return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), in, v);
}

/* those of `some` in which a is above b, or either is not a number */
INLINE lanes v_above(floats a, floats b, lanes some) { return _mm512_mask_cmp_ps_mask(some, a, b, _CMP_NLE_UQ); }
INLINE int v_any(lanes some) { return some != 0; }

/* of float16 */
INLINE floats v_load_f16(const void *at) { return _mm512_cvtph_ps(_mm256_loadu_si256(at)); }

/* of a panel of bfloat16: see product.h */
INLINE floats v_load_bf16(const void *at) {
  const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(at));
  const __m512i raised = _mm512_mask_slli_epi32(twice, 0x00ff, twice, 16);
  return _mm512_castsi512_ps(_mm512_mask_and_epi32(raised, 0xff00, twice, _mm512_set1_epi32((int)0xffff0000)));
}

/* exp8 of sixteen, to the bit: what is not a number is let through by the order of the operands of max and min. */
INLINE floats v_exp(floats x) {
  const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
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
  return _mm512_maskz_scalef_ps(kept, p, n);
}

#else

typedef struct {
  __m256 a, b;
} floats;
typedef struct {
  __m256i a, b;
} lanes;

INLINE floats v_load(const void *at) { return (floats){_mm256_loadu_ps(at), _mm256_loadu_ps((const float *)at + 8)}; }
INLINE void v_store(float *at, floats v) { _mm256_storeu_ps(at, v.a), _mm256_storeu_ps(at + 8, v.b); }
INLINE lanes v_first(int count) {
  const __m256i each = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return (lanes){_mm256_cmpgt_epi32(_mm256_set1_epi32(count), each),
                 _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), each)};
}
INLINE floats v_load_some(const void *at, lanes some) {
  return (floats){_mm256_maskload_ps(at, some.a), _mm256_maskload_ps((const float *)at + 8, some.b)};
}
INLINE void v_store_some(float *at, lanes some, floats v) {
  _mm256_maskstore_ps(at, some.a, v.a), _mm256_maskstore_ps(at + 8, some.b, v.b);
}
INLINE floats v_all(float x) { return (floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE floats v_add(floats a, floats b) { return (floats){_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
INLINE floats v_sub(floats a, floats b) { return (floats){_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)}; }
INLINE floats v_mul(floats a, floats b) { return (floats){_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
INLINE floats v_div(floats a, floats b) { return (floats){_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)}; }
INLINE floats v_max(floats a, floats b) { return (floats){_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
INLINE floats v_min(floats a, floats b) { return (floats){_mm256_min_ps(a.a, b.a), _mm256_min_ps(a.b, b.b)}; }
INLINE floats v_fma(floats a, floats b, floats c) {
  return (floats){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}
INLINE __m256 v_lower(floats v) { return v.a; }
INLINE __m256 v_upper(floats v) { return v.b; }

INLINE __m256 between8(__m256 v, int from, int to) {
  const __m256i each = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(to), each);
  const __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), each), before);
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), v, _mm256_castsi256_ps(in));
}
INLINE floats v_between(floats v, int from, int to) {
  return (floats){between8(v.a, from, to), between8(v.b, from - 8, to - 8)};
}

INLINE lanes v_above(floats a, floats b, lanes some) {
  return (lanes){_mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(a.a, b.a, _CMP_NLE_UQ)), some.a),
                 _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(a.b, b.b, _CMP_NLE_UQ)), some.b)};
}
INLINE int v_any(lanes some) {
  const __m256i both = _mm256_or_si256(some.a, some.b);
  return !_mm256_testz_si256(both, both);
}

INLINE floats v_load_f16(const void *at) {
  return (floats){_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 1))};
}

INLINE floats v_load_bf16(const void *at) {
  const __m256i both = _mm256_loadu_si256(at);
  return (floats){_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
                  _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)))};
}

INLINE floats v_exp(floats x) { return (floats){exp8(x.a), exp8(x.b)}; }

#endif

INLINE float v_sum(floats v) { return sum8(_mm256_add_ps(v_lower(v), v_upper(v))); }
INLINE float v_most(floats v) { return max8(_mm256_max_ps(v_lower(v), v_upper(v))); }
