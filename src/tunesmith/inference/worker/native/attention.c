/* Attention over the cache: what is kept of a step's keys and values, and who attends. See attention.h. */
#include <stdlib.h>
#include <string.h>

#include "attention_16.h"

long attention_room(const struct model *m) {
  if (m->cached == BFLOAT16) return attention_room_16(m);
  const long queries = queries_at_most(m), width = m->head_width;
  return (long)sizeof(float) * (width * SPAN + queries * SPAN + 2 * queries * width + 2 * queries) + 64;
}

struct share share_of(const struct attention *w, int item) {
  const struct model *m = w->model;
  const int tokens = together(m, w->split), parts = m->kv_heads * w->split, window = m->layers[w->layer].window;
  struct share s = {.row = w->step->row, .group = group_of(m) / w->split};
  for (;; s.row++) { /* whose it is */
    const int items = (s.row->end - s.row->begin + tokens - 1) / tokens * parts;
    if (item < items) break;
    item -= items;
  }
  const int part = item % parts, kv = part / w->split;
  s.first = s.row->begin + item / parts * tokens;
  const int last = s.first + tokens < s.row->end ? s.first + tokens : s.row->end;
  s.head = kv * group_of(m) + part % w->split * s.group, s.queries = (last - s.first) * s.group;
  s.here = s.row->start + s.first - s.row->begin, s.stop = s.row->start + last - s.row->begin;
  if (window && s.here - window + 1 > 0) s.begin = (s.here - window + 1) / SPAN * SPAN;
  s.slot = (s.row->slot * m->kv_heads + kv) * s.row->capacity * m->head_width;
  return s;
}

/* `count` numbers into the cache, from `at` on */
static void put(const struct model *m, const float *from, void *cache, long at, int count) {
  if (m->cached == BFLOAT16)
    rounded_16(from, count, (uint16_t *)cache + at);
  else
    memcpy((float *)cache + at, from, sizeof(float) * count);
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
        put(m, from, row->keys[layer], at, width);
        put(m, from + (long)m->kv_heads * width, row->values[layer], at, width);
      }
  }
}

void attend(struct pool *pool, const struct model *m, int layer, const struct step *s, const float *qkv, float *seen,
            char *room) {
  remember(m, layer, s, qkv);
  /* few rows on many threads: the heads that share keys read them each for itself */
  const int split = s->rows * m->kv_heads < pool_threads(pool) && s->tokens < 2 * pool_threads(pool) ? group_of(m) : 1;
  struct attention w = {m, s, qkv, seen, room, attention_room(m), layer, split};
  int items = 0;
  const int tokens = together(m, split);
  for (int r = 0; r < s->rows; r++)
    items += (s->row[r].end - s->row[r].begin + tokens - 1) / tokens * m->kv_heads * split;
  pool_run(pool, m->cached == BFLOAT16 ? attend_item_16 : kernels()->attend, &w, items);
}

int engine_attention(int threads, const struct model *m, const struct step *s, const float *qkv, float *seen) {
  struct pool *pool = pool_new(threads);
  char *room = aligned_alloc(64, (attention_room(m) * threads + 63) / 64 * 64);
  if (pool && room) attend(pool, m, 0, s, qkv, seen, room);
  const int done = pool && room ? 0 : -1;
  free(room);
  if (pool) pool_free(pool);
  return done;
}
