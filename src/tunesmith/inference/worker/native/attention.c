/* Attention over the cache, a block of positions at a time with a running maximum (FlashAttention, arXiv:2205.14135).
 *
 * Blocks begin at multiples of SPAN whatever the step holds, so a token's numbers are the same to the last bit however
 * its prompt was cut and whoever else is in the step: what is masked adds exactly nothing. Only what the row itself has
 * written is read, so numbers that are not finite stay in their row. */
#include <math.h>
#include <string.h>

#include "step.h"

#define SPAN 64    /* positions at once */
#define QUERIES 64 /* queries at once: those of some tokens, of all heads that share a key-value head */

struct work {
  const struct model *model;
  const struct step *step;
  const float *qkv;
  float *seen;
  char *room;
  long each;
  int layer, split; /* the query heads of a key-value head are so many items */
};

static int group_of(const struct model *m) { return m->heads / m->kv_heads; }

/* tokens of a row that are one item */
static int together(const struct model *m, int split) {
  const int heads = group_of(m) / split;
  return heads >= QUERIES ? 1 : QUERIES / heads;
}

static int queries_at_most(const struct model *m) { return group_of(m) > QUERIES ? group_of(m) : QUERIES; }

long attention_room(const struct model *m) {
  const long queries = queries_at_most(m), width = m->head_width;
  return (long)sizeof(float) * (width * SPAN + queries * SPAN + 2 * queries * width + 2 * queries) + 64;
}

/* keys (count, width) to (width, SPAN), filled up with zeros */
static void turned(const float *keys, int count, int width, float *out) {
  for (int p = 0; p < SPAN; p += 8) {
    if (p + 8 > count) { /* the last few */
      for (int q = p; q < p + 8; q++)
        for (int d = 0; d < width; d++) out[d * SPAN + q] = q < count ? keys[(long)q * width + d] : 0.0f;
      continue;
    }
    for (int d = 0; d < width; d += 8) {
      __m256 r[8], s[8];
      for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(keys + (long)(p + i) * width + d);
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
        _mm256_storeu_ps(out + (d + i) * SPAN + p, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(out + (d + i + 4) * SPAN + p, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
      }
    }
  }
}

/* One query's scores of a block become its shares; gives what its earlier sums are multiplied by. */
static float shares_of(float *scores, int from, int to, float *most, float *total) {
  for (int p = 0; p < from && p < SPAN; p++) scores[p] = -INFINITY;
  for (int p = to < 0 ? 0 : to; p < SPAN; p++) scores[p] = -INFINITY;
  __m256 top = _mm256_loadu_ps(scores);
  for (int p = 8; p < SPAN; p += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + p));
  const float here = max8(top);
  if (from >= to) { /* it sees nothing of this block */
    memset(scores, 0, sizeof(float) * SPAN);
    return 1.0f;
  }
  const float now = here > *most ? here : *most;
  const __m256 now8 = _mm256_set1_ps(now);
  __m256 sum = _mm256_setzero_ps();
  for (int p = 0; p < SPAN; p += 8) {
    const __m256 share = exp8(_mm256_sub_ps(_mm256_loadu_ps(scores + p), now8));
    _mm256_storeu_ps(scores + p, share);
    sum = _mm256_add_ps(sum, share);
  }
  const float kept = *most == now ? 1.0f : _mm256_cvtss_f32(exp8(_mm256_set1_ps(*most - now)));
  *total = *total * kept + sum8(sum);
  *most = now;
  return kept;
}

