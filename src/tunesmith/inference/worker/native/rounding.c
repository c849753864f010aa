#include "rounding.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LEAST 1e-12f /* of an output's largest: zeros need a scale, too */
#define MOST 127.0f
#define TOGETHER 16 /* outputs an item */

struct rounding {
  const char *from;
  int8_t *to;
  float *scale;
  int kind, outputs, inputs;
};

INLINE __m256 eight(int kind, const char *at) {
  if (kind == FLOAT32) return _mm256_loadu_ps((const float *)at);
  const __m128i half = _mm_loadu_si128((const __m128i *)at);
  if (kind == FLOAT16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* The same of the last ones, zeros behind them. */
INLINE __m256 last_of(int kind, const char *at, int count, int bytes) {
  char all[32] = {0};
  memcpy(all, at, (size_t)count * bytes);
  return eight(kind, all);
}

INLINE __m128i rounded(__m256 x, __m256 scale) {
  const __m256i whole = _mm256_cvtps_epi32(_mm256_div_ps(x, scale)); /* to the nearest, ties to even */
  const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
  const __m128i sixteen = _mm_packs_epi32(low, high);
  return _mm_packs_epi16(sixteen, sixteen);
}

INLINE void round_output(int kind, int bytes, const char *from, int inputs, int8_t *to, float *scale) {
  const __m256 unsigned_ = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const int whole = inputs / 8 * 8, left = inputs - whole;
  __m256 most = _mm256_setzero_ps(), odd = most;
  for (int k = 0; k < inputs; k += 8) {
    const __m256 x = k < whole ? eight(kind, from + (long)k * bytes) : last_of(kind, from + (long)k * bytes, left, bytes);
    most = _mm256_max_ps(most, _mm256_and_ps(x, unsigned_));
    odd = _mm256_or_ps(odd, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  *scale = _mm256_movemask_ps(odd) ? NAN : fmaxf(max8(most), LEAST) / MOST;
  const __m256 by = _mm256_set1_ps(*scale);
  for (int k = 0; k < whole; k += 8)
    _mm_storel_epi64((__m128i *)(to + k), rounded(eight(kind, from + (long)k * bytes), by));
  if (!left) return;
  int8_t all[16];
  _mm_storeu_si128((__m128i *)all, rounded(last_of(kind, from + (long)whole * bytes, left, bytes), by));
  memcpy(to + whole, all, left);
}

static void some_outputs(void *context, int item, int thread) {
  const struct rounding *r = context;
  (void)thread;
  for (int output = item * TOGETHER; output < (item + 1) * TOGETHER && output < r->outputs; output++) {
    const long at = (long)output * r->inputs;
    if (r->kind == FLOAT32)
      round_output(FLOAT32, 4, r->from + 4 * at, r->inputs, r->to + at, r->scale + output);
    else if (r->kind == FLOAT16)
      round_output(FLOAT16, 2, r->from + 2 * at, r->inputs, r->to + at, r->scale + output);
    else
      round_output(BFLOAT16, 2, r->from + 2 * at, r->inputs, r->to + at, r->scale + output);
  }
}

void round_outputs(struct pool *pool, int kind, const void *from, int outputs, int inputs, int8_t *to, float *scale) {
  struct rounding r = {from, to, scale, kind, outputs, inputs};
  pool_run(pool, some_outputs, &r, (outputs + TOGETHER - 1) / TOGETHER);
}
