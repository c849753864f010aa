/* FlashAttention (arXiv:2205.14135) on the processor: a block of queries against a block of keys at a time, scores
 * computed again on the way back. Every example begins blocks of its own and every sum goes from its first place to
 * its last, so its bytes depend on nothing but itself; only the part of a block that is seen is computed. What is seen
 * by some rows of a tile alone is zero in the others, which adds exactly nothing.
 */
#include "attention.h"

#include <string.h>

#include "examples.h"
#include "pool.h"
#include "tiles.h"

#define QUERIES 96           /* of a block, a multiple of TALL */
#define KEYS 128             /* of a block, a multiple of WIDE */
#define STRIDE (KEYS + WIDE) /* of scores: a column of them lies in many sets of the cache */
#define LOG2E 1.44269504f    /* queries are multiplied by it, and e^score is a power of two */
#define SHORT 256 /* tokens; the gradients of a longer example's keys are made a query head at a time, then summed */

static const struct sizes SIZES = {QUERIES, WIDE, SHORT, INT64_MAX};

struct job {
  const struct attention *a;
  struct parts parts;
  float *planes; /* (planes, rows, width): what is packed, and sums of gradients */
  int width;
};

/* A block of scores: queries [first, first + rows) of an example, keys [begin, end). */
struct span {
  int64_t first, begin, end, window;
  int rows, width;
};

enum plane { TURNED_KEYS, TURNED_VALUES, PLAIN, PLANES }; /* one a key-value head each; then sums, one a query head */

static float *plane(const struct job *job, int kind, int64_t head, const struct example *e) {
  const struct attention *a = job->a;
  const int64_t before = kind < PLANES ? kind * a->kv_heads : PLANES * a->kv_heads + (kind - PLANES) * a->heads;
  return job->planes + ((before + head) * job->parts.rows + e->place) * job->width;
}

static const float *row(struct heads x, int64_t head, int64_t token) { return x.at + head * x.head + token * x.token; }

int64_t attention_room(const struct attention *a, int backward) {
  const int64_t planes = PLANES * a->kv_heads + (backward ? 2 * a->heads : 0);
  return tables_room(a, SIZES) + planes * most_rows(a, SIZES) * upwards(a->dim, WIDE) * (int64_t)sizeof(float);
}

static struct job job_of(const struct attention *a) {
  struct job job = {.a = a, .parts = parts_of(a, SIZES), .width = (int)upwards(a->dim, WIDE)};
  job.planes = (float *)job.parts.rest;
  return job;
}

/* c = x times what is turned, where a query of the tile sees a key of the panel; x: panels of QUERIES rows. */
static void dots_of(const struct span *s, const float *x, const float *turned, float *c) {
  for (int64_t key = s->begin; key < s->end; key += WIDE) {
    const int64_t from = largest(0, key - s->first) / TALL * TALL;
    const int64_t to = s->window ? least(s->rows, key + WIDE + s->window - 1 - s->first) : s->rows;
    for (int64_t r = from; r < to; r += TALL)
      dots(x + r * WIDE, QUERIES, turned + key * s->width, s->width, (int)least(TALL, s->rows - r),
           c + r * STRIDE + key - s->begin, STRIDE);
  }
}

/* y += p x over the keys; x: panels of `apart` rows, one a key; y: panels of QUERIES rows. */
static void add_rows(const struct span *s, const float *p, const float *x, int64_t apart, float *y) {
  for (int d = 0; d < s->width; d += WIDE, x += apart * WIDE, y += QUERIES * WIDE)
    for (int r = 0; r < s->rows; r += TALL) {
      const int rows = (int)least(TALL, s->rows - r);
      const int64_t from = largest(s->begin, lowest(s->first + r, s->window));
      const int64_t to = least(s->end, s->first + r + rows);
      const float *at = p + r * STRIDE + from - s->begin;
#define SUMS(n) sum_tile(at, STRIDE, 1, x + from * WIDE, to - from, n, y + r * WIDE)
      if (from < to) OF_ROWS(rows, SUMS)
#undef SUMS
    }
}

