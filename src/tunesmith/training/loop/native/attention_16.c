/* FlashAttention (arXiv:2205.14135) in tiles of bfloat16: as attention.c, with scores, their exponentials and all sums in
 * float32. Scores lie turned, a key a row and a query a lane, so that a query's maximum, sum and shares are made lane by
 * lane; two rows of shares side by side are then a factor of the values' product, and a row one of the gradients'.
 */
#include "attention.h"

#include <string.h>

#include "examples.h"
#include "pool.h"
#include "tiles_16.h"

#if HAVE_WIDE
WIDE_BEGIN

#define QUERIES 128       /* of a block, a multiple of PIECE */
#define KEYS 64          /* of a block forward, and */
#define KEYS_BACK 128     /* backward: shares and gradients of a block stay in the first cache */
#define PIECE 32          /* queries and keys made at once, two tiles each */
#define LOG2E 1.44269504f /* e^score is a power of two */

static const struct sizes SIZES = {QUERIES, PIECE, 256, 8};

enum plane { KEYS_LAID, KEYS_TURNED, VALUES, PLANES }; /* one a key-value head each */

struct job {
  const struct attention *a;
  struct parts parts;
  uint16_t *planes; /* (planes, kv_heads, rows, width): what is packed */
  float *sums;      /* (tasks, 2, rows, width): gradients of keys and values */
  int width;
};

static uint16_t *plane(const struct job *job, int kind, int64_t head, const struct example *e) {
  return job->planes + ((kind * job->a->kv_heads + head) * job->parts.rows + e->place) * job->width;
}

static const uint16_t *row(struct heads x, int64_t head, int64_t token) {
  return (const uint16_t *)x.at + head * x.head + token * x.token;
}

static uint16_t *row_to(void *x, int64_t heads, int64_t dim, int64_t head, int64_t token) {
  return (uint16_t *)x + (token * heads + head) * dim;
}

int64_t attention_room_16(const struct attention *a, int backward) {
  const int64_t packed = PLANES * a->kv_heads * most_rows(a, SIZES) * (int64_t)sizeof(uint16_t);
  const int64_t sums = backward ? 2 * rows_of_tasks(a, SIZES) * (int64_t)sizeof(float) : 0;
  return tables_room(a, SIZES) + (packed + sums) * upwards(a->dim, PIECE);
}

static struct job job_of(const struct attention *a) {
  struct job job = {.a = a, .parts = parts_of(a, SIZES), .width = (int)upwards(a->dim, PIECE)};
  job.planes = (uint16_t *)job.parts.rest;
  job.sums = (float *)(job.planes + PLANES * a->kv_heads * job.parts.rows * job.width);
  return job;
}

/* The lanes of queries [query, query + 16) that see a key. */
WIDE_INLINE __mmask16 seeing(int64_t query, int64_t key, int64_t window) {
  const int64_t from = largest(0, least(16, key - query));
  const int64_t to = window ? largest(from, least(16, key + window - query)) : 16;
  return (__mmask16)((1u << to) - (1u << from));
}

/* Whether every query of a piece sees every key of it. */
WIDE_INLINE int all_seen(int64_t query, int64_t key, int64_t window) {
  return key + PIECE - 1 <= query && (!window || query + PIECE - 1 - key < window);
}

/* The rows of a block of keys that are packed together with it. */
struct rows {
  const struct example *e;
  int64_t first, count, padded;
};

static struct rows rows_of_block(const struct job *job, int64_t block) {
  const struct block *b = job->parts.blocks + block;
  const struct example *e = job->parts.examples + b->example;
  const int64_t count = least(QUERIES, e->length - b->first);
  return (struct rows){e, b->first, count, upwards(count, PIECE)};
}

static void pack_forward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct rows r = rows_of_block(job, item / a->kv_heads);
  const int64_t head = item % a->kv_heads, token = r.e->begin + r.first, at = r.first * job->width;
  lay(row(a->k, head, token), a->k.token, r.count, r.padded, a->dim, job->width, plane(job, KEYS_LAID, head, r.e) + at);
  turn_pairs(row(a->v, head, token), a->v.token, r.count, r.padded, a->dim, job->width,
             plane(job, VALUES, head, r.e) + at);
}