static void one_item(void *context, int item, int thread) {
  const struct work *w = context;
  const struct model *m = w->model;
  const struct step *s = w->step;
  const struct layer *layer = &m->layers[w->layer];
  const int width = m->head_width, group = group_of(m) / w->split, tokens = together(m, w->split);
  const struct row *row = s->row;
  for (;; row++) { /* whose it is */
    const int items = (row->end - row->begin + tokens - 1) / tokens * m->kv_heads * w->split;
    if (item < items) break;
    item -= items;
  }
  const int part = item % (m->kv_heads * w->split), kv = part / w->split;
  const int first = row->begin + item / (m->kv_heads * w->split) * tokens;
  const int last = first + tokens < row->end ? first + tokens : row->end;
  const int head = kv * group_of(m) + part % w->split * group, queries = (last - first) * group;
  float *const room = (float *)(w->room + w->each * thread);
  const long most_queries = queries_at_most(m);
  float *const keys_t = room, *const scores = keys_t + width * SPAN, *const q = scores + most_queries * SPAN;
  float *const out = q + most_queries * width, *const most = out + most_queries * width;
  float *const total = most + most_queries;
  const long row_of_qkv = (long)(m->heads + 2 * m->kv_heads) * width;
  for (int t = first; t < last; t++)
    for (int h = 0; h < group; h++) {
      const float *from = w->qkv + t * row_of_qkv + (long)(head + h) * width;
      float *to = q + ((long)(t - first) * group + h) * width;
      for (int d = 0; d < width; d++) to[d] = from[d] * layer->scaling;
    }
  memset(out, 0, sizeof(float) * queries * width);
  for (int i = 0; i < queries; i++) most[i] = -INFINITY, total[i] = 0.0f;
  const long slot = (row->slot * m->kv_heads + kv) * row->capacity * width;
  const float *keys = row->keys[w->layer] + slot, *values = row->values[w->layer] + slot;
  const int here = row->start + first - row->begin, stop = row->start + last - row->begin;
  int begin = 0;
  if (layer->window && here - layer->window + 1 > 0) begin = (here - layer->window + 1) / SPAN * SPAN;
  for (int p = begin; p < stop; p += SPAN) {
    const int count = stop - p < SPAN ? stop - p : SPAN;
    turned(keys + (long)p * width, count, width, keys_t);
    memset(scores, 0, sizeof(float) * queries * SPAN);
    for (int c = 0; c < count; c += PANEL) add_sums(q, width, keys_t + c, SPAN, width, queries, scores + c, SPAN);
    for (int i = 0; i < queries; i++) {
      const int at = here + i / group;
      const int from = layer->window && at - layer->window + 1 > p ? at - layer->window + 1 - p : 0;
      const int to = at + 1 - p < SPAN ? at + 1 - p : SPAN;
      const float kept = shares_of(scores + i * SPAN, from, to, &most[i], &total[i]);
      if (kept != 1.0f)
        for (int d = 0; d < width; d++) out[i * width + d] *= kept;
    }
    for (int d = 0; d < width; d += PANEL)
      add_sums(scores, SPAN, values + (long)p * width + d, width, count, queries, out + d, width);
  }
  for (int i = 0; i < queries; i++) {
    float *to = w->seen + ((long)(first + i / group) * m->heads + head + i % group) * width;
    const float inverse = 1.0f / total[i];
    for (int d = 0; d < width; d++) to[d] = out[(long)i * width + d] * inverse;
  }
}

static void remember(const struct model *m, int layer, const struct step *s, const float *qkv) {
  const int width = m->head_width;
  const long size = (long)(m->heads + 2 * m->kv_heads) * width;
  for (int r = 0; r < s->rows; r++) {
    const struct row *row = &s->row[r];
    for (int t = row->begin; t < row->end; t++)
      for (int h = 0; h < m->kv_heads; h++) {
        const float *from = qkv + t * size + (long)(m->heads + h) * width;
        const long at = ((row->slot * m->kv_heads + h) * row->capacity + row->start + t - row->begin) * width;
        memcpy(row->keys[layer] + at, from, sizeof(float) * width);
        memcpy(row->values[layer] + at, from + (long)m->kv_heads * width, sizeof(float) * width);
      }
  }
}

void attend(struct pool *pool, const struct model *m, int layer, const struct step *s, const float *qkv, float *seen,
            char *room) {
  remember(m, layer, s, qkv);
  /* few rows on many threads: the heads that share keys read them each for itself */
  const int split = s->rows * m->kv_heads < pool_threads(pool) && s->tokens < 2 * pool_threads(pool) ? group_of(m) : 1;
  struct work w = {m, s, qkv, seen, room, attention_room(m), layer, split};
  int items = 0;
  const int tokens = together(m, split);
  for (int r = 0; r < s->rows; r++)
    items += (s->row[r].end - s->row[r].begin + tokens - 1) / tokens * m->kv_heads * split;
  pool_run(pool, one_item, &w, items);
}
