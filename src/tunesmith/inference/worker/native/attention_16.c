/* Attention over keys and values of bfloat16 by tiles: FlashAttention as in attention.h, with blocks that begin at the
 * same places, and what is said there of cuts and neighbours.
 *
 * Scores lie turned, a position a row and a query a lane: keys are a factor as they lie in the cache, and a query's
 * maximum, shares and sum are made lane by lane. Queries and shares are rounded to bfloat16, sums are float32; shares
 * are summed as they were rounded, so that they make up one. Heads whose width is not whole tiles are filled up with
 * zeros, and so are positions that are not there yet: nothing is read that the row has not written. */
#include "attention_16.h"

#include "pairs_16.h"
#include "tiles.h"

#if HAVE_WIDE
WIDE_BEGIN

#define INLINE static inline __attribute__((always_inline))
#define SIDE 16           /* queries, positions or sums of a tile */
#define DEEP 32           /* numbers along the sum of a tile, and positions taken together */
#define NUMBERS 512       /* of 16 bits in a tile */
#define LOG2E 1.44269504f /* e^score is a power of two */

static int whole(int width) { return (width + DEEP - 1) / DEEP * DEEP; }

static int tiles_of(int queries) { return (queries + SIDE - 1) / SIDE; }

/* One item's memory, and what it is about. */
struct job {
  const struct attention *w;
  struct share share;
  int width, tiles, window; /* width: with what is filled up; tiles: of queries */
  __m512 scale;
  uint16_t *q;      /* (tiles, width / 32, 16 pairs, 16 queries, 2) */
  uint16_t *keys;   /* (SPAN, width): of positions that tiles cannot have from the cache */
  uint16_t *values; /* (2, width / 16, 16 pairs of positions, 16, 2) */
  uint16_t *shares; /* of two tiles of queries: (2, 2, 16 queries, 32 positions) */
  float *scores;    /* of the same: (2, SPAN, 16 queries) */
  float *out;       /* (tiles, 16 queries, width), numbers in the order of `values` */
  float *most, *total, *kept; /* (tiles, 16); kept: what earlier sums are multiplied by */
  int32_t *at; /* (tiles, 16): positions */
};

static char *part_of(char **room, long bytes) {
  char *part = *room;
  *room += (bytes + 63) / 64 * 64;
  return part;
}

static void laid_out(struct job *j, char *room) {
  const long tiles = j->tiles, width = j->width;
  j->q = (uint16_t *)part_of(&room, tiles * width * SIDE * 2);
  j->keys = (uint16_t *)part_of(&room, SPAN * width * 2);
  j->values = (uint16_t *)part_of(&room, SPAN * width * 2);
  j->shares = (uint16_t *)part_of(&room, 2 * SIDE * SPAN * 2);
  j->scores = (float *)part_of(&room, 2 * SIDE * SPAN * 4);
  j->out = (float *)part_of(&room, tiles * SIDE * width * 4);
  j->most = (float *)part_of(&room, tiles * SIDE * 4);
  j->total = (float *)part_of(&room, tiles * SIDE * 4);
  j->kept = (float *)part_of(&room, tiles * SIDE * 4);
  j->at = (int32_t *)part_of(&room, tiles * SIDE * 4);
}

long attention_room_16(const struct model *m) {
  const long tiles = tiles_of(queries_at_most(m)), width = whole(m->head_width);
  return tiles * SIDE * (width * 6 + 4 * 4) + 2 * SIDE * SPAN * 6 + 2 * SPAN * width * 2;
}

void rounded_16(const float *from, int count, uint16_t *to) {
  for (int i = 0; i < count; i += 16)
    _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
}

/* Tiles are read and written behind the compiler's back. */
INLINE void settled(void) { __asm__ volatile("" : : : "memory"); }

/* A factor's tiles: bytes of a row, and numbers from one to the next along the sum and across it. */
struct factor {
  const uint16_t *at;
  long row, along, across;
};

/* Where sums go: bytes of a row, and numbers to the next tile down and to the right. */
struct sums {
  float *at;
  long row, down, right;
};