/* y += p' x over the queries; x: panels of QUERIES rows; y: panels of `apart` rows, one a key. */
static void add_columns(const struct span *s, const float *p, const float *x, int64_t apart, float *y) {
  for (int d = 0; d < s->width; d += WIDE, x += QUERIES * WIDE, y += apart * WIDE)
    for (int64_t key = s->begin; key < s->end; key += TALL) {
      const int keys = (int)least(TALL, s->end - key);
      const int64_t from = largest(0, key - s->first);
      const int64_t to = s->window ? least(s->rows, key + keys - 1 + s->window - s->first) : s->rows;
      const float *at = p + from * STRIDE + key - s->begin;
#define SUMS(n) sum_tile(at, 1, STRIDE, x + from * WIDE, to - from, n, y + key * WIDE)
      if (from < to) OF_ROWS(keys, SUMS)
#undef SUMS
    }
}

/* Which of the block's keys a query sees, and how far around them zeros are read. */
struct seen {
  int low, high, from, to;
};

INLINE struct seen seen_by(const struct span *s, int r) {
  const int64_t query = s->first + r, keys = s->end - s->begin;
  const int low = (int)least(keys, largest(0, lowest(query, s->window) - s->begin));
  const int high = (int)largest(low, least(keys, query + 1 - s->begin));
  return (struct seen){low, high, (int)largest(0, low / 8 * 8 - 8), (int)least(KEYS, upwards(high, 8) + 8)};
}

static const struct seen ALL = {0, KEYS, 0, KEYS};

INLINE int all_seen(struct seen seen) { return seen.low == 0 && seen.high == KEYS; }

/* All bits set at the places of [at, at + 8) that are seen. */
INLINE __m256 seen8(struct seen seen, int at) {
  const __m256i lane = _mm256_add_epi32(_mm256_set1_epi32(at), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.low), lane);
  return _mm256_castsi256_ps(_mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.high), lane)));
}

/* 2^x within one unit of the last place for x that is not above 0 (Cephes, exp2f); 0 below -127, what is no number
 * stays none. Adding SHIFT leaves the nearest integer, raised as an exponent is, in the lowest bits. */
INLINE __m256 power8(__m256 x) {
  const __m256 shift = _mm256_set1_ps(12582912.0f + 127.0f);
  x = _mm256_max_ps(_mm256_set1_ps(-127.0f), x); /* of a number and none, the second */
  const __m256 shifted = _mm256_add_ps(x, shift), f = _mm256_sub_ps(x, _mm256_sub_ps(shifted, shift));
  __m256 p = _mm256_set1_ps(1.535336188e-4f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.339887440e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.618437357e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550332471e-2f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.402264791e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.931472029e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}

/* One query's scores become its shares; gives what its earlier sums are multiplied by. */
INLINE float shares_of(float *scores, struct seen seen, int whole, float *most, float *total) {
  __m256 top = _mm256_set1_ps(*most), sum = _mm256_setzero_ps();
  for (int at = seen.low / 8 * 8; at < seen.high; at += 8) {
    const __m256 v = _mm256_loadu_ps(scores + at);
    top = _mm256_max_ps(whole ? v : _mm256_blendv_ps(top, v, seen8(seen, at)), top);
  }
  const float now = max8(top);
  for (int at = seen.from; at < seen.to; at += 8) {
    __m256 share = power8(_mm256_sub_ps(_mm256_loadu_ps(scores + at), _mm256_set1_ps(now)));
    if (!whole) share = _mm256_and_ps(seen8(seen, at), share);
    _mm256_storeu_ps(scores + at, share);
    sum = _mm256_add_ps(sum, share);
  }
  if (seen.low == seen.high) return 1.0f;
  const float by = *most == now ? 1.0f : _mm256_cvtss_f32(power8(_mm256_set1_ps(*most - now)));
  *total = *total * by + sum8(sum);
  *most = now;
  return by;
}

static void pack_forward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct example *e = job->parts.examples + item / a->kv_heads;
  const int head = item % a->kv_heads;
  turn(row(a->k, head, e->begin), a->k.token, e->length, a->dim, job->width, plane(job, TURNED_KEYS, head, e));
  panels(row(a->v, head, e->begin), a->v.token, e->length, a->dim, job->width, 1.0f, e->padded,
         plane(job, PLAIN, head, e));
}

