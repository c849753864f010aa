/* Eight float32 at a time (AVX2, FMA, F16C). */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <sched.h>

static inline void relax(void) { _mm_pause(); }
static inline void yield_now(void) { sched_yield(); }

static inline float sum8(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float max8(__m256 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* e^x within two units of the last place: x = n ln 2 + r, a polynomial in r (Cephes, expf), times 2^n. Below -87 zero,
 * above 88 e^88; what is not a number stays so. */
static inline __m256 exp8(__m256 x) {
  const __m256 low = _mm256_set1_ps(-87.0f), high = _mm256_set1_ps(88.0f);
  const __m256 vanishes = _mm256_cmp_ps(x, low, _CMP_LT_OQ), odd = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 kept = x;
  x = _mm256_min_ps(_mm256_max_ps(x, low), high);
  enum { nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), nearest);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  p = _mm256_andnot_ps(vanishes, p);
  return _mm256_blendv_ps(p, kept, odd);
}