/* One or two tiles of `a` by one or two of `b` over `steps` tiles, added to the sums or not. */
INLINE void product(struct factor a, int high, struct factor b, int wide, int steps, int added, struct sums c) {
  settled();
  if (added) {
    _tile_loadd(0, c.at, c.row);
    if (wide == 2) _tile_loadd(1, c.at + c.right, c.row);
    if (high == 2) _tile_loadd(2, c.at + c.down, c.row);
    if (high == 2 && wide == 2) _tile_loadd(3, c.at + c.down + c.right, c.row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long k = 0; k < steps; k++) {
    _tile_loadd(4, a.at + k * a.along, a.row);
    _tile_loadd(6, b.at + k * b.along, b.row);
    _tile_dpbf16ps(0, 4, 6);
    if (wide == 2) {
      _tile_loadd(7, b.at + k * b.along + b.across, b.row);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (high == 2) {
      _tile_loadd(5, a.at + k * a.along + a.across, a.row);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (high == 2 && wide == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c.at, c.row);
  if (wide == 2) _tile_stored(1, c.at + c.right, c.row);
  if (high == 2) _tile_stored(2, c.at + c.down, c.row);
  if (high == 2 && wide == 2) _tile_stored(3, c.at + c.down + c.right, c.row);
  settled();
}

INLINE __mmask16 first_of(int count) { return count >= 16 ? 0xffff : count > 0 ? (__mmask16)((1u << count) - 1) : 0; }

INLINE __mmask32 first_of_32(int count) { return count >= 32 ? ~0u : count > 0 ? (1u << count) - 1 : 0; }

/* Queries, rounded and turned by pairs; positions. Lanes left over are queries of zeros at the last position. */
static void take_queries(const struct job *j) {
  const struct share *s = &j->share;
  const struct model *m = j->w->model;
  const int dim = m->head_width;
  const long size = (long)(m->heads + 2 * m->kv_heads) * dim;
  uint16_t *to = j->q;
  for (int first = 0, token = 0, head = 0; first < j->tiles * SIDE; first += SIDE) {
    const float *from[SIDE];
    for (int i = first; i < first + SIDE; i++) {
      const int there = i < s->queries;
      from[i - first] = there ? j->w->qkv + (s->first + token) * size + (long)(s->head + head) * dim : NULL;
      j->at[i] = there ? s->here + token : s->stop - 1;
      j->most[i] = -INFINITY, j->total[i] = 0.0f;
      if (++head == s->group) head = 0, token++;
    }
    for (int d = 0; d < j->width; d += DEEP, to += NUMBERS) {
      const __mmask16 low = first_of(dim - d), high = first_of(dim - d - 16);
      __m512i r[16];
#pragma GCC unroll 1
      for (int i = 0; i < SIDE; i++) {
        r[i] = _mm512_setzero_si512();
        if (!from[i]) continue;
        r[i] = narrowed(_mm512_maskz_loadu_ps(low, from[i] + d), _mm512_maskz_loadu_ps(high, from[i] + d + 16));
      }
      turned16(r);
#pragma GCC unroll 16
      for (int i = 0; i < SIDE; i++) _mm512_store_si512(to + i * 32, r[i]);
    }
  }
}

/* Keys of 32 positions, `count` of which are there, by rows of whole tiles. */
static const uint16_t *lay_keys(const struct job *j, const uint16_t *keys, int count, uint16_t *to) {
  const int dim = j->w->model->head_width;
  if (count >= DEEP && dim == j->width) return keys;
  for (int i = 0; i < DEEP; i++)
    for (int d = 0; d < j->width; d += 32) {
      const __mmask32 there = i < count ? first_of_32(dim - d) : 0;
      _mm512_store_si512(to + i * j->width + d, _mm512_maskz_loadu_epi16(there, keys + (long)i * dim + d));
    }
  return to;
}

/* Scores of 32 positions for one or two tiles of queries. */
INLINE void score(const struct job *j, const uint16_t *keys, int n, int wide, float *scores) {
  const int steps = j->width / DEEP;
  const struct factor a = {keys, 2 * j->width, DEEP, SIDE * j->width};
  const struct factor b = {j->q + (long)n * steps * NUMBERS, 64, NUMBERS, (long)steps * NUMBERS};
  product(a, 2, b, wide, steps, 0, (struct sums){scores, 64, SIDE * SIDE, SPAN * SIDE});
}

/* Values of 32 positions, `count` of which are there, by pairs. Of 32 numbers the first tile has 0 to 3, 8 to 11, ..,
 * the second the others: so they come out of one instruction. */
static void pair_values(const struct job *j, const uint16_t *values, int count, uint16_t *to) {
  const int dim = j->w->model->head_width;
  for (int d = 0; d < j->width; d += 32, to += 2 * NUMBERS) {
    const __mmask32 in = first_of_32(dim - d);
#pragma GCC unroll 4
    for (int i = 0; i < SIDE; i++) {
      const uint16_t *at = values + 2L * i * dim + d;
      const __m512i even = _mm512_maskz_loadu_epi16(2 * i < count ? in : 0, at);
      const __m512i odd = _mm512_maskz_loadu_epi16(2 * i + 1 < count ? in : 0, at + dim);
      _mm512_store_si512(to + i * 32, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(to + NUMBERS + i * 32, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

/* Which of sixteen queries see a position. */
INLINE __mmask16 seeing(__m512i at, int position, int window) {
  const __mmask16 before = _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(position));
  if (!window) return before;
  return _mm512_mask_cmplt_epi32_mask(before, at, _mm512_set1_epi32(position + window));
}

/* A position's score, or minus infinity for whom it is masked. */
INLINE __m512 seen_score(const float *scores, int i, int all, __m512i at, int p, int window) {
  const __m512 score = _mm512_load_ps(scores + i * SIDE);
  return all ? score : _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seeing(at, p + i, window), score);
}

INLINE __m512 top_of(const float *scores, int steps, int all, __m512i at, int p, int window, __m512 most) {
  __m512 top[4] = {most, most, most, most};
  for (int i = 0; i < steps * DEEP; i += 4)
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++) /* of no number and a number, the second */
      top[n] = _mm512_max_ps(seen_score(scores, i + n, all, at, p, window), top[n]);
  return _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
}

/* Scores of 32 positions become shares, the queries their rows. */
INLINE __m512 share_step(const float *scores, int all, __m512i at, int p, int window, __m512 scale, __m512 most,
                         __m512 total, uint16_t *to) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  __m512 more = _mm512_setzero_ps();
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < SIDE; i++) {
    __m512 share[2];
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      share[k] = power16(_mm512_fmsub_ps(_mm512_load_ps(scores + (2 * i + k) * SIDE), scale, most));
      if (!all) share[k] = _mm512_maskz_mov_ps(seeing(at, p + 2 * i + k, window), share[k]);
    }
    r[i] = halves_paired(narrowed(share[0], share[1]));
    if (i % 2)
      more = _mm512_dpbf16_ps(more, (__m512bh)r[i], ones);
    else
      total = _mm512_dpbf16_ps(total, (__m512bh)r[i], ones);
  }
  turned16(r);
#pragma GCC unroll 16
  for (int i = 0; i < SIDE; i++) _mm512_store_si512(to + i * 32, r[i]);
  return _mm512_add_ps(total, more);
}

INLINE __mmask16 shares_when(const struct job *j, int n, int p, int steps, int all) {
  const float *scores = j->scores + n % 2 * SPAN * SIDE;
  uint16_t *to = j->shares + n % 2 * SPAN * SIDE;
  const __m512i at = _mm512_load_si512(j->at + n * SIDE);
  const __m512 before = _mm512_load_ps(j->most + n * SIDE);
  const __m512 most = top_of(scores, steps, all, at, p, j->window, before);
  const __m512 scaled = _mm512_mul_ps(most, j->scale);
  const __mmask16 raised = _mm512_cmp_ps_mask(before, most, _CMP_NEQ_UQ);
  const __m512 less = _mm512_sub_ps(_mm512_mul_ps(before, j->scale), scaled);
  const __m512 kept = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), raised, power16(less));
  __m512 total = _mm512_mul_ps(_mm512_load_ps(j->total + n * SIDE), kept);
  for (int step = 0; step < steps; step++)
    total = share_step(scores + step * DEEP * SIDE, all, at, p + step * DEEP, j->window, j->scale, scaled, total,
                       to + step * NUMBERS);
  _mm512_store_ps(j->most + n * SIDE, most);
  _mm512_store_ps(j->kept + n * SIDE, kept);
  _mm512_store_ps(j->total + n * SIDE, total);
  return raised;
}

/* Scores of a block become shares for sixteen queries; gives whose earlier sums have to be multiplied by `kept`. */
static __mmask16 shares_of(const struct job *j, int n, int p, int steps) {
  const int32_t *at = j->at + n * SIDE;
  if (p + steps * DEEP - 1 <= at[0] && (!j->window || p > at[SIDE - 1] - j->window))
    return shares_when(j, n, p, steps, 1);
  return shares_when(j, n, p, steps, 0);
}

static void sums_kept(const struct job *j, int n, __mmask16 which) {
  const int left = j->share.queries - n * SIDE;
  for (int i = 0; i < SIDE && i < left; i++) {
    if (!(which >> i & 1)) continue;
    const __m512 by = _mm512_set1_ps(j->kept[n * SIDE + i]);
    float *row = j->out + (long)(n * SIDE + i) * j->width;
    for (int d = 0; d < j->width; d += 16) _mm512_store_ps(row + d, _mm512_mul_ps(by, _mm512_load_ps(row + d)));
  }
}

/* out (+)= shares values, of one or two tiles of queries */
INLINE void add_values(const struct job *j, int n, int high, int steps, int added) {
  const long width = j->width;
  const struct factor a = {j->shares, 64, NUMBERS, SPAN * SIDE};
  for (int d = 0; d < width; d += 2 * SIDE) {
    const struct factor b = {j->values + d / SIDE * NUMBERS, 64, width / SIDE * NUMBERS, NUMBERS};
    product(a, high, b, 2, steps, added, (struct sums){j->out + n * SIDE * width + d, 4 * width, SIDE * width, SIDE});
  }
}

/* What one or two tiles of queries see of a block. */
INLINE void see(const struct job *j, int n, int count, const uint16_t *const *keys, int p, int steps, int added) {
  for (int step = 0; step < steps; step++) score(j, keys[step], n, count, j->scores + step * DEEP * SIDE);
  for (int i = n; i < n + count; i++) {
    const __mmask16 raised = shares_of(j, i, p, steps);
    if (added && raised) sums_kept(j, i, raised);
  }
  add_values(j, n, count, steps, added);
}

static void give_out(const struct job *j) {
  const struct share *s = &j->share;
  const struct model *m = j->w->model;
  const int dim = m->head_width;
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int i = 0; i < s->queries; i++) {
    const float *from = j->out + (long)i * j->width;
    float *to = j->w->seen + ((long)(s->first + i / s->group) * m->heads + s->head + i % s->group) * dim;
    const __m512 by = _mm512_set1_ps(1.0f / j->total[i]);
    for (int d = 0; d < dim; d += 32) {
      const __m512d a = _mm512_castps_pd(_mm512_mul_ps(by, _mm512_load_ps(from + d)));
      const __m512d b = _mm512_castps_pd(_mm512_mul_ps(by, _mm512_load_ps(from + d + 16)));
      _mm512_storeu_ps(to + d, _mm512_castpd_ps(_mm512_permutex2var_pd(a, low, b)));
      if (d + 16 < dim) _mm512_storeu_ps(to + d + 16, _mm512_castpd_ps(_mm512_permutex2var_pd(a, high, b)));
    }
  }
}