/* Queries of a piece, and what is known of their scores so far. */
struct state {
  __m512 most[2], total[2];
};

/* Rows of keys times those of queries, both as they are packed: (PIECE, PIECE). */
WIDE_INLINE void dots_piece(const uint16_t *rows, const uint16_t *queries, int width, float *to) {
  product4((struct strip){rows, TILE, 16 * width}, (struct strip){queries, TILE, 16 * width}, width / PIECE, 0, to,
           16 * PIECE, 16, 4 * PIECE);
}

/* The same with narrow queries in registers, after kept(..). */
WIDE_INLINE void dots_kept(const uint16_t *rows, int width, float *to) {
  half_product(rows, width / PIECE, to, 16, 4 * PIECE);
  half_product(rows + 16 * width, width / PIECE, to + 16 * PIECE, 16, 4 * PIECE);
  settled();
}

/* scores *= scale; `top` becomes the largest that each query sees. */
WIDE_INLINE void scale_piece(float *scores, int64_t query, int64_t key, int64_t window, int whole, int halves,
                             __m512 scale, __m512 top[2]) {
  const __m512 lowest16 = _mm512_set1_ps(-INFINITY);
  for (int r = 0; r < PIECE; r++, scores += PIECE)
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
      __m512 score = _mm512_mul_ps(scale, _mm512_load_ps(scores + 16 * h));
      _mm512_store_ps(scores + 16 * h, score);
      if (!whole) score = _mm512_mask_mov_ps(lowest16, seeing(query + 16 * h, key + r, window), score);
      top[h] = _mm512_max_ps(score, top[h]); /* of no number and a number, the second */
    }
}

/* One call for each kind of piece: whether all of it is seen, and whether it has more than 16 queries. */
#define OF_PIECE(query, key, window, rows, PIECE_OF) \
  if ((rows) <= 16)                                  \
    PIECE_OF(0, 1);                                  \
  else if (all_seen(query, key, window))             \
    PIECE_OF(1, 2);                                  \
  else                                               \
    PIECE_OF(0, 2)

WIDE_INLINE void scaled(float *scores, int64_t query, int64_t rows, int64_t key, int64_t window, __m512 scale,
                        __m512 top[2]) {
#define SCALED(whole, halves) scale_piece(scores, query, key, window, whole, halves, scale, top)
  OF_PIECE(query, key, window, rows, SCALED);
#undef SCALED
}

/* What the sums so far are multiplied by, lane by lane; whether that is anything but one. */
WIDE_INLINE int raised(struct state *state, const __m512 top[2], __m512 by[2]) {
  int changed = 0;
  for (int h = 0; h < 2; h++) {
    const __mmask16 same = _mm512_cmp_ps_mask(state->most[h], top[h], _CMP_EQ_OQ);
    const __m512 one = _mm512_set1_ps(1.0f);
    by[h] = _mm512_mask_mov_ps(power16(_mm512_sub_ps(state->most[h], top[h])), same, one);
    state->total[h] = _mm512_mul_ps(state->total[h], by[h]);
    state->most[h] = top[h];
    changed |= same != 0xffff;
  }
  return changed;
}

WIDE_INLINE void share_piece(const float *scores, int64_t query, int64_t key, int64_t window, int whole,
                             int halves, struct state *state, uint16_t *shares) {
  for (int r = 0; r < PIECE; r += 2)
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
      __m512 share[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; i++) {
        const __m512 score = _mm512_load_ps(scores + (r + i) * PIECE + 16 * h);
        share[i] = power16(_mm512_sub_ps(score, state->most[h]));
        if (!whole) share[i] = _mm512_maskz_mov_ps(seeing(query + 16 * h, key + r + i, window), share[i]);
        state->total[h] = _mm512_add_ps(state->total[h], share[i]);
      }
      _mm512_store_si512(shares + h * (KEYS / PIECE) * TILE + r * 16, halves_paired(narrowed(share[0], share[1])));
    }
}

