/* Matrix products of bfloat16 on tiles, summed in float32 (AMX).
 *
 * Rows of x are tiles as they lie. The weight is packed while it is used: a block of the summed dimension of a group of
 * panels at a time, which then comes from the second cache, while a piece of a stripe of x stays in the first. Between
 * pieces the sums of a stripe lie in memory, in float32. What is left of the summed dimension behind the last whole
 * step, and the middle of the branch, are rows of their own beside x, and further steps of the last block.
 *
 * A row's sums depend on that row alone and are taken from the first step to the last: the same bytes for any number of
 * threads and of rows.
 */
#include "fixed.h"
#include "pool.h"
#include "tiled.h"

#if HAVE_WIDE
#define PIECE 7    /* steps: those of a stripe, of a panel and the sums stay in the first cache */
#define LENGTH 28  /* most steps of a block, which are packed together with those of */
#define GROUP 16   /* most panels: 0.9 MB */
#define ROWS 1024  /* most rows of an item: their sums are 2 MB where there are several blocks */
#define FEWEST 4   /* panels of a group, where there are many threads */
#define PARTS 2    /* for each thread, of the rows of the last groups; each part packs them again */
#define TOGETHER 4 /* stripes of an item of the middle */
#define CHUNK 32   /* steps of a factor packed by an item */

struct job {
  const struct product *product;
  int64_t steps, tail, blocks, length; /* whole steps, numbers behind them; blocks of steps, and how many of one */
  int64_t stripes, panels, groups, group;
  int64_t ranks, beside;               /* steps of the rank, and numbers of a row beside x */
  int64_t alone, parts, late;          /* groups by `parts` of the rows, and those after them by `late` */
  uint16_t *rows;                      /* (stripes * STRIPE, beside): the tail and the middle of each */
  uint16_t *last;                      /* (STRIPE, inner): the last stripe, where it is not whole */
  uint16_t *first, *second;            /* (ranks, steps + 1, PACKED) and (panels, ranks, PACKED) */
  char *own;                           /* of each thread */
  int64_t each;
};

/* What a thread has for itself, laid out in job->own. */
struct own {
  uint16_t *panels; /* (pieces, group, PIECE, PACKED) */
  uint16_t *tails;  /* (group, PACKED) */
  float *sums;      /* (stripes of an item, or one with one block, group, STRIPE * PANEL), tile by tile */
};

WIDE_BEGIN

/* One step of a stripe, rows `bytes` apart, and one of a panel in tiles 4 to 7. */
INLINE void loaded(const uint16_t *a, int64_t bytes, const uint16_t *b) {
  _tile_loadd(4, a, bytes);
  _tile_loadd(6, b, 64);
  _tile_loadd(5, a + SIDE / 2 * bytes, bytes);
  _tile_loadd(7, b + TILE, 64);
}

/* Tiles 0 to 3, (2, 2), += their product. */
INLINE void multiplied_step(void) {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

/* The same over `steps`. */
INLINE void multiplied16(const uint16_t *a, int64_t stride, const uint16_t *b, int64_t steps) {
  for (int64_t step = 0; step < steps; step++, a += STEP, b += PACKED) {
    loaded(a, stride * (int64_t)sizeof *a, b);
    multiplied_step();
  }
}

/* The same with one tile of columns. */
INLINE void multiplied_narrow(const uint16_t *a, int64_t stride, const uint16_t *b, int64_t steps) {
  const int64_t bytes = stride * (int64_t)sizeof *a;
  for (int64_t step = 0; step < steps; step++, a += STEP, b += PACKED) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + SIDE * stride, bytes);
    _tile_dpbf16ps(2, 5, 6);
  }
}

INLINE void cleared(void) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/* The rows of a stripe as they lie, or the copy of the last. */
INLINE const uint16_t *stripe_of(const struct job *job, int64_t stripe) {
  const struct product *p = job->product;
  return (stripe + 1) * STRIPE > p->rows ? job->last : (const uint16_t *)p->x + stripe * STRIPE * p->inner;
}

