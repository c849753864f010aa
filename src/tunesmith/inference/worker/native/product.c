#include "product.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void load_f32(const void *at, __m256 *a, __m256 *b) {
  *a = _mm256_loadu_ps(at);
  *b = _mm256_loadu_ps((const float *)at + 8);
}

INLINE void load_f16(const void *at, __m256 *a, __m256 *b) {
  *a = _mm256_cvtph_ps(_mm_loadu_si128(at));
  *b = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 1));
}

INLINE void load_bf16(const void *at, __m256 *a, __m256 *b) {
  const __m256i both = _mm256_loadu_si256(at);
  *a = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  *b = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)));
}

typedef void (*load_fn)(const void *, __m256 *, __m256 *);

/* sums (rows, 16) += x (rows, inputs) w; inlined with `rows` and `load` known, so that the sums stay in registers */
INLINE void tile(load_fn load, const float *x, long ldx, const char *w, long stride, int inputs, int rows, float *sums,
                 long lds) {
  __m256 c[TILE][2];
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++) {
    c[m][0] = _mm256_loadu_ps(sums + m * lds);
    c[m][1] = _mm256_loadu_ps(sums + m * lds + 8);
  }
#pragma GCC unroll 4
  for (long k = 0; k < inputs; k++, w += stride) {
    __m256 a, b;
    load(w, &a, &b);
    if (load != load_f32) _mm_prefetch(w + AHEAD, _MM_HINT_T0); /* what is widened already is at hand */
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
      const __m256 one = _mm256_broadcast_ss(x + m * ldx + k);
      c[m][0] = _mm256_fmadd_ps(one, a, c[m][0]);
      c[m][1] = _mm256_fmadd_ps(one, b, c[m][1]);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++) {
    _mm256_storeu_ps(sums + m * lds, c[m][0]);
    _mm256_storeu_ps(sums + m * lds + 8, c[m][1]);
  }
}

#define TILES(NAME, LOAD)                                                                                     \
  static void NAME(const float *x, long ldx, const char *w, long stride, int inputs, int rows, float *sums,   \
                   long lds) {                                                                                \
    switch (rows) {                                                                                           \
      case 1: tile(LOAD, x, ldx, w, stride, inputs, 1, sums, lds); return;                                    \
      case 2: tile(LOAD, x, ldx, w, stride, inputs, 2, sums, lds); return;                                    \
      case 3: tile(LOAD, x, ldx, w, stride, inputs, 3, sums, lds); return;                                    \
      case 4: tile(LOAD, x, ldx, w, stride, inputs, 4, sums, lds); return;                                    \
      case 5: tile(LOAD, x, ldx, w, stride, inputs, 5, sums, lds); return;                                    \
      default: tile(LOAD, x, ldx, w, stride, inputs, 6, sums, lds);                                           \
    }                                                                                                         \
  }

TILES(tile_f32, load_f32)
TILES(tile_f16, load_f16)
TILES(tile_bf16, load_bf16)

typedef void (*tile_fn)(const float *, long, const char *, long, int, int, float *, long);
static const tile_fn TILE_OF[] = {tile_f32, tile_f16, tile_bf16};

INLINE void widen(load_fn load, const char *w, long stride, int inputs, float *block) {
  for (int k = 0; k < inputs; k++, w += stride, block += PANEL) {
    __m256 a, b;
    load(w, &a, &b);
    _mm256_store_ps(block, a);
    _mm256_store_ps(block + 8, b);
  }
}

static void widened(int kind, const char *w, int inputs, float *block) {
  if (kind == FLOAT16) widen(load_f16, w, 2 * PANEL, inputs, block);
  if (kind == BFLOAT16) widen(load_bf16, w, 2 * PANEL, inputs, block);
}

/* As few tiles as can be, of as equal heights as can be: a tile of one or two rows waits for its own additions.
 *
 * [next, end) is asked for meanwhile: a block is computed without reading ahead in the weights. It is some lines a tile,
 * because the processor drops most of what it is asked for all at once. */
INLINE void tiles(tile_fn one, const float *x, long ldx, const char *w, long stride, int inputs, int rows, float *sums,
                  long lds, const char *next, const char *end) {
  for (int left = (rows + TILE - 1) / TILE; left > 0; left--) {
    const int some = (rows + left - 1) / left;
    for (const char *stop = next + ((end - next) / left + 63) / 64 * 64; next < stop && next < end; next += 64)
      _mm_prefetch(next, _MM_HINT_T1);
    one(x, ldx, w, stride, inputs, some, sums, lds);
    x += some * ldx;
    sums += some * lds;
    rows -= some;
  }
}

void panel_sums(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums, float *block) {
  const long stride = stride_of(it->kind);
  const char *w = (const char *)it->weight + stride * it->inputs * panel;
  memset(sums, 0, sizeof(float) * PANEL * rows);
  if (rows <= FEW) {
    tiles(TILE_OF[it->kind], x, ldx, w, stride, it->inputs, rows, sums, PANEL, w, w);
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
    tiles(tile_f32, x + k, ldx, wide, 4 * PANEL, some, rows, sums, PANEL, next, next + stride * BLOCK);
  }
}