void attend_item_16(void *context, int item, int thread) {
  const struct attention *w = context;
  const struct model *m = w->model;
  const struct layer *layer = &m->layers[w->layer];
  struct job j = {.w = w, .share = share_of(w, item), .width = whole(m->head_width), .window = layer->window};
  const struct share *s = &j.share;
  j.tiles = tiles_of(s->queries);
  j.scale = _mm512_set1_ps(layer->scaling * LOG2E);
  laid_out(&j, w->room + w->each * thread);
  const uint16_t *keys = (const uint16_t *)s->row->keys[w->layer] + s->slot;
  const uint16_t *values = (const uint16_t *)s->row->values[w->layer] + s->slot;
  tiles_begin(&(struct tiled){.height = SIDE});
  take_queries(&j);
  for (int p = s->begin; p < s->stop; p += SPAN) {
    const int count = s->stop - p < SPAN ? s->stop - p : SPAN, steps = (count + DEEP - 1) / DEEP;
    const uint16_t *laid[SPAN / DEEP];
    for (int step = 0; step < steps; step++) {
      const long done = step * DEEP, at = (p + done) * m->head_width;
      laid[step] = lay_keys(&j, keys + at, count - done, j.keys + done * j.width);
      pair_values(&j, values + at, count - done, j.values + done * j.width);
    }
    for (int n = 0; n < j.tiles; n += 2) {
      if (n + 1 < j.tiles)
        see(&j, n, 2, laid, p, steps, p > s->begin);
      else
        see(&j, n, 1, laid, p, steps, p > s->begin);
    }
  }
  give_out(&j);
  tiles_end();
}

WIDE_END
#else /* never called: nothing is kept so */
long attention_room_16(const struct model *m) { return (void)m, 0; }
void attend_item_16(void *context, int item, int thread) { (void)context, (void)item, (void)thread; }
void rounded_16(const float *from, int count, uint16_t *to) { (void)from, (void)count, (void)to; }
#endif
