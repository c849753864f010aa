/* Attention over the cache: what is kept of a step's keys and values, and who attends. See attention.h. */
#include <string.h>

#include "kernels.h"

long attention_room(const struct model *m) {
  const long queries = queries_at_most(m), width = m->head_width;
  return (long)sizeof(float) * (width * SPAN + queries * SPAN + 2 * queries * width + 2 * queries) + 64;
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
  struct attention w = {m, s, qkv, seen, room, attention_room(m), layer, split};
  int items = 0;
  const int tokens = together(m, split);
  for (int r = 0; r < s->rows; r++)
    items += (s->row[r].end - s->row[r].begin + tokens - 1) / tokens * m->kv_heads * split;
  pool_run(pool, kernels()->attend, &w, items);
}
