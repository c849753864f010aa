/* Sums over rows of products of a wide matrix and a narrow one on tiles: the gradients of A and B from bfloat16 (AMX).
 *
 * The narrow one, turned and rounded once, is the rows; pairs of rows of the wide one are interleaved while it is read,
 * which happens once for all ranks. Sums go from the first row to the last whoever takes the columns.
 */
#include "pool.h"
#include "tiled.h"

#if HAVE_WIDE
#define SLAB 128      /* columns of one item, and */
#define TALLEST 128   /* rows that are packed together: 32 KB */
#define MOST_RANKS 16 /* tiles of ranks at once: their sums are 128 KB */

WIDE_BEGIN

/* (ranks, rows) of the narrow matrix, SIDE ranks a tile: (steps, tiles of ranks, SIDE, STEP), zeros behind the last. */
static void turn_low(const struct outer *outer, int64_t rows, int64_t step, int64_t tiles, uint16_t *to) {
  const float *low = (const float *)outer->low + step * STEP * outer->stride;
  const int64_t here = rows - step * STEP;
  for (int64_t tile = 0; tile < tiles; tile++, to += TILE) {
    const __mmask16 mask = mask16(outer->rank - tile * SIDE);
    __m512i r[2][16];
    for (int half = 0; half < 2; half++) {
      UNROLL for (int i = 0; i < 16; i++) {
        const int64_t row = half * SIDE + i;
        r[half][i] = _mm512_castps_si512(
            _mm512_maskz_loadu_ps(row < here ? mask : 0, low + row * outer->stride + tile * SIDE));
      }
      turned16(r[half]);
    }
    for (int i = 0; i < 16; i++)
      _mm512_store_si512(to + i * STEP, narrowed(_mm512_castsi512_ps(r[0][i]), _mm512_castsi512_ps(r[1][i])));
  }
}

struct slabs {
  const struct outers *outers;
  uint16_t *low[2]; /* of both sums */
};

static int64_t tiles_of(const struct outer *outer) { return (outer->rank + SIDE - 1) / SIDE; }
static int64_t slabs_of(const struct outer *outer) { return (outer->columns + SLAB - 1) / SLAB; }
static int64_t steps_of(const struct outers *outers) { return (outers->rows + STEP - 1) / STEP; }

static void turn_step(void *given, int item, int thread) {
  (void)thread;
  const struct slabs *slabs = given;
  const int64_t steps = steps_of(slabs->outers), which = item >= steps, step = which ? item - steps : item;
  const struct outer *outer = &slabs->outers->of[which];
  turn_low(outer, slabs->outers->rows, step, tiles_of(outer), slabs->low[which] + step * tiles_of(outer) * TILE);
}

/* Sums of SIDE ranks and SLAB columns, (SLAB / SIDE, SIDE, SIDE), where they belong. */
static void leave(const struct outer *outer, const float *sums, int64_t column, int64_t rank) {
  const __m512 scale = _mm512_set1_ps(outer->scale);
  const int64_t lanes = outer->rank - rank;
  for (int64_t at = 0; at < SLAB; at += SIDE, column += SIDE, sums += SIDE * SIDE) {
    const int64_t columns = outer->columns - column;
    float *to = outer->to + column * outer->column + rank * outer->lane;
    __m512i r[16];
    UNROLL for (int i = 0; i < 16; i++)
      r[i] = _mm512_castps_si512(_mm512_mul_ps(scale, _mm512_load_ps(sums + i * SIDE)));
    if (outer->column == 1) {
      for (int i = 0; i < 16 && i < lanes; i++)
        _mm512_mask_storeu_ps(to + i * outer->lane, mask16(columns), _mm512_castsi512_ps(r[i]));
      continue;
    }
    turned16(r);
    float lane[16][16];
    UNROLL for (int i = 0; i < 16; i++) _mm512_storeu_si512(lane[i], r[i]);
    for (int i = 0; i < 16 && i < columns; i++, to += outer->column) {
      if (outer->lane == 1)
        _mm512_mask_storeu_ps(to, mask16(lanes), _mm512_loadu_ps(lane[i]));
      else
        for (int k = 0; k < 16 && k < lanes; k++) to[k * outer->lane] = lane[i][k];
    }
  }
}

