/* Sums of products of rows with weights in memory, sixteen outputs wide: part of kernels_of.h. */
#pragma once

#define FLAT 8     /* tiles up to which the first of them alone asks for the blocks of FLOAT32 ahead */
#if WIDE
#define TALL 16    /* rows whose sums with one panel's outputs are in registers at once */
#define COLUMNS 4  /* sixteens of outputs whose sums are, with fewer rows: weights are read less often */
#define TALL_WIDE 6
#else
#define TALL TILE
#define TALL_WIDE TILE
#define COLUMNS 1
#endif

typedef floats (*load_fn)(const void *, lanes);

INLINE floats load_f32(const void *at, lanes some) { return (void)some, v_load(at); }
INLINE floats load_f16(const void *at, lanes some) { return (void)some, v_load_f16(at); }
INLINE floats load_bf16(const void *at, lanes some) { return (void)some, v_load_bf16(at); }
INLINE floats load_some(const void *at, lanes some) { return v_load_some(at, some); }

enum way {
  NEAR, /* sums go on from what they are */
  FAR,  /* the same, and weights come from memory: those some way ahead are asked for */
  LATER, /* the same, and what will be weights is asked for */
  APART /* sums begin with zero, and are added to what is there */
};

/* sums (rows, 16 columns) += x (rows, inputs) w; inlined with `rows`, `columns`, `load` and `way` known, so that the sums
 * stay in registers. */
INLINE void tile(load_fn load, enum way way, int rows, int columns, const float *x, long ldx, const char *w, long stride,
                 int inputs, lanes some, float *sums, long lds, const char *later) {
  floats c[TALL][COLUMNS];
  const float *from[(TALL + 3) / 4]; /* each of four rows: there are fewer registers for addresses than rows */
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) {
    if (m % 4 == 0) from[m / 4] = x + m * ldx;
#pragma GCC unroll 4
    for (int n = 0; n < columns; n++)
      c[m][n] = way == APART        ? v_all(0.0f)
                : load == load_some ? v_load_some(sums + m * lds, some)
                                    : v_load(sums + m * lds + PANEL * n);
  }