/* Scores become shares: two tiles of queries, (2, KEYS / PIECE, 16 pairs of keys, 16, 2). */
WIDE_INLINE void shares_of(const float *scores, int64_t query, int64_t rows, int64_t begin, int64_t end, int64_t window,
                           struct state *state, uint16_t *shares) {
#define SHARED(whole, halves) share_piece(scores, query, key, window, whole, halves, state, shares)
  for (int64_t key = begin; key < end; key += PIECE, scores += PIECE * PIECE, shares += TILE)
    OF_PIECE(query, key, window, rows, SHARED);
#undef SHARED
}

/* A piece of queries of one head. */
static void forward_piece(const struct job *job, const struct example *e, int64_t head, int64_t first) {
  const struct attention *a = job->a;
  const int width = job->width, narrow = width <= 2 * PIECE;
  const int64_t kv_head = head / (a->heads / a->kv_heads), token = e->begin + first;
  const int64_t rows = least(PIECE, e->length - first), seen_to = first + PIECE;
  const uint16_t *keys = plane(job, KEYS_LAID, kv_head, e), *values = plane(job, VALUES, kv_head, e);
  _Alignas(64) uint16_t q[ATTENTION_DIM * PIECE], shares[KEYS * PIECE];
  _Alignas(64) float out[ATTENTION_DIM * PIECE], scores[KEYS * PIECE], over[PIECE], most[PIECE];
  const __m512 scale = _mm512_set1_ps(a->scale * LOG2E);
  turn(row(a->q, head, token), a->q.token, rows, PIECE, a->dim, width, q);
  struct state state;
  for (int h = 0; h < 2; h++) state.most[h] = _mm512_set1_ps(-INFINITY), state.total[h] = _mm512_setzero_ps();
  const int64_t lowest_key = lowest(first, a->window) / PIECE * PIECE;
  for (int64_t begin = lowest_key; begin < seen_to; begin += KEYS) {
    const int64_t end = least(begin + KEYS, seen_to);
    __m512 top[2] = {state.most[0], state.most[1]}, by[2];
    if (narrow) kept((struct strip){q, TILE, 16 * width}, width / PIECE);
    for (int64_t key = begin; key < end; key += PIECE) {
      float *const at = scores + (key - begin) * PIECE;
      if (narrow)
        dots_kept(keys + key * width, width, at);
      else
        dots_piece(keys + key * width, q, width, at);
      /* while this product is made, the one before is taken up */
      if (key > begin) scaled(at - PIECE * PIECE, first, rows, key - PIECE, a->window, scale, top);
    }
    scaled(scores + (end - PIECE - begin) * PIECE, first, rows, end - PIECE, a->window, scale, top);
    const int changed = raised(&state, top, by);
    shares_of(scores, first, rows, begin, end, a->window, &state, shares);
    if (begin > lowest_key && changed)
      for (int h = 0; h < 2; h++)
        for (int i = 0; i < 16 * width; i += 16) {
          float *at = out + h * 16 * width + i;
          _mm512_store_ps(at, _mm512_mul_ps(by[h], _mm512_load_ps(at)));
        }
    for (int d = 0; d < width; d += 32)
      product4((struct strip){values + begin * width + d * 32, 32 * width, TILE},
               (struct strip){shares, TILE, KEYS / PIECE * TILE}, (end - begin) / PIECE, begin > lowest_key, out + d * 16,
               SUMS, 16 * width, 64);
  }
  for (int h = 0; h < 2; h++) {
    _mm512_store_ps(most + 16 * h, state.most[h]);
    _mm512_store_ps(over + 16 * h, _mm512_div_ps(_mm512_set1_ps(1.0f), state.total[h]));
  }
  for (int r = 0; r < rows; r++) {
    a->shares[(head * a->tokens + token + r) * 2] = most[r];
    a->shares[(head * a->tokens + token + r) * 2 + 1] = over[r];
  }
  rows_of(out, over, rows, a->dim, width, row_to(a->out, a->heads, a->dim, head, token), a->heads * a->dim);
}

/* A block of queries of one head. */
static void forward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct rows r = rows_of_block(job, item / job->a->heads);
  shaped();
  for (int64_t first = 0; first < r.count; first += PIECE)
    forward_piece(job, r.e, item % job->a->heads, r.first + first);
  released();
}

void attention_forward_16(struct pool *pool, struct attention *a) {
  struct job job = job_of(a);
  pool_run(pool, pack_forward, &job, (int)(job.parts.count * a->kv_heads));
  pool_run(pool, forward, &job, (int)(job.parts.count * a->heads));
}