/* two panels at once: with so few rows, one panel's sums would wait for their own additions */
INLINE void two(load_fn load, const float *x, const char *v, const char *w, long stride, int inputs, int rows,
                float *sums, float *more) {
  __m256 c[PAIRED][4];
#pragma GCC unroll 2
  for (int m = 0; m < rows; m++)
    for (int i = 0; i < 4; i++) c[m][i] = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (long k = 0; k < inputs; k++, v += stride, w += stride) {
    __m256 a, b, d, e;
    load(v, &a, &b);
    load(w, &d, &e);
#pragma GCC unroll 2
    for (int m = 0; m < rows; m++) {
      const __m256 one = _mm256_broadcast_ss(x + m * inputs + k);
      c[m][0] = _mm256_fmadd_ps(one, a, c[m][0]);
      c[m][1] = _mm256_fmadd_ps(one, b, c[m][1]);
      c[m][2] = _mm256_fmadd_ps(one, d, c[m][2]);
      c[m][3] = _mm256_fmadd_ps(one, e, c[m][3]);
    }
  }
#pragma GCC unroll 2
  for (int m = 0; m < rows; m++) {
    _mm256_storeu_ps(sums + m * PANEL, c[m][0]);
    _mm256_storeu_ps(sums + m * PANEL + 8, c[m][1]);
    _mm256_storeu_ps(more + m * PANEL, c[m][2]);
    _mm256_storeu_ps(more + m * PANEL + 8, c[m][3]);
  }
}

#define TWO(NAME, LOAD)                                                                                              \
  static void NAME(const float *x, const char *v, const char *w, long stride, int inputs, int rows, float *sums,     \
                   float *more) {                                                                                    \
    switch (rows) {                                                                                                  \
      case 1: two(LOAD, x, v, w, stride, inputs, 1, sums, more); return;                                             \
      default: two(LOAD, x, v, w, stride, inputs, 2, sums, more);                                                    \
    }                                                                                                                \
  }

TWO(two_f32, load_f32)
TWO(two_f16, load_f16)
TWO(two_bf16, load_bf16)

typedef void (*two_fn)(const float *, const char *, const char *, long, int, int, float *, float *);
static const two_fn TWO_OF[] = {two_f32, two_f16, two_bf16};

void panel_sums_of_two(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                       float *more) {
  const long stride = stride_of(it->kind), size = stride * it->inputs;
  const char *all = it->weight;
  TWO_OF[it->kind](x, all + size * first, all + size * second, stride, it->inputs, rows, sums, more);
}

void add_sums(const float *x, long ldx, const float *w, long ldw, int inputs, int rows, float *sums, long lds) {
  const char *const from = (const char *)w;
  tiles(tile_f32, x, ldx, from, ldw * (long)sizeof(float), inputs, rows, sums, lds, from, from);
}

#define PACKED(NAME, NUMBER)                                                                         \
  static void NAME(const NUMBER *from, int outputs, int inputs, const int *order, NUMBER *to) {      \
    for (int k = 0; k < inputs; k++)                                                                 \
      for (int o = 0; o < PANEL; o++) to[k * PANEL + o] = order[o] < outputs ? from[(long)order[o] * inputs + k] : 0; \
  }

PACKED(packed_4, uint32_t)
PACKED(packed_2, uint16_t)

/* four bytes of each output beside the next output's, a line of each at a time; the last are filled up with zeros */
static void packed_tiles(const char *from, int outputs, long bytes, long whole, char *to) {
  const long fours = bytes / 4 * 4;
  if (outputs < PANEL || bytes < whole) memset(to, 0, whole * PANEL);
  for (long line = 0; line < bytes; line += 64)
    for (int o = 0; o < outputs; o++) {
      const char *row = from + o * bytes;
      for (long at = line; at < fours && at < line + 64; at += 4) memcpy(to + at * PANEL + 4 * o, row + at, 4);
      if (line + 64 >= bytes && fours < bytes) memcpy(to + fours * PANEL + 4 * o, row + fours, bytes - fours);
    }
}

void pack_panel(int kind, const void *from, int outputs, int inputs, void *to) {
  static const int plain[PANEL] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static const int halves[PANEL] = {0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15};
  if (kind == FLOAT32) packed_4(from, outputs, inputs, plain, to);
  if (kind == FLOAT16) packed_2(from, outputs, inputs, plain, to);
  if (kind == BFLOAT16) packed_2(from, outputs, inputs, halves, to);
  if (kind == INT8) pack_narrow(from, outputs, inputs, to);
  const long bytes = stride_of(kind) / PANEL, whole = bytes * padded(kind, inputs);
  if (kind == BFLOAT16_TILES || kind == INT8_TILES) packed_tiles(from, outputs, bytes * inputs, whole, to);
}