/* A block of queries of one head. */
static void forward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct block *block = job->parts.blocks + item / a->heads;
  const struct example *e = job->parts.examples + block->example;
  const int64_t head = item % a->heads, kv_head = head / (a->heads / a->kv_heads), token = e->begin + block->first;
  const float *keys = plane(job, TURNED_KEYS, kv_head, e), *values = plane(job, PLAIN, kv_head, e);
  _Alignas(64) float q[ATTENTION_DIM * QUERIES], o[ATTENTION_DIM * QUERIES], scores[QUERIES * STRIDE];
  float most[QUERIES], total[QUERIES];
  struct span s = {.first = block->first, .window = a->window, .width = job->width};
  s.rows = (int)least(QUERIES, e->length - block->first);
  panels(row(a->q, head, token), a->q.token, s.rows, a->dim, s.width, a->scale * LOG2E, QUERIES, q);
  memset(o, 0, sizeof(float) * QUERIES * s.width);
  for (int r = 0; r < s.rows; r++) most[r] = -INFINITY, total[r] = 0.0f;
  for (s.begin = lowest(s.first, s.window) / KEYS * KEYS; s.begin < s.first + s.rows; s.begin += KEYS) {
    s.end = least(s.begin + KEYS, s.first + s.rows);
    dots_of(&s, q, keys, scores);
    for (int r = 0; r < s.rows; r++) {
      const struct seen seen = seen_by(&s, r);
      float *const at = scores + r * STRIDE;
      const float by = all_seen(seen) ? shares_of(at, ALL, 1, most + r, total + r)
                                      : shares_of(at, seen, 0, most + r, total + r);
      if (by == 1.0f) continue;
      for (int d = 0; d < s.width; d += WIDE)
        for (int i = 0; i < WIDE; i++) o[d * QUERIES + r * WIDE + i] *= by;
    }
    add_rows(&s, scores, values, e->padded, o);
  }
  for (int r = 0; r < s.rows; r++) {
    float *shares = a->shares + (head * a->tokens + token + r) * 2;
    shares[0] = most[r];
    shares[1] = 1.0f / total[r];
    row_of(o, QUERIES, r, a->dim, shares[1], a->out + ((token + r) * a->heads + head) * a->dim);
  }
}

void attention_forward(struct pool *pool, struct attention *a) {
  struct job job = job_of(a);
  pool_run(pool, pack_forward, &job, (int)(a->examples * a->kv_heads));
  pool_run(pool, forward, &job, (int)(job.parts.count * a->heads));
}

static void pack_backward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct example *e = job->parts.examples + item / a->kv_heads;
  const int head = item % a->kv_heads;
  const float *k = row(a->k, head, e->begin), *v = row(a->v, head, e->begin);
  turn(k, a->k.token, e->length, a->dim, job->width, plane(job, TURNED_KEYS, head, e));
  turn(v, a->v.token, e->length, a->dim, job->width, plane(job, TURNED_VALUES, head, e));
  panels(k, a->k.token, e->length, a->dim, job->width, 1.0f, e->padded, plane(job, PLAIN, head, e));
}

/* Scores become shares, and the shares' gradients those of the scores. */
INLINE void share_gradients(float *scores, float *grads, struct seen seen, int whole, const float *shares,
                            float delta) {
  const __m256 most8 = _mm256_set1_ps(shares[0]), by8 = _mm256_set1_ps(shares[1]), delta8 = _mm256_set1_ps(delta);
  for (int at = seen.from; at < seen.to; at += 8) {
    __m256 share = _mm256_mul_ps(by8, power8(_mm256_sub_ps(_mm256_loadu_ps(scores + at), most8)));
    __m256 grad = _mm256_mul_ps(share, _mm256_sub_ps(_mm256_loadu_ps(grads + at), delta8));
    if (!whole) {
      share = _mm256_and_ps(seen8(seen, at), share);
      grad = _mm256_and_ps(seen8(seen, at), grad);
    }
    _mm256_storeu_ps(scores + at, share);
    _mm256_storeu_ps(grads + at, grad);
  }
}

INLINE float dot(const float *x, const float *y, int dim) {
  __m256 sum = _mm256_setzero_ps();
  for (int d = 0; d < dim; d += 8) sum = _mm256_fmadd_ps(_mm256_loadu_ps(x + d), _mm256_loadu_ps(y + d), sum);
  return sum8(sum);
}