#pragma GCC unroll 2
  for (long k = 0; k < inputs; k++, w += stride) {
    floats b[COLUMNS];
#pragma GCC unroll 4
    for (int n = 0; n < columns; n++) b[n] = load((const float *)w + PANEL * n, some);
#pragma GCC unroll 4
    for (int n = 0; way == FAR && n < columns; n++) _mm_prefetch(w + AHEAD + 64 * n, _MM_HINT_T0);
    if (way == LATER) _mm_prefetch(later + k * (COMPRESSED / 32), _MM_HINT_T0);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const floats one = v_all(from[m / 4][(m % 4) * ldx + k]);
#pragma GCC unroll 4
      for (int n = 0; n < columns; n++) c[m][n] = v_fma(one, b[n], c[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
    for (int n = 0; n < columns; n++) {
      float *to = sums + m * lds + PANEL * n;
      if (way == APART) c[m][n] = v_add(v_load(to), c[m][n]);
      if (load == load_some)
        v_store_some(to, some, c[m][n]);
      else
        v_store(to, c[m][n]);
    }
}

#define GIVEN const float *x, long ldx, const char *w, long stride, int inputs, int rows, lanes some, float *sums, long lds, \
              const char *later
#define OF(LOAD, WAY, ROWS, WIDTH) \
  case ROWS: tile(LOAD, WAY, ROWS, WIDTH, x, ldx, w, stride, inputs, some, sums, lds, later); return
#define UP_TO_SIX(LOAD, WAY, WIDTH)                                                        \
  OF(LOAD, WAY, 1, WIDTH); OF(LOAD, WAY, 2, WIDTH); OF(LOAD, WAY, 3, WIDTH);               \
  OF(LOAD, WAY, 4, WIDTH); OF(LOAD, WAY, 5, WIDTH); OF(LOAD, WAY, 6, WIDTH)
#if WIDE
#define ALL(LOAD, WAY)                                                                               \
  UP_TO_SIX(LOAD, WAY, 1); OF(LOAD, WAY, 7, 1); OF(LOAD, WAY, 8, 1); OF(LOAD, WAY, 9, 1);            \
  OF(LOAD, WAY, 10, 1); OF(LOAD, WAY, 11, 1); OF(LOAD, WAY, 12, 1); OF(LOAD, WAY, 13, 1);            \
  OF(LOAD, WAY, 14, 1); OF(LOAD, WAY, 15, 1); OF(LOAD, WAY, 16, 1)
#else
#define ALL(LOAD, WAY) UP_TO_SIX(LOAD, WAY, 1)
#endif
#define TILES(NAME, LOAD, WAY) \
  static void NAME(GIVEN) {    \
    switch (rows) { ALL(LOAD, WAY); } \
  }

TILES(near_f32, load_f32, NEAR)
TILES(apart_f32, load_f32, APART)
TILES(far_f32, load_f32, FAR)
TILES(far_f16, load_f16, FAR)
TILES(far_bf16, load_bf16, FAR)
TILES(near_bf16, load_bf16, NEAR)
TILES(later_bf16, load_bf16, LATER)
TILES(far_some, load_some, FAR)

typedef void (*tile_fn)(GIVEN);
static const tile_fn TILE_OF[] = {far_f32, far_f16, far_bf16};

#if WIDE
#define SIXES(NAME, WAY, WIDTH) \
  static void NAME(GIVEN) {     \
    switch (rows) { UP_TO_SIX(load_f32, WAY, WIDTH); } \
  }

SIXES(near_four, NEAR, 4)
SIXES(far_two, FAR, 2)
SIXES(far_three, FAR, 3)
SIXES(far_four, FAR, 4)
static const tile_fn FAR_OF[] = {far_some, far_f32, far_two, far_three, far_four};
#else
static const tile_fn FAR_OF[] = {far_some, far_f32};
#endif

/* As few tiles as can be, of as equal heights as can be: a tile of one or two rows waits for its own additions.
 *
 * [next, end) is asked for meanwhile: a block is computed without reading ahead in the weights. It is some lines a tile,
 * because the processor drops most of what it is asked for all at once. */
INLINE void tiles(tile_fn first, tile_fn one, int tall, const float *x, long ldx, const char *w, long stride, int inputs, int rows,
                  lanes some, float *sums, long lds, const char *next, const char *end) {
  for (int left = (rows + tall - 1) / tall; left > 0; left--) {
    const int high = (rows + left - 1) / left;
    for (const char *stop = next + ((end - next) / left + 63) / 64 * 64; next < stop && next < end; next += 64)
      _mm_prefetch(next, _MM_HINT_T1);
    first(x, ldx, w, stride, inputs, high, some, sums, lds, next);
    first = one;
    x += high * ldx;
    sums += high * lds;
    rows -= high;
  }
}

INLINE void widen(load_fn load, const char *w, long stride, int inputs, float *block) {
  for (int k = 0; k < inputs; k++, w += stride, block += PANEL) v_store(block, load(w, v_first(PANEL)));
}

static void widened(int kind, const char *w, int inputs, float *block) {
  if (kind == FLOAT16) widen(load_f16, w, 2 * PANEL, inputs, block);
  if (kind == BFLOAT16) widen(load_bf16, w, 2 * PANEL, inputs, block);
}

/* Weights in 12 bits: a block of them is made ready, and the next is asked for while it is multiplied. */
static void compressed_sums_of_panel(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums,
                                     float *block) {
  _Alignas(64) char ready[2 * PANEL * BLOCK];
  const lanes all = v_first(PANEL);
  struct chunks w = chunks_of(it, panel, panel);
  for (int k = 0; k < it->inputs; k += BLOCK) {
    const int some = it->inputs - k < BLOCK ? it->inputs - k : BLOCK, few = rows <= FEW;
    uncompressed(&w, tiles_of_inputs(some), ready);
    if (!few) widen(load_bf16, ready, 2 * PANEL, some, block);
    const char *next = (const char *)w.at;
    if (few)
      tiles(later_bf16, near_bf16, TALL, x + k, ldx, ready, 2 * PANEL, some, rows, all, sums, PANEL, next, next);
    else
      tiles(near_f32, near_f32, TALL, x + k, ldx, (const char *)block, 4 * PANEL, some, rows, all, sums, PANEL, next,
            next + COMPRESSED * tiles_of_inputs(BLOCK));
  }
}

static void sums_of_panel(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums,
                          float *block) {
  const lanes all = v_first(PANEL);
  const long stride = stride_of(it->kind);
  const char *w = (const char *)it->weight + stride * it->inputs * panel;
  memset(sums, 0, sizeof(float) * PANEL * rows);
  if (it->begin) {
    compressed_sums_of_panel(it, panel, x, ldx, rows, sums, block);
    return;
  }
  if (rows <= FEW) {
    tiles(TILE_OF[it->kind], TILE_OF[it->kind], TALL, x, ldx, w, stride, it->inputs, rows, all, sums, PANEL, w, w);
    return;
  }
  for (int k = 0; k < it->inputs; k += BLOCK) {
    const int some = it->inputs - k < BLOCK ? it->inputs - k : BLOCK;
    const char *wide = w + stride * k;
    const char *const next = wide + stride * some; /* this panel's next block, or the next panel's first */
    if (it->kind != FLOAT32) {
      widened(it->kind, wide, some, block);
      wide = (const char *)block;
    }
    const char *const end = it->kind == FLOAT32 && rows <= FLAT * TALL ? next : next + stride * BLOCK;
    tiles(end == next ? far_f32 : near_f32, near_f32, TALL, x + k, ldx, wide, 4 * PANEL, some, rows, all, sums,
          PANEL, next, end);
  }
}

/* two panels at once: with so few rows, one panel's sums would wait for their own additions. Of what lies `later`, if
 * anything, so many bytes an input are asked for. */
INLINE void two(load_fn load, const float *x, long ldx, const char *v, const char *w, long stride, int inputs, int rows,
                float *sums, float *more, const char *later_v, const char *later_w, int bytes) {
  const lanes all = v_first(PANEL);
  floats c[PAIRED][2];
#pragma GCC unroll 2
  for (int m = 0; m < rows; m++) c[m][0] = v_load(sums + m * PANEL), c[m][1] = v_load(more + m * PANEL);
#pragma GCC unroll 4
  for (long k = 0; k < inputs; k++, v += stride, w += stride) {
    const floats a = load(v, all), b = load(w, all);
    if (bytes) _mm_prefetch(later_v + k * bytes, _MM_HINT_T0), _mm_prefetch(later_w + k * bytes, _MM_HINT_T0);
#pragma GCC unroll 2
    for (int m = 0; m < rows; m++) {
      const floats one = v_all(x[m * ldx + k]);
      c[m][0] = v_fma(one, a, c[m][0]);
      c[m][1] = v_fma(one, b, c[m][1]);
    }
  }
#pragma GCC unroll 2
  for (int m = 0; m < rows; m++) {
    v_store(sums + m * PANEL, c[m][0]);
    v_store(more + m * PANEL, c[m][1]);
  }
}

#define TWO(NAME, LOAD, BYTES_AN_INPUT)                                                                               \
  static void NAME(const float *x, long ldx, const char *v, const char *w, long stride, int inputs, int rows,        \
                   float *sums, float *more, const char *later_v, const char *later_w) {                             \
    if (rows == 1)                                                                                                   \
      two(LOAD, x, ldx, v, w, stride, inputs, 1, sums, more, later_v, later_w, BYTES_AN_INPUT);                       \
    else                                                                                                             \
      two(LOAD, x, ldx, v, w, stride, inputs, 2, sums, more, later_v, later_w, BYTES_AN_INPUT);                       \
  }

TWO(two_f32, load_f32, 0)
TWO(two_f16, load_f16, 0)
TWO(two_bf16, load_bf16, 0)
TWO(two_compressed, load_bf16, COMPRESSED / 32)

typedef void (*two_fn)(const float *, long, const char *, const char *, long, int, int, float *, float *, const char *,
                       const char *);
static const two_fn TWO_OF[] = {two_f32, two_f16, two_bf16};

static void compressed_sums_of_two(const struct product *it, int first, int second, const float *x, int rows,
                                   float *sums, float *more) {
  _Alignas(64) char ready[2][2 * PANEL * BLOCK];
  struct chunks v = chunks_of(it, first, second), w = chunks_of(it, second, first);
  for (int k = 0; k < it->inputs; k += BLOCK) {
    const int some = it->inputs - k < BLOCK ? it->inputs - k : BLOCK;
    uncompressed(&v, tiles_of_inputs(some), ready[0]);
    uncompressed(&w, tiles_of_inputs(some), ready[1]);
    two_compressed(x + k, it->inputs, ready[0], ready[1], 2 * PANEL, some, rows, sums, more,
                   (const char *)read_later(&v, 0), (const char *)read_later(&w, 0));
  }
}

static void sums_of_two_panels(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                               float *more) {
  const long stride = stride_of(it->kind), size = stride * it->inputs;
  const char *all = it->weight;
  memset(sums, 0, sizeof(float) * PANEL * rows);
  memset(more, 0, sizeof(float) * PANEL * rows);
  if (it->begin)
    compressed_sums_of_two(it, first, second, x, rows, sums, more);
  else
    TWO_OF[it->kind](x, it->inputs, all + size * first, all + size * second, stride, it->inputs, rows, sums, more, NULL,
                     NULL);
}

/* sums (rows, columns) += x (rows, inputs) w (inputs, columns), w with `ldw` floats an input; columns: a multiple of 16 */
INLINE void add_sums(const float *x, long ldx, const float *w, long ldw, int inputs, int rows, int columns, float *sums,
                     long lds) {
  const lanes all = v_first(PANEL);
  const long stride = ldw * (long)sizeof(float);
  int o = 0;
#if WIDE
  for (; o + 4 * PANEL <= columns; o += 4 * PANEL)
    tiles(near_four, near_four, TALL_WIDE, x, ldx, (const char *)(w + o), stride, inputs, rows, all, sums + o, lds, NULL, NULL);
#endif
  for (; o < columns; o += PANEL)
    tiles(near_f32, near_f32, TALL, x, ldx, (const char *)(w + o), stride, inputs, rows, all, sums + o, lds, NULL, NULL);
}
