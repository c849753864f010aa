#include "compressed.h"

#include <string.h>

#include "wide.h"

#define INLINE static inline __attribute__((always_inline))
#define HIGH 16                /* rows of a tile at most */
#define DEEP 8                 /* tiles of a panel's weights that stay in the first cache while the rows pass */
#define FOUR (BLOCK / 64)      /* tiles of a block of 8-bit inputs */
#define NEAR (5 << 18)         /* bytes of inputs that stay in the second cache */
#define SOON 4                 /* tiles that are asked for before they are wanted where all rows pass at once */
#define LATER 16               /* the same where they pass in turn */
#define MOST_ROWS 256

static int tiles_of(int rows) { return (rows + HIGH - 1) / HIGH; }

static int height_of(int rows) { return rows > 0 ? (rows + tiles_of(rows) - 1) / tiles_of(rows) : 1; }

static int blocks_of(int inputs) { return (inputs + BLOCK - 1) / BLOCK; }

/* bytes of one row's inputs */
static long row_bytes(const struct product *it) {
  return it->kind == INT8_TILES ? 2L * BLOCK * blocks_of(it->inputs) : 2L * padded(it->kind, it->inputs);
}

int tiled_rows(const struct product *it, int rows) {
  long most = NEAR / row_bytes(it) / (2 * HIGH) * (2 * HIGH);
  most = most < 2 * HIGH ? 2 * HIGH : most > MOST_ROWS ? MOST_ROWS : most;
  if (rows <= most) return rows;
  const long parts = (rows + most - 1) / most, each = (rows + parts - 1) / parts;
  return (int)((each + 2 * HIGH - 1) / (2 * HIGH) * (2 * HIGH));
}

long tiled_room(const struct product *it, int rows) {
  return row_bytes(it) * tiled_height(rows) + (long)sizeof(float) * blocks_of(it->inputs) * rows + 64;
}

struct tiled tiled_in(const struct product *it, int rows, char *room) {
  struct tiled in = {.x = room, .rows = rows, .tiles = tiles_of(rows), .height = height_of(rows)};
  in.scale = (float *)(room + row_bytes(it) * in.tiles * in.height);
  return in;
}

#if HAVE_WIDE
WIDE_BEGIN

void tiles_begin(const struct tiled *in) {
  struct {
    uint8_t palette, row, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shapes = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) shapes.bytes[tile] = 64, shapes.rows[tile] = tile < 6 ? in->height : HIGH;
  __asm__ volatile("" : : "m"(shapes)); /* the compiler takes the next for one that reads a pointer's bytes alone */
  _tile_loadconfig(&shapes);
}

void tiles_end(void) { _tile_release(); }

