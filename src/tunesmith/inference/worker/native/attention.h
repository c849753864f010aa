/* Attention over the cache, a block of positions at a time with a running maximum (FlashAttention, arXiv:2205.14135).
 *
 * Blocks begin at multiples of SPAN whatever the step holds, so a token's numbers are the same to the last bit however
 * its prompt was cut and whoever else is in the step: what is masked adds exactly nothing. Only what the row itself has
 * written is read, so numbers that are not finite stay in their row. Part of kernels_of.h. */
#pragma once

/* keys (count, width) to (width, SPAN), filled up with zeros */
#if WIDE

/* four of each of sixteen keys: of every fourth key one after the other */
INLINE __m512 fours(const float *keys, int count, int width) {
  __m512 found = _mm512_setzero_ps();
  if (count > 0) found = _mm512_zextps128_ps512(_mm_loadu_ps(keys));
  if (count > 4) found = _mm512_mask_broadcast_f32x4(found, 0x00f0, _mm_loadu_ps(keys + 4L * width));
  if (count > 8) found = _mm512_mask_broadcast_f32x4(found, 0x0f00, _mm_loadu_ps(keys + 8L * width));
  if (count > 12) found = _mm512_mask_broadcast_f32x4(found, 0xf000, _mm_loadu_ps(keys + 12L * width));
  return found;
}

INLINE void sixteen_turned(const float *keys, int count, int width, float *out) {
  for (int d = 0; d < width; d += 4, keys += 4, out += 4 * SPAN) {
    const __m512 a = fours(keys, count, width), b = fours(keys + width, count - 1, width);
    const __m512 c = fours(keys + 2L * width, count - 2, width), e = fours(keys + 3L * width, count - 3, width);
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ba = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d ce = _mm512_castps_pd(_mm512_unpacklo_ps(c, e)), ec = _mm512_castps_pd(_mm512_unpackhi_ps(c, e));
    v_store(out, _mm512_castpd_ps(_mm512_unpacklo_pd(ab, ce)));
    v_store(out + SPAN, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, ce)));
    v_store(out + 2 * SPAN, _mm512_castpd_ps(_mm512_unpacklo_pd(ba, ec)));
    v_store(out + 3 * SPAN, _mm512_castpd_ps(_mm512_unpackhi_pd(ba, ec)));
  }
}

static void turned(const float *keys, int count, int width, float *out) {
  for (int p = 0; p < count; p += 16) {
    if (count - p >= 16)
      sixteen_turned(keys + (long)p * width, 16, width, out + p);
    else
      sixteen_turned(keys + (long)p * width, count - p, width, out + p);
  }
}

#else

INLINE void eight_turned(const float *keys, int count, int width, float *out) {
  for (int d = 0; d < width; d += 8) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = i < count ? _mm256_loadu_ps(keys + (long)i * width + d) : _mm256_setzero_ps();
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
      _mm256_storeu_ps(out + (d + i) * SPAN, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      _mm256_storeu_ps(out + (d + i + 4) * SPAN, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }
}

static void turned(const float *keys, int count, int width, float *out) {
  for (int p = 0; p < (count + PANEL - 1) / PANEL * PANEL; p += 8) {
    if (count - p >= 8)
      eight_turned(keys + (long)p * width, 8, width, out + p);
    else
      eight_turned(keys + (long)p * width, count - p, width, out + p);
  }
}

#endif

/* One query's scores of a block become its shares, of positions [from, to); gives what its earlier sums are multiplied
 * by. */
INLINE float shares_of(float *scores, int from, int to, float *most, float *total) {
  if (from >= to) { /* it sees nothing of this block */
    memset(scores, 0, sizeof(float) * SPAN);
    return 1.0f;
  }
  floats seen[SPAN / PANEL], sum = v_all(0.0f);
  for (int n = 0; n < SPAN / PANEL; n++) seen[n] = v_between(v_load(scores + n * PANEL), from - n * PANEL, to - n * PANEL);
  const float here = v_most(v_max(v_max(seen[0], seen[1]), v_max(seen[2], seen[3])));
  const float now = here > *most ? here : *most;
  for (int n = 0; n < SPAN / PANEL; n++) {
    const floats share = v_exp(v_sub(seen[n], v_all(now)));
    v_store(scores + n * PANEL, share);
    sum = v_add(sum, share);
  }
  const float kept = *most == now ? 1.0f : _mm256_cvtss_f32(v_lower(v_exp(v_all(*most - now))));
  *total = *total * kept + v_sum(sum);
  *most = now;
  return kept;
}

INLINE void multiplied(const float *from, float by, int width, float *to) {
  for (int d = 0; d < width; d += PANEL) v_store(to + d, v_mul(v_load(from + d), v_all(by)));
}

static void attend_item(void *context, int item, int thread) {
  const struct attention *w = context;
  const struct model *m = w->model;
  const struct layer *layer = &m->layers[w->layer];
  const struct share s = share_of(w, item);
  const int width = m->head_width, group = s.group, queries = s.queries;
  float *const room = (float *)(w->room + w->each * thread);
  const long most_queries = queries_at_most(m);
  float *const keys_t = room, *const scores = keys_t + width * SPAN, *const q = scores + most_queries * SPAN;
  float *const out = q + most_queries * width, *const most = out + most_queries * width;
  float *const total = most + most_queries;
  const long row_of_qkv = (long)(m->heads + 2 * m->kv_heads) * width;
  for (int i = 0; i < queries; i++) {
    const float *from = w->qkv + (s.first + i / group) * row_of_qkv + (long)(s.head + i % group) * width;
    multiplied(from, layer->scaling, width, q + (long)i * width);
  }
  memset(out, 0, sizeof(float) * queries * width);
  for (int i = 0; i < queries; i++) most[i] = -INFINITY, total[i] = 0.0f;
  const float *keys = (const float *)s.row->keys[w->layer] + s.slot;
  const float *values = (const float *)s.row->values[w->layer] + s.slot;
  for (int p = s.begin; p < s.stop; p += SPAN) {
    const int count = s.stop - p < SPAN ? s.stop - p : SPAN;
    turned(keys + (long)p * width, count, width, keys_t);
    memset(scores, 0, sizeof(float) * queries * SPAN);
    add_sums(q, width, keys_t, SPAN, width, queries, (count + PANEL - 1) / PANEL * PANEL, scores, SPAN);
    for (int i = 0; i < queries; i++) {
      const int at = s.here + i / group;
      const int from = layer->window && at - layer->window + 1 > p ? at - layer->window + 1 - p : 0;
      const int to = at + 1 - p < SPAN ? at + 1 - p : SPAN;
      const float kept = shares_of(scores + i * SPAN, from, to, &most[i], &total[i]);
      if (kept != 1.0f) multiplied(out + (long)i * width, kept, width, out + (long)i * width);
    }
    add_sums(scores, SPAN, values + (long)p * width, width, count, queries, width, out, width);
  }
  for (int i = 0; i < queries; i++) {
    float *to = w->seen + ((long)(s.first + i / group) * m->heads + s.head + i % group) * width;
    multiplied(out + (long)i * width, 1.0f / total[i], width, to);
  }
}