/* The middle of a stripe: in float32 for whoever called, and rounded beside x. */
static void middle_of(const struct job *job, int64_t stripe) {
  const struct product *p = job->product;
  const uint16_t *x = stripe_of(job, stripe);
  uint16_t *rows = job->rows + stripe * STRIPE * job->beside, *to = rows + (job->tail ? STEP : 0);
  const int64_t stride = ROUND_UP(p->rank, SIDE);
  float *middle = p->middle + stripe * STRIPE * stride;
  for (int64_t at = 0; at < job->ranks; at++, middle += PANEL, to += STEP) {
    const uint16_t *first = job->first + at * (job->steps + 1) * PACKED;
    const int narrow = p->rank - at * STEP <= SIDE;
    cleared();
    if (narrow) {
      multiplied_narrow(x, p->inner, first, job->steps);
      multiplied_narrow(rows, job->beside, first + job->steps * PACKED, job->tail > 0);
    } else {
      multiplied16(x, p->inner, first, job->steps);
      multiplied16(rows, job->beside, first + job->steps * PACKED, job->tail > 0);
      _tile_stored(1, middle + SIDE, stride * 4);
      _tile_stored(3, middle + SIDE * stride + SIDE, stride * 4);
    }
    _tile_stored(0, middle, stride * 4);
    _tile_stored(2, middle + SIDE * stride, stride * 4);
    for (int row = 0; row < STRIPE; row++) {
      const float *from = middle + row * stride;
      const __m512 high = narrow ? _mm512_setzero_ps() : _mm512_loadu_ps(from + SIDE);
      _mm512_storeu_si512(to + row * job->beside, narrowed(_mm512_loadu_ps(from), high));
    }
  }
}

/* Whatever of some stripes lies beside x. */
static void beside(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct product *p = job->product;
  const int64_t begin = (int64_t)item * TOGETHER, behind = begin + TOGETHER;
  const int64_t end = behind < job->stripes ? behind : job->stripes;
  tiles_begin();
  for (int64_t stripe = begin; stripe < end; stripe++) {
    const int64_t first = stripe * STRIPE, here = p->rows - first < STRIPE ? p->rows - first : STRIPE;
    const uint16_t *x = (const uint16_t *)p->x + first * p->inner;
    if (here < STRIPE) {
      memcpy(job->last, x, here * p->inner * sizeof *x);
      memset(job->last + here * p->inner, 0, (STRIPE - here) * p->inner * sizeof *x);
      x = job->last;
    }
    for (int row = 0; row < STRIPE && job->tail; row++) {
      const __m512i v = _mm512_maskz_loadu_epi16(mask32(job->tail), x + row * p->inner + job->steps * STEP);
      _mm512_storeu_si512(job->rows + (first + row) * job->beside, v);
    }
    written();
    middle_of(job, stripe);
  }
  tiles_end();
}

/* One step of a panel of the weight, from the inner place `begin` on. */
INLINE void pack_step(const struct product *p, int64_t column, int64_t begin, uint16_t *to) {
  const int64_t columns = p->columns - column, here = p->inner - begin;
  const uint16_t *weight = p->weight;
  if (p->plain) {
    const uint16_t *from = weight + begin * p->columns + column;
    pack_rows16(from, p->columns, here, columns, to);
  } else {
    pack_columns16(weight + column * p->inner + begin, p->inner, here, columns, to);
    pack_columns16(weight + (column + SIDE) * p->inner + begin, p->inner, here, columns - SIDE, to + TILE);
  }
}

static int64_t chunks(const struct job *job) { return (job->steps + 1 + CHUNK - 1) / CHUNK; }

/* Both factors of the branch. */
static void factors(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct product *p = job->product;
  const int64_t firsts = job->ranks * chunks(job);
  if (item < firsts) {
    const int64_t panel = item / chunks(job), begin = item % chunks(job) * CHUNK;
    uint16_t *to = job->first + panel * (job->steps + 1) * PACKED;
    for (int64_t step = begin; step < begin + CHUNK && step < job->steps + (job->tail > 0); step++)
      pack_factor16(&p->first, p->inner, p->rank, step * STEP, panel * PANEL, to + step * PACKED);
    return;
  }
  const int64_t panel = item - firsts;
  for (int64_t step = 0; step < job->ranks; step++)
    pack_factor16(&p->second, p->rank, p->columns, step * STEP, panel * PANEL,
                  job->second + (panel * job->ranks + step) * PACKED);
}