/* A block of queries of one head: its gradient, and what it adds to those of keys and values. */
static void back_block(const struct job *job, const struct example *e, int64_t head, int64_t first, float *dk,
                       float *dv) {
  const struct attention *a = job->a;
  const int64_t kv_head = head / (a->heads / a->kv_heads), token = e->begin + first;
  const float *keys = plane(job, PLAIN, kv_head, e), *turned_keys = plane(job, TURNED_KEYS, kv_head, e);
  const float *values = plane(job, TURNED_VALUES, kv_head, e);
  _Alignas(64) float q[ATTENTION_DIM * QUERIES], grad[ATTENTION_DIM * QUERIES], dq[ATTENTION_DIM * QUERIES];
  _Alignas(64) float scores[QUERIES * STRIDE], grads[QUERIES * STRIDE];
  const float *const shares = a->shares + (head * a->tokens + token) * 2;
  float delta[QUERIES];
  struct span s = {.first = first, .window = a->window, .width = job->width};
  s.rows = (int)least(QUERIES, e->length - first);
  panels(row(a->q, head, token), a->q.token, s.rows, a->dim, s.width, a->scale * LOG2E, QUERIES, q);
  panels(row(a->grad, head, token), a->grad.token, s.rows, a->dim, s.width, 1.0f, QUERIES, grad);
  memset(dq, 0, sizeof(float) * QUERIES * s.width);
  for (int r = 0; r < s.rows; r++)
    delta[r] = dot(row(a->grad, head, token + r), a->out + ((token + r) * a->heads + head) * a->dim, a->dim);
  for (s.begin = lowest(first, s.window) / KEYS * KEYS; s.begin < first + s.rows; s.begin += KEYS) {
    s.end = least(s.begin + KEYS, first + s.rows);
    dots_of(&s, q, turned_keys, scores);
    dots_of(&s, grad, values, grads);
    for (int r = 0; r < s.rows; r++) {
      const struct seen seen = seen_by(&s, r);
      if (all_seen(seen))
        share_gradients(scores + r * STRIDE, grads + r * STRIDE, ALL, 1, shares + 2 * r, delta[r]);
      else
        share_gradients(scores + r * STRIDE, grads + r * STRIDE, seen, 0, shares + 2 * r, delta[r]);
    }
    add_columns(&s, scores, grad, e->padded, dv);
    add_columns(&s, grads, q, e->padded, dk);
    add_rows(&s, grads, keys, e->padded, dq);
  }
  for (int r = 0; r < s.rows; r++)
    row_of(dq, QUERIES, r, a->dim, a->scale, a->dq + ((token + r) * a->heads + head) * a->dim);
}

/* One query head, or those that share keys, one after the other. */
static void backward(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct task *task = job->parts.tasks + item;
  const struct example *e = job->parts.examples + task->example;
  float *dk = plane(job, PLANES, task->head, e), *dv = plane(job, PLANES + 1, task->head, e);
  memset(dk, 0, sizeof(float) * e->padded * job->width);
  memset(dv, 0, sizeof(float) * e->padded * job->width);
  for (int64_t head = task->head; head < task->head + task->heads; head++)
    for (int64_t first = 0; first < e->length; first += QUERIES) back_block(job, e, head, first, dk, dv);
}

/* Rows of the gradients of a head's keys and values, out of their panels and over the query heads in order. */
static void gather(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct attention *a = job->a;
  const struct block *block = job->parts.blocks + item / a->kv_heads;
  const struct example *e = job->parts.examples + block->example;
  const int64_t head = item % a->kv_heads, group = a->heads / a->kv_heads, heads = e->length > SHORT ? group : 1;
  const int64_t last = least(block->first + QUERIES, e->length);
  for (int kind = 0; kind < 2; kind++) {
    const float *from = plane(job, PLANES + kind, head * group, e);
    const int64_t next = plane(job, PLANES + kind, head * group + 1, e) - from;
    const __m256 by = _mm256_set1_ps(kind ? 1.0f : 1.0f / LOG2E);
    float *to = (kind ? a->dv : a->dk) + (e->begin * a->kv_heads + head) * a->dim;
    for (int d = 0; d < a->dim; d += 8)
      for (int64_t r = block->first; r < last; r++) {
        const float *at = from + d / WIDE * e->padded * WIDE + r * WIDE + d % WIDE;
        __m256 sum = _mm256_loadu_ps(at);
        for (int64_t i = 1; i < heads; i++) sum = _mm256_add_ps(sum, _mm256_loadu_ps(at + i * next));
        _mm256_storeu_ps(to + r * a->kv_heads * a->dim + d, _mm256_mul_ps(by, sum));
      }
  }
}

void attention_backward(struct pool *pool, struct attention *a) {
  struct job job = job_of(a);
  pool_run(pool, pack_backward, &job, (int)(a->examples * a->kv_heads));
  pool_run(pool, backward, &job, (int)job.parts.task_count);
  pool_run(pool, gather, &job, (int)(job.parts.count * a->kv_heads));
}