static void pack_backward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct rows r = rows_of_block(job, item / a->kv_heads);
  const int64_t head = item % a->kv_heads, token = r.e->begin + r.first, at = r.first * job->width;
  const uint16_t *k = row(a->k, head, token), *v = row(a->v, head, token);
  lay(k, a->k.token, r.count, r.padded, a->dim, job->width, plane(job, KEYS_LAID, head, r.e) + at);
  turn_pairs(k, a->k.token, r.count, r.padded, a->dim, job->width, plane(job, KEYS_TURNED, head, r.e) + at);
  lay(v, a->v.token, r.count, r.padded, a->dim, job->width, plane(job, VALUES, head, r.e) + at);
}

/* What is known of a block of queries of one head, packed both ways; sums of their gradients. */
struct queries {
  _Alignas(64) uint16_t q[ATTENTION_DIM * QUERIES], grad[ATTENTION_DIM * QUERIES]; /* pairs along the width */
  uint16_t q_pairs[ATTENTION_DIM * QUERIES], grad_pairs[ATTENTION_DIM * QUERIES];  /* pairs of queries */
  float dq[ATTENTION_DIM * QUERIES];                                               /* (tiles, width, 16) */
  float most[QUERIES], over[QUERIES], delta[QUERIES];
  uint16_t shares[KEYS_BACK * QUERIES], grads[KEYS_BACK * QUERIES]; /* tiles of (keys, queries) */
  uint16_t grads_pairs[KEYS_BACK * QUERIES];                        /* pairs of keys: (queries / 16, keys / 32, ..) */
  float scores[PIECE * PIECE], score_grads[PIECE * PIECE];          /* of a piece */
};

/* Shares of a piece and the gradients of its scores. */
WIDE_INLINE void gradients(struct queries *s, int64_t at, int64_t query, int64_t key, int64_t key_at, int64_t window,
                           int whole, int halves, __m512 scale) {
  uint16_t *const shares_to = s->shares + (key_at / 16 * (QUERIES / PIECE) + at / PIECE) * TILE;
  uint16_t *const grads_to = s->grads + (shares_to - s->shares);
  uint16_t *const pairs_to = s->grads_pairs + (at / 16 * (KEYS_BACK / PIECE) + key_at / PIECE) * TILE;
  __m512 most[2], over[2], delta[2];
  for (int h = 0; h < halves; h++) {
    most[h] = _mm512_load_ps(s->most + at + 16 * h);
    over[h] = _mm512_load_ps(s->over + at + 16 * h);
    delta[h] = _mm512_load_ps(s->delta + at + 16 * h);
  }
  for (int r = 0; r < PIECE; r += 2) {
    __m512i two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      __m512 share[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, grad[2] = {share[0], share[0]};
#pragma GCC unroll 2
      for (int h = 0; h < halves; h++) {
        const int place = (r + i) * PIECE + 16 * h;
        const __m512 score = alone(_mm512_mul_ps(scale, _mm512_load_ps(s->scores + place)));
        share[h] = _mm512_mul_ps(over[h], power16(_mm512_sub_ps(score, most[h])));
        grad[h] = _mm512_mul_ps(share[h], _mm512_sub_ps(_mm512_load_ps(s->score_grads + place), delta[h]));
        if (!whole) {
          const __mmask16 seen = seeing(query + 16 * h, key + r + i, window);
          share[h] = _mm512_maskz_mov_ps(seen, share[h]);
          grad[h] = _mm512_maskz_mov_ps(seen, grad[h]);
        }
      }
      const int to = (r + i) / 16 * (QUERIES / PIECE) * TILE + (r + i) % 16 * 32;
      two[i] = narrowed(grad[0], grad[1]);
      _mm512_store_si512(shares_to + to, narrowed(share[0], share[1]));
      _mm512_store_si512(grads_to + to, two[i]);
    }
    _mm512_store_si512(pairs_to + r * 16, side_by_side(two[0], two[1], 0));
    _mm512_store_si512(pairs_to + KEYS_BACK / PIECE * TILE + r * 16, side_by_side(two[0], two[1], 1));
  }
}