INLINE __m512 found_in(const struct product *p, int64_t at, __mmask16 mask) {
  if (p->wide) return _mm512_maskz_loadu_ps(mask, (const float *)p->y + at);
  const __m256i v = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)p->y + at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

/* Sums of a stripe and a panel, tile by tile, that are whole; rows of them from `done` on are still to be taken to y. */
struct whole {
  const float *sums;
  int64_t row, column, rows, done;
};

/* A row of them, with what is added to it, where it belongs. */
INLINE void finish_row(const struct product *p, const struct whole *w, int64_t i) {
  const int64_t at = (w->row + i) * p->columns + w->column, left = p->columns - w->column;
  const __mmask16 masks[2] = {mask16(left), mask16(left - SIDE)};
  const float *from = w->sums + i / SIDE * 2 * SIDE * SIDE + i % SIDE * SIDE;
  __m512 v[2];
  for (int half = 0; half < 2; half++, from += SIDE * SIDE) {
    const int64_t here = half * SIDE;
    v[half] = _mm512_load_ps(from);
    if (p->bias) v[half] = _mm512_add_ps(v[half], _mm512_maskz_loadu_ps(masks[half], p->bias + w->column + here));
    if (p->added) v[half] = _mm512_add_ps(v[half], found_in(p, at + here, masks[half]));
    if (p->wide) _mm512_mask_storeu_ps((float *)p->y + at + here, masks[half], v[half]);
  }
  if (!p->wide)
    _mm512_mask_storeu_epi16((uint16_t *)p->y + at, masks[0] | (__mmask32)masks[1] << 16, narrowed(v[0], v[1]));
}

INLINE void finish(const struct product *p, struct whole *w, int64_t rows) {
  const int64_t end = w->done + rows < w->rows ? w->done + rows : w->rows;
  for (; w->done < end; w->done++) finish_row(p, w, w->done);
}

/* A stripe times a panel over `steps`, of which the first is loaded; meanwhile other sums are taken where they belong. */
INLINE void multiplied_rest(const struct product *p, const uint16_t *a, const uint16_t *b, int64_t steps,
                            struct whole *whole) {
  const int64_t rows = (STRIPE + steps - 1) / steps;
  for (int64_t step = 1; step < steps; step++) {
    multiplied_step();
    finish(p, whole, rows);
    a += STEP, b += PACKED;
    loaded(a, p->inner * (int64_t)sizeof *a, b);
  }
  multiplied_step();
  finish(p, whole, STRIPE);
}

INLINE void tiles_from(const float *sums) {
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, sums + SIDE * SIDE, 64);
  _tile_loadd(2, sums + 2 * SIDE * SIDE, 64);
  _tile_loadd(3, sums + 3 * SIDE * SIDE, 64);
}

INLINE void tiles_to(float *sums) {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + SIDE * SIDE, 64);
  _tile_stored(2, sums + 2 * SIDE * SIDE, 64);
  _tile_stored(3, sums + 3 * SIDE * SIDE, 64);
}

/* Panels of a group: the block's steps, piece by piece, and behind the last what is no whole step. The weight is read
 * in the longest runs there are. */
static void pack_block(const struct job *job, const struct own *own, int64_t panel, int64_t count, int64_t from,
                       int64_t steps, int last) {
  const struct product *p = job->product;
  const int64_t outer = p->plain ? steps : count, inner = p->plain ? count : steps;
  for (int64_t a = 0; a < outer; a++)
    for (int64_t b = 0; b < inner; b++) {
      const int64_t step = p->plain ? a : b, i = p->plain ? b : a, at = step / PIECE * PIECE;
      const int64_t here = steps - at < PIECE ? steps - at : PIECE;
      uint16_t *to = own->panels + (at * count + i * here + step - at) * PACKED;
      pack_step(p, (panel + i) * PANEL, (from + step) * STEP, to);
    }
  for (int64_t i = 0; i < count && last && job->tail; i++)
    pack_step(p, (panel + i) * PANEL, job->steps * STEP, own->tails + i * PACKED);
  written();
}

