/* The gradients of attention in tiles of bfloat16: scores and shares are made again a piece at a time. */
#include "attention.h"

#include <string.h>

#include "heads_16.h"
#include "pool.h"

#if HAVE_WIDE
WIDE_BEGIN

#define KEYS_BACK 128 /* of a block */

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
                 (struct strip){s.q_pairs + pairs, 32 * width, TILE}, (to - from) / PIECE, 1, dk + sum, 16 * width,
                 SUMS, 64);
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

/* Rows [first, first + count) of the gradients of a head's keys and values, summed over `tasks` tasks in order. */
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