WIDE_INLINE void gradients_of(struct queries *s, int64_t at, int64_t rows, int64_t first, int64_t key, int64_t key_at,
                              int64_t window, __m512 scale) {
#define GRADIENTS(whole, halves) gradients(s, at, first + at, key, key_at, window, whole, halves, scale)
  OF_PIECE(first + at, key, window, rows - at, GRADIENTS);
#undef GRADIENTS
}

WIDE_INLINE float dot(const uint16_t *x, const uint16_t *y, int dim) {
  __m512 sum = _mm512_setzero_ps();
  for (int d = 0; d < dim; d += 32) {
    const __mmask32 mask = within(d, dim);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, x + d),
                           (__m512bh)_mm512_maskz_loadu_epi16(mask, y + d));
  }
  return sum8(_mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1)));
}

static void packed_queries(struct queries *s, const struct job *job, int64_t head, int64_t token, int64_t rows,
                           int64_t padded) {
  const struct attention *a = job->a;
  const uint16_t *q = row(a->q, head, token), *grad = row(a->grad, head, token);
  turn(q, a->q.token, rows, padded, a->dim, job->width, s->q);
  turn(grad, a->grad.token, rows, padded, a->dim, job->width, s->grad);
  pair(q, a->q.token, rows, padded, a->dim, job->width, s->q_pairs);
  pair(grad, a->grad.token, rows, padded, a->dim, job->width, s->grad_pairs);
  memset(s->dq, 0, sizeof(float) * padded * job->width);
  for (int64_t r = 0; r < rows; r++) {
    const float *shares = a->shares + (head * a->tokens + token + r) * 2;
    s->most[r] = shares[0];
    s->over[r] = shares[1];
    s->delta[r] = dot(grad + r * a->grad.token, row_to(a->out, a->heads, a->dim, head, token + r), a->dim);
  }
  for (int64_t r = rows; r < padded; r++) s->most[r] = s->over[r] = s->delta[r] = 0.0f; /* no shares */
}

/* A block of queries of one head: its gradient, and what it adds to those of keys and values. */
static void back_block(const struct job *job, const struct example *e, int64_t head, int64_t first, float *dk,
                       float *dv) {
  const struct attention *a = job->a;
  const int width = job->width;
  const int64_t kv_head = head / (a->heads / a->kv_heads), token = e->begin + first, window = a->window;
  const int64_t rows = least(QUERIES, e->length - first), padded = upwards(rows, PIECE), seen_to = first + padded;
  const uint16_t *keys = plane(job, KEYS_LAID, kv_head, e), *values = plane(job, VALUES, kv_head, e);
  const uint16_t *turned_keys = plane(job, KEYS_TURNED, kv_head, e);
  const __m512 scale = _mm512_set1_ps(a->scale * LOG2E);
  struct queries s;
  packed_queries(&s, job, head, token, rows, padded);
  for (int64_t begin = lowest(first, window) / PIECE * PIECE; begin < seen_to; begin += KEYS_BACK) {
    const int64_t end = least(begin + KEYS_BACK, seen_to);
    for (int64_t key = begin; key < end; key += PIECE) {
      /* the queries of the block that see one of the piece's keys */
      const int64_t from = largest(0, key - first) / PIECE * PIECE;
      const int64_t to = window ? least(padded, upwards(key + PIECE - 1 + window - first, PIECE)) : padded;
      for (int64_t at = from; at < to; at += PIECE) {
        dots_piece(keys + key * width, s.q + at * width, width, s.scores);
        dots_piece(values + key * width, s.grad + at * width, width, s.score_grads);
        gradients_of(&s, at, rows, first, key, key - begin, window, scale);
      }
      if (from >= to) continue;
      const int64_t tile = ((key - begin) / 16 * (QUERIES / PIECE) + from / PIECE) * TILE;
      for (int d = 0; d < width; d += 32) {
        const int64_t pairs = from * width + d * 32, sum = key * width + d * 16;
        product4((struct strip){s.shares + tile, TILE, QUERIES / PIECE * TILE},
                 (struct strip){s.grad_pairs + pairs, 32 * width, TILE}, (to - from) / PIECE, 1, dv + sum, 16 * width,
                 SUMS, 64);
        product4((struct strip){s.grads + tile, TILE, QUERIES / PIECE * TILE},
                 (struct strip){s.q_pairs + pairs, 32 * width, TILE}, (to - from) / PIECE, 1, dk + sum, 16 * width, SUMS,
                 64);
      }
    }
    for (int64_t at = 0; at < padded; at += PIECE) {
      const int64_t from = largest(begin, lowest(first + at, window) / PIECE * PIECE);
      const int64_t to = least(end, first + at + PIECE);
      if (from >= to) continue;
      const uint16_t *const pairs = s.grads_pairs + (at / 16 * (KEYS_BACK / PIECE) + (from - begin) / PIECE) * TILE;
      for (int d = 0; d < width; d += 32)
        product4((struct strip){turned_keys + from * width + d * 32, 32 * width, TILE},
                 (struct strip){pairs, TILE, KEYS_BACK / PIECE * TILE}, (to - from) / PIECE, 1,
                 s.dq + at * width + d * 16, SUMS, 16 * width, 64);
    }
  }
  for (int64_t r = 0; r < padded; r++) s.over[r] = a->scale;
  rows_of(s.dq, s.over, rows, a->dim, width, row_to(a->dq, a->heads, a->dim, head, token), a->heads * a->dim);
}