/* `steps` of some rows of x are wanted soon. */
INLINE void fetched(const uint16_t *x, int64_t stride, int64_t rows, int64_t steps) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t step = 0; step < steps; step++)
      _mm_prefetch((const char *)(x + row * stride + step * STEP), _MM_HINT_T1);
}

/* A block of a group of panels times some stripes. */
static void multiply_block(const struct job *job, const struct own *own, int64_t group, int64_t block, int64_t begin,
                           int64_t end) {
  const struct product *p = job->product;
  const int64_t panel = group * job->group, left = job->panels - panel, count = left < job->group ? left : job->group;
  const int64_t from = block * job->length, steps = job->steps - from < job->length ? job->steps - from : job->length;
  const int last = block == job->blocks - 1;
  _Alignas(64) float found[2][STRIPE * PANEL];
  struct whole whole = {.rows = 0};
  pack_block(job, own, panel, count, from, steps, last);
  /* what comes next is loaded before sums are stored: the tiles would wait for both */
  if (steps && begin < end) loaded(stripe_of(job, begin) + from * STEP, p->inner * 2, own->panels);
  for (int64_t stripe = begin; stripe < end; stripe++) {
    float *sums = own->sums + (job->blocks > 1 ? stripe - begin : 0) * count * STRIPE * PANEL;
    const uint16_t *x = stripe_of(job, stripe) + from * STEP, *rows = job->rows + stripe * STRIPE * job->beside;
    const uint16_t *below = stripe_of(job, stripe + 1 < end ? stripe + 1 : stripe) + from * STEP;
    int64_t at = 0;
    do {
      const int64_t here = steps - at < PIECE ? steps - at : PIECE;
      const int begins = !block && !at, ends = last && at + PIECE >= steps;
      for (int64_t i = 0; i < count; i++) {
        float *to = sums + i * STRIPE * PANEL;
        const int64_t row = i * STRIPE / count, behind = (i + 1) * STRIPE / count;
        if (stripe + 1 < end) fetched(x + (STRIPE + row) * p->inner + at * STEP, p->inner, behind - row, here);
        if (begins)
          cleared();
        else
          tiles_from(to);
        const uint16_t *packed = own->panels + (at * count + i * here) * PACKED;
        if (here) multiplied_rest(p, x + at * STEP, packed, here, &whole);
        if (ends && job->beside) {
          multiplied16(rows, job->beside, own->tails + i * PACKED, job->tail > 0);
          multiplied16(rows + (job->tail ? STEP : 0), job->beside, job->second + (panel + i) * job->ranks * PACKED,
                       job->ranks);
        }
        /* panels lie one behind the other, piece after piece */
        const int next = i + 1 < count ? 0 : at + PIECE < steps ? 1 : 2;
        if (here)
          loaded(next == 0 ? x + at * STEP : next == 1 ? x + (at + PIECE) * STEP : below, p->inner * 2,
                 next == 2 ? own->panels : packed + here * PACKED);
        if (!ends) {
          tiles_to(to);
          continue;
        }
        finish(p, &whole, STRIPE);
        tiles_to(found[i % 2]);
        const int64_t row_of_y = stripe * STRIPE, rest = p->rows - row_of_y;
        whole = (struct whole){found[i % 2], row_of_y, (panel + i) * PANEL, rest < STRIPE ? rest : STRIPE, 0};
      }
      at += PIECE;
    } while (at < steps);
  }
  finish(p, &whole, STRIPE);
}

static struct own own_of(const struct job *job, int thread) {
  uint16_t *at = (uint16_t *)(job->own + thread * job->each), *tails = at + job->group * job->length * PACKED;
  return (struct own){at, tails, (float *)(tails + job->group * PACKED)};
}