/* Four tiles of sums, of SIDE ranks, += `steps` of the packed rows; `begins` them. */
INLINE void add_rows(const uint16_t *low, int64_t apart, const uint16_t *wide, int64_t steps, float *sums, int begins) {
  if (begins) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + 256, 64);
    _tile_loadd(2, sums + 512, 64);
    _tile_loadd(3, sums + 768, 64);
  }
  for (int64_t step = 0; step < steps; step++, low += apart, wide += SLAB / SIDE * TILE) {
    _tile_loadd(4, low, 64);
    _tile_loadd(5, wide, 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, wide + TILE, 64);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(5, wide + 2 * TILE, 64);
    _tile_dpbf16ps(2, 4, 5);
    _tile_loadd(6, wide + 3 * TILE, 64);
    _tile_dpbf16ps(3, 4, 6);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
}

static void slab(const struct outer *outer, const uint16_t *low, int64_t rows, int64_t column, int64_t rank) {
  _Alignas(64) uint16_t packed[TALLEST / STEP][SLAB / PANEL][PACKED];
  _Alignas(64) float sums[MOST_RANKS][SLAB * SIDE];
  const int64_t tiles = tiles_of(outer), all = (outer->rank - rank + SIDE - 1) / SIDE;
  const int64_t here = all < MOST_RANKS ? all : MOST_RANKS, columns = outer->columns - column;
  low += rank / SIDE * TILE;
  for (int64_t begin = 0; !begin || begin < rows; begin += TALLEST) { /* sums of nothing are zeros */
    const int64_t length = rows - begin < TALLEST ? rows - begin : TALLEST, steps = (length + STEP - 1) / STEP;
    const uint16_t *wide = (const uint16_t *)outer->wide + begin * outer->columns + column;
    for (int64_t step = 0; step < steps; step++)
      for (int64_t panel = 0; panel < SLAB / PANEL; panel++) {
        const uint16_t *from = wide + step * STEP * outer->columns + panel * PANEL;
        const int64_t left = length - step * STEP;
        if (begin + TALLEST + (step + 1) * STEP <= rows && panel * PANEL < columns)
          for (int row = 0; row < STEP; row++)
            _mm_prefetch((const char *)(from + (TALLEST + row) * outer->columns), _MM_HINT_T0);
        pack_rows16(from, outer->columns, left, columns - panel * PANEL, packed[step][panel]);
      }
    written();
    for (int64_t tile = 0; tile < here; tile++)
      for (int64_t half = 0; half < 2; half++)
        add_rows(low + (begin / STEP * tiles + tile) * TILE, tiles * TILE, packed[0][half * 2], steps,
                 sums[tile] + half * 4 * SIDE * SIDE, begin == 0);
  }
  for (int64_t tile = 0; tile < here; tile++) leave(outer, sums[tile], column, rank + tile * SIDE);
}

static void slab_of(void *given, int item, int thread) {
  (void)thread;
  const struct slabs *slabs = given;
  const int64_t first = slabs_of(&slabs->outers->of[0]), which = item >= first;
  const struct outer *outer = &slabs->outers->of[which];
  tiles_begin();
  for (int64_t rank = 0; rank < outer->rank; rank += MOST_RANKS * SIDE)
    slab(outer, slabs->low[which], slabs->outers->rows, (which ? item - first : item) * SLAB, rank);
  tiles_end();
}

WIDE_END

int64_t outer_scratch_16(const struct outers *outers) {
  return steps_of(outers) * (tiles_of(&outers->of[0]) + tiles_of(&outers->of[1])) * TILE * (int64_t)sizeof(uint16_t);
}

void outer_products_16(struct pool *pool, const struct outers *outers) {
  uint16_t *low = outers->packed;
  const struct slabs slabs = {outers, {low, low + steps_of(outers) * tiles_of(&outers->of[0]) * TILE}};
  pool_run(pool, turn_step, (void *)&slabs, (int)(2 * steps_of(outers)));
  pool_run(pool, slab_of, (void *)&slabs, (int)(slabs_of(&outers->of[0]) + slabs_of(&outers->of[1])));
}
#endif