/* Rows [first, first + count) of the gradients of a head's keys and values, out of the tiles of `tasks` tasks in order. */
static void gathered(const struct job *job, const struct task *task, int64_t tasks, int64_t first, int64_t count) {
  const struct attention *a = job->a;
  const struct example *e = job->parts.examples + task->example;
  const int64_t head = task->head / (a->heads / a->kv_heads), plane = e->padded * job->width;
  for (int kind = 0; kind < 2; kind++) {
    const float *from = job->sums + 2 * task->place * job->width + kind * plane;
    const __m512 by = _mm512_set1_ps(kind ? 1.0f : a->scale);
    uint16_t *to = row_to(kind ? a->dv : a->dk, a->kv_heads, a->dim, head, e->begin + first);
    for (int64_t r = first; r < first + count; r++, to += a->kv_heads * a->dim)
      for (int d = 0; d < a->dim; d += 32) {
        const float *at = from + r / 16 * 16 * job->width + d * 16 + r % 16 * 16;
        __m512 low = _mm512_load_ps(at), high = _mm512_load_ps(at + SUMS);
        for (int64_t i = 1; i < tasks; i++) {
          low = _mm512_add_ps(low, _mm512_load_ps(at + i * 2 * plane));
          high = _mm512_add_ps(high, _mm512_load_ps(at + i * 2 * plane + SUMS));
        }
        _mm512_mask_storeu_epi16(to + d, within(d, a->dim),
                                 narrowed(_mm512_mul_ps(by, low), _mm512_mul_ps(by, high)));
      }
  }
}

/* One query head, or those that share keys, one after the other. */
static void backward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct task *task = job->parts.tasks + item;
  const struct example *e = job->parts.examples + task->example;
  const int64_t plane = e->padded * job->width;
  float *dk = job->sums + 2 * task->place * job->width;
  memset(dk, 0, 2 * sizeof(float) * plane);
  shaped();
  for (int64_t head = task->head; head < task->head + task->heads; head++)
    for (int64_t first = 0; first < e->length; first += QUERIES) back_block(job, e, head, first, dk, dk + plane);
  released();
  if (task->heads * job->a->kv_heads == job->a->heads) gathered(job, task, 1, 0, e->length);
}

/* A block of keys of one head where its query heads are tasks of their own. */
static void gather(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const int64_t group = job->a->heads / job->a->kv_heads;
  const struct rows r = rows_of_block(job, item / job->a->kv_heads);
  const struct task *tasks = job->parts.tasks + r.e->task;
  if (tasks->heads < group) gathered(job, tasks + item % job->a->kv_heads * group, group, r.first, r.count);
}

void attention_backward_16(struct pool *pool, struct attention *a) {
  struct job job = job_of(a);
  pool_run(pool, pack_backward, &job, (int)(job.parts.count * a->kv_heads));
  pool_run(pool, backward, &job, (int)job.parts.task_count);
  pool_run(pool, gather, &job, (int)(job.parts.count * a->kv_heads));
}

WIDE_END
#endif