static void row_of_16(const struct product *it, const float *x, char *to, long step) {
  for (int left = it->inputs; left > 0; left -= 32, x += 32, to += step) {
    const __mmask16 a = left >= 16 ? 0xffff : (1 << left) - 1;
    const __mmask16 b = left >= 32 ? 0xffff : left > 16 ? (1 << (left - 16)) - 1 : 0;
    const __m512 low = _mm512_maskz_loadu_ps(a, x), high = _mm512_maskz_loadu_ps(b, x + 16);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

static void row_of_8(const struct product *it, const float *x, int row, const struct tiled *to) {
  const long step = 64L * to->height;
  char *at = to->x + row / to->height * step * 2 * FOUR + row % to->height * 64;
  for (int b = 0; b < blocks_of(it->inputs); b++, x += BLOCK, at += to->tiles * step * 2 * FOUR) {
    int16_t both[BLOCK];
    int32_t start;
    const int some = it->inputs - b * BLOCK < BLOCK ? it->inputs - b * BLOCK : BLOCK;
    narrow_block(x, some, both, to->scale + (long)b * to->rows + row, &start);
    for (int k = 0; k < BLOCK; k += 32) {
      const __m512i one = _mm512_loadu_si512(both + k);
      char *digits = at + k / 64 * 2 * step + k % 64;
      _mm256_storeu_si256((__m256i *)digits, _mm512_cvtepi16_epi8(_mm512_srai_epi16(one, 8)));
      _mm256_storeu_si256((__m256i *)(digits + step), _mm512_cvtepi16_epi8(one));
    }
  }
}

void tiled_row(const struct product *it, const float *x, int row, const struct tiled *to) {
  const long step = 64L * to->height;
  char *at = to->x + row / to->height * step * (padded(it->kind, it->inputs) / 32) + row % to->height * 64;
  if (it->kind == INT8_TILES)
    row_of_8(it, x, row, to);
  else
    row_of_16(it, x, at, step);
}

/* Ask for a share of two tiles of weights: the rows that pass meanwhile ask for all, and not for all at once. */
INLINE void ahead(const char *v, const char *w, int begin, int end) {
  for (int line = begin; line < end; line += 64) {
    _mm_prefetch(v + line, _MM_HINT_T0);
    _mm_prefetch(w + line, _MM_HINT_T0);
  }
}

/* What one pass over the rows is given: `count` tiles of the weights of two panels; which bytes of `size` a tile it asks
 * for, of those that will be read later; and which rows will be written next. */
struct pass {
  const char *v, *w, *later_v, *later_w;
  int count, size, begin, end;
  float *y; /* or NULL */
  long ldy;
  int rows;
};

INLINE void written_soon(const struct pass *p, int k) {
  if (!p->y) return;
  for (int row = p->rows * k / p->count; row < p->rows * (k + 1) / p->count; row++) {
    __builtin_prefetch(p->y + row * p->ldy, 1);
    __builtin_prefetch(p->y + row * p->ldy + PANEL, 1);
  }
}

/* Two panels' sums of one tile of rows, and of two. */
INLINE void one_tile(const struct pass *p, const char *a, long step, float *sums, float *more) {
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, more, 64);
  for (long k = 0; k < p->count; k++) {
    const char *v = p->v + k * BYTES, *w = p->w + k * BYTES;
    ahead(p->later_v + k * p->size, p->later_w + k * p->size, p->begin, p->end);
    written_soon(p, k);
    _tile_loadd(4, a + k * step, 64);
    _tile_loadd(6, v, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, more, 64);
}

INLINE void two_tiles(const struct pass *p, const char *a, const char *b, long step, float *sums, float *more,
                      long below) {
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, more, 64);
  _tile_loadd(2, sums + below, 64);
  _tile_loadd(3, more + below, 64);
  for (long k = 0; k < p->count; k++) {
    const char *v = p->v + k * BYTES, *w = p->w + k * BYTES;
    ahead(p->later_v + k * p->size, p->later_w + k * p->size, p->begin, p->end);
    written_soon(p, k);
    _tile_loadd(4, a + k * step, 64);
    _tile_loadd(6, v, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, b + k * step, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, more, 64);
  _tile_stored(2, sums + below, 64);
  _tile_stored(3, more + below, 64);
}

/* As two_tiles, one of several passes, for which the second cache is near enough to have the weights come to. A function
 * of its own: all its pointers stay in registers, and 128 rows take a tenth less. */
static __attribute__((noinline)) void passed(const struct pass *pass, const char *a, const char *b, long step,
                                             float *sums, float *more, long below) {
  const struct pass p = *pass;
  const int lines = (p.end - p.begin) / 64;
  const char *v = p.v, *w = p.w, *next_v = p.later_v + p.begin * p.count, *next_w = p.later_w + p.begin * p.count;
  for (int row = 0; p.y && row < p.rows; row++) {
    __builtin_prefetch(p.y + row * p.ldy, 1);
    __builtin_prefetch(p.y + row * p.ldy + PANEL, 1);
  }
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, more, 64);
  _tile_loadd(2, sums + below, 64);
  _tile_loadd(3, more + below, 64);
  for (int k = p.count; k > 0; k--, a += step, b += step, v += BYTES, w += BYTES) {
    for (int line = 0; line < lines; line++, next_v += 64, next_w += 64) {
      _mm_prefetch(next_v, _MM_HINT_T1);
      _mm_prefetch(next_w, _MM_HINT_T1);
    }
    _tile_loadd(4, a, 64);
    _tile_loadd(6, v, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, b, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, more, 64);
  _tile_stored(2, sums + below, 64);
  _tile_stored(3, more + below, 64);
}

/* All passes over some tiles of weights; `last`: no more come. */
static void passes_over(struct pass *p, const struct product *it, int k, int last, const struct tiled *in, float *sums,
                        float *more, float *y) {
  const int all = padded(it->kind, it->inputs) / 32, passes = (in->tiles + 1) / 2;
  const long step = 64L * in->height, below = (long)PANEL * in->height;
  for (int n = 0, tile = 0; n < passes; n++, tile += 2) {
    const char *a = in->x + tile * step * all + k * step;
    float *to = sums + tile * below, *also = more + tile * below;
    const int left = in->rows - tile * in->height;
    p->y = !y || !last || passes == 1 ? NULL : y + tile * in->height * p->ldy;
    p->rows = left < 2 * in->height ? left : 2 * in->height;
    p->begin = p->size / 64 * n / passes * 64, p->end = p->size / 64 * (n + 1) / passes * 64;
    if (tile + 1 == in->tiles)
      one_tile(p, a, step, to, also);
    else if (passes == 1)
      two_tiles(p, a, a + step * all, step, to, also, below);
    else
      passed(p, a, a + step * all, step, to, also, below);
  }
}

static void sums_of_16(const struct product *it, const char *v, const char *w, const struct tiled *in, float *sums,
                       float *more, float *y, long ldy) {
  const int all = padded(it->kind, it->inputs) / 32, passes = (in->tiles + 1) / 2;
  const int deep = passes > 1 ? DEEP : all > SOON ? all - SOON : all, ahead = passes > 1 ? LATER : SOON;
  const long size = (long)all * BYTES, turn = w == v + size ? size : 0; /* over the other panel */
  for (int k = 0; k < all; k += deep) {
    struct pass p = {.v = v + k * BYTES, .w = w + k * BYTES, .count = all - k < deep ? all - k : deep, .size = BYTES};
    const long far = ahead * BYTES + (k + ahead < all ? 0 : turn);
    p.later_v = p.v + far, p.later_w = p.w + far, p.ldy = ldy;
    passes_over(&p, it, k, k + deep >= all, in, sums, more, y);
  }
}

/* The same of compressed weights, for rows that pass in turn. */
static void compressed_passes(const struct product *it, int first, int second, const struct tiled *in, float *sums,
                              float *more, float *y, long ldy) {
  _Alignas(64) char ready[2][DEEP * BYTES];
  const int all = tiles_of_inputs(it->inputs);
  struct chunks v = chunks_of(it, first, second), w = chunks_of(it, second, first);
  for (int k = 0; k < all; k += DEEP) {
    struct pass p = {.v = ready[0], .w = ready[1], .count = all - k < DEEP ? all - k : DEEP, .size = COMPRESSED, .ldy = ldy};
    wide_uncompressed(&v, p.count, ready[0]);
    wide_uncompressed(&w, p.count, ready[1]);
    p.later_v = (const char *)read_later(&v, (LATER - DEEP) * COMPRESSED);
    p.later_w = (const char *)read_later(&w, (LATER - DEEP) * COMPRESSED);
    passes_over(&p, it, k, k + DEEP >= all, in, sums, more, y);
  }
}

/* sums (rows, 16) += a block's, from those of its higher digits and of its lower, both exact */
INLINE void added(const int32_t *high, const int32_t *low, const float *scale, int rows, float *sums) {
  for (int r = 0; r < rows; r++, high += PANEL, low += PANEL, sums += PANEL) {
    const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high), 8), _mm512_load_si512(low));
    const __m512 by = _mm512_set1_ps(scale[r]);
    _mm512_storeu_ps(sums, _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), by, _mm512_loadu_ps(sums)));
  }
}

