/* FlashAttention (arXiv:2205.14135) in tiles of bfloat16: as attention.c, with scores, their exponentials and all sums
 * in float32. */
#include "attention.h"

#include "heads_16.h"
#include "pool.h"

#if HAVE_WIDE
WIDE_BEGIN

#define KEYS 64 /* of a block: its scores stay in the first cache */

int64_t attention_room_16(const struct attention *a, int backward) {
  const int64_t packed = PLANES * a->kv_heads * most_rows(a, SIZES) * (int64_t)sizeof(uint16_t);
  const int64_t sums = backward ? 2 * rows_of_tasks(a, SIZES) * (int64_t)sizeof(float) : 0;
  return tables_room(a, SIZES) + (packed + sums) * upwards(a->dim, PIECE);
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
               (struct strip){shares, TILE, KEYS / PIECE * TILE}, (end - begin) / PIECE, begin > lowest_key,
               out + d * 16, SUMS, 16 * width, 64);
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

WIDE_END
#endif
