/* What adapters add to products: low = x A, and a panel's sums += low B. */
#include <math.h>

#include "step.h"

#define INLINE static inline __attribute__((always_inline))
#define GROUPS 4 /* of eight columns whose sums are in registers at once */
#define RANKS 32 /* of a part that are asked for before they are wanted */

/* columns [0, 8 groups) of low, or one of them fewer than whole, by `mask`; inlined with `groups` known */
INLINE void columns(const float *x, const float *a, int inputs, int ranks, int groups, __m256i mask, float *low) {
  __m256 c[GROUPS];
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) c[g] = _mm256_setzero_ps();
  for (int k = 0; k < inputs; k++, a += ranks) {
    const __m256 one = _mm256_broadcast_ss(x + k);
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) {
      if (g % 2 == 0) _mm_prefetch((const char *)(a + 8 * g) + AHEAD, _MM_HINT_T0);
      const __m256 b = g == groups - 1 ? _mm256_maskload_ps(a + 8 * g, mask) : _mm256_loadu_ps(a + 8 * g);
      c[g] = _mm256_fmadd_ps(one, b, c[g]);
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < groups - 1; g++) _mm256_storeu_ps(low + 8 * g, c[g]);
  _mm256_maskstore_ps(low + 8 * (groups - 1), mask, c[groups - 1]);
}

void adapter_low(const struct worn *worn, const float *x, int inputs, float *low) {
  const int ranks = worn->ranks;
  for (int r = 0; r < ranks; r += 8 * GROUPS) {
    const int left = ranks - r < 8 * GROUPS ? ranks - r : 8 * GROUPS, groups = (left + 7) / 8;
    const __m256i each = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left - 8 * (groups - 1)), each);
    switch (groups) {
      case 1: columns(x, worn->a + r, inputs, ranks, 1, mask, low + r); break;
      case 2: columns(x, worn->a + r, inputs, ranks, 2, mask, low + r); break;
      case 3: columns(x, worn->a + r, inputs, ranks, 3, mask, low + r); break;
      default: columns(x, worn->a + r, inputs, ranks, 4, mask, low + r);
    }
  }
}

/* y (16) += low (ranks) b, for the outputs from `at` on that the part has */
static void add_part(const struct part *part, const float *low, int at, float *y) {
  const long size = part->end - part->begin;
  if (at >= part->begin && at + PANEL <= part->end) {
    __m256 a = _mm256_setzero_ps(), b = _mm256_setzero_ps();
    const float *from = part->b + at - part->begin;
    for (int r = part->low; r < part->high; r++, from += size) {
      const __m256 one = _mm256_broadcast_ss(low + r);
      a = _mm256_fmadd_ps(one, _mm256_loadu_ps(from), a);
      b = _mm256_fmadd_ps(one, _mm256_loadu_ps(from + 8), b);
    }
    _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), a));
    _mm256_storeu_ps(y + 8, _mm256_add_ps(_mm256_loadu_ps(y + 8), b));
    return;
  }
  for (int o = 0; o < PANEL; o++) {
    if (at + o < part->begin || at + o >= part->end) continue;
    float sum = 0.0f;
    const float *from = part->b + at + o - part->begin;
    for (int r = part->low; r < part->high; r++, from += size) sum = fmaf(low[r], *from, sum);
    y[o] += sum;
  }
}

void adapter_sums(const struct worn *worn, const float *low, int at, float *sums) {
  for (int n = 0; n < worn->count; n++) {
    const struct part *part = &worn->parts[n];
    if (part->begin < at + PANEL && part->end > at) add_part(part, low, at, sums);
  }
}

void adapter_foreseen(const struct worn *worn, int at) {
  for (int n = 0; n < worn->count; n++) {
    const struct part *part = &worn->parts[n];
    if (part->begin > at || part->end <= at) continue;
    const float *from = part->b + at - part->begin;
    for (int r = part->low; r < part->high && r < part->low + RANKS; r++, from += part->end - part->begin)
      _mm_prefetch(from, _MM_HINT_T0);
  }
}