static void sums_of_8(const struct product *it, const char *v, const char *w, const struct tiled *in, float *sums,
                      float *more, float *y, long ldy) {
  const int all = padded(it->kind, it->inputs) / 64, height = in->height;
  const long step = 64L * height;
  const char *a = in->x;
  const float *scale = in->scale;
  _Alignas(64) int32_t found[4][HIGH * PANEL];
  for (int b = 0; b < all; b += FOUR, v += FOUR * BYTES, w += FOUR * BYTES) {
    struct pass p = {.v = v, .w = w, .count = all - b < FOUR ? all - b : FOUR, .size = BYTES, .ldy = ldy};
    p.later_v = v + FOUR * BYTES, p.later_w = w + FOUR * BYTES;
    for (int tile = 0; tile < in->tiles; tile++, a += 2 * FOUR * step) {
      const int row = tile * height, rows = in->rows - row < height ? in->rows - row : height;
      p.begin = BYTES / 64 * tile / in->tiles * 64, p.end = BYTES / 64 * (tile + 1) / in->tiles * 64;
      p.y = !y || b + FOUR < all || in->tiles <= 2 ? NULL : y + row * ldy, p.rows = rows;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (long k = 0; k < p.count; k++) {
        ahead(p.later_v + k * BYTES, p.later_w + k * BYTES, p.begin, p.end);
        written_soon(&p, k);
        _tile_loadd(4, a + 2 * k * step, 64);
        _tile_loadd(6, v + k * BYTES, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, w + k * BYTES, 64);
        _tile_dpbssd(2, 4, 7);
        _tile_loadd(5, a + (2 * k + 1) * step, 64);
        _tile_dpbusd(1, 5, 6);
        _tile_dpbusd(3, 5, 7);
      }
      _tile_stored(0, found[0], 64);
      _tile_stored(1, found[1], 64);
      _tile_stored(2, found[2], 64);
      _tile_stored(3, found[3], 64);
      added(found[0], found[1], scale + row, rows, sums + (long)row * PANEL);
      added(found[2], found[3], scale + row, rows, more + (long)row * PANEL);
    }
    scale += in->rows;
  }
}