/* A group of panels times a part of the rows. */
static void multiply(void *given, int item, int thread) {
  const struct job *job = given;
  const struct own own = own_of(job, thread);
  const int64_t late = item - job->alone * job->parts, parts = late < 0 ? job->parts : job->late;
  const int64_t group = late < 0 ? item / parts : job->alone + late / parts;
  const int64_t part = late < 0 ? item % parts : late % parts;
  tiles_begin();
  for (int64_t block = 0; block < job->blocks; block++)
    multiply_block(job, &own, group, block, part * job->stripes / parts, (part + 1) * job->stripes / parts);
  tiles_end();
}

WIDE_END

/* The job, its scratch laid out from `at` on; the bytes that takes. */
static int64_t laid(struct job *job, const struct pool *pool, const struct product *p, char *at) {
  *job = (struct job){.product = p, .steps = p->inner / STEP, .tail = p->inner % STEP};
  const int64_t threads = pool_threads(pool);
  job->blocks = job->steps ? (job->steps + LENGTH - 1) / LENGTH : 1;
  job->length = (job->steps + job->blocks - 1) / job->blocks;
  if (job->steps) job->blocks = (job->steps + job->length - 1) / job->length;
  job->stripes = (p->rows + STRIPE - 1) / STRIPE;
  job->panels = (p->columns + PANEL - 1) / PANEL;
  const int64_t fair = job->panels / threads, group = fair > GROUP ? GROUP : fair < FEWEST ? FEWEST : fair;
  job->groups = (job->panels + group - 1) / group;
  job->group = (job->panels + job->groups - 1) / job->groups;
  job->groups = (job->panels + job->group - 1) / job->group;
  job->ranks = (p->rank + STEP - 1) / STEP;
  job->beside = (job->ranks + (job->tail > 0)) * STEP;
  job->parts = (p->rows + ROWS - 1) / ROWS;
  /* a thread without work at the end would wait for the others: the last groups are for all, by smaller parts */
  job->alone = threads < 2 ? job->groups : job->groups > threads ? job->groups - threads : 0;
  const int64_t shared = job->groups - job->alone;
  job->late = job->parts * (shared ? (PARTS * threads + shared - 1) / shared : 1);
  if (job->late > job->stripes) job->late = job->stripes;
  const int64_t two = sizeof(uint16_t), rows = ROUND_UP(job->stripes * STRIPE * job->beside * two, 64);
  const int64_t last = ROUND_UP(STRIPE * p->inner * two, 64), first = job->ranks * (job->steps + 1) * PACKED * two;
  const int64_t second = job->panels * job->ranks * PACKED * two;
  const int64_t most = (job->stripes + job->parts - 1) / job->parts + 1;
  const int64_t sums = (job->blocks > 1 ? most : 1) * job->group;
  job->each = job->group * (job->length + 1) * PACKED * two + sums * STRIPE * PANEL * (int64_t)sizeof(float);
  job->rows = (uint16_t *)at;
  job->last = (uint16_t *)(at + rows);
  job->first = (uint16_t *)(at + rows + last);
  job->second = (uint16_t *)(at + rows + last + first);
  job->own = at + rows + last + first + second;
  return rows + last + first + second + threads * job->each;
}

int64_t frozen_scratch_16(const struct pool *pool, const struct product *product) {
  struct job job;
  return product->rows && product->columns ? laid(&job, pool, product, NULL) : 0;
}

void frozen_product_16(struct pool *pool, const struct product *product) {
  struct job job;
  if (!product->rows || !product->columns) return;
  laid(&job, pool, product, product->packed);
  if (job.ranks) pool_run(pool, factors, &job, (int)(job.ranks * chunks(&job) + job.panels));
  if (job.beside || product->rows % STRIPE)
    pool_run(pool, beside, &job, (int)((job.stripes + TOGETHER - 1) / TOGETHER));
  pool_run(pool, multiply, &job, (int)(job.alone * job.parts + (job.groups - job.alone) * job.late));
}
#endif