void tiled_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums, float *more,
                float *y, long ldy) {
  const char *v = (const char *)it->weight + panel_bytes(it->kind, it->inputs) * first;
  const char *w = (const char *)it->weight + panel_bytes(it->kind, it->inputs) * second;
  if (it->kind == TILES_COMPRESSED && in->tiles <= 2) {
    compressed_sums(it, first, second, in, sums, more);
    return;
  }
  memset(sums, 0, sizeof(float) * PANEL * in->height * in->tiles);
  memset(more, 0, sizeof(float) * PANEL * in->height * in->tiles);
  __asm__ volatile("" : : : "memory"); /* tiles are loaded behind the compiler's back */
  if (it->kind == INT8_TILES)
    sums_of_8(it, v, w, in, sums, more, y, ldy);
  else if (it->kind == BFLOAT16_TILES)
    sums_of_16(it, v, w, in, sums, more, y, ldy);
  else
    compressed_passes(it, first, second, in, sums, more, y, ldy);
}

WIDE_END
#else /* never called: there are no products of these kinds */
void tiles_begin(const struct tiled *in) { (void)in; }
void tiles_end(void) {}
void tiled_row(const struct product *it, const float *x, int row, const struct tiled *to) {
  (void)it, (void)x, (void)row, (void)to;
}
void tiled_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums, float *more,
                float *y, long ldy) {
  (void)it, (void)first, (void)second, (void)in, (void)sums, (void)more, (void)y, (void)ldy;
}
#endif
