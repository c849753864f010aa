/* Matrix products in block fixed point (AVX2).
 *
 * A processor without bfloat16 arithmetic multiplies 16-bit integers and adds them in pairs (vpmaddwd) half as fast
 * again as float32. So both factors are cut along the summed dimension into blocks; each block of a row (of a column,
 * on the weight's side) gets a scale and integers q. A block's sum is exact in int32: with |q| <= 32767 and
 * ||q|| < 46340 (its 2-norm), every partial sum is below 46340^2 < 2^31 by Cauchy-Schwarz. The limits below leave room
 * for rounding to integers. Sums of blocks are scaled and added in float32, from the first block to the last: the same
 * bytes for any number of threads and of rows.
 *
 * What is not finite makes its scale NaN, and with it all that is made from it.
 */
#include "fixed.h"

#include <string.h>

#include "pool.h"
#include "vector.h"

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 256 /* at most: a panel of 16 columns then fills a quarter of the first cache */
#define TALL 6    /* rows of a tile, and columns: 12 sums fill the registers */
#define WIDE 16
#define GROUP 2 /* panels packed together: both fit into the first cache beside a tile of rows */
#define MOST_NORM 46000.0f
#define MOST 32700.0f
#define TINY 1e-30f /* a block without a larger number counts as zeros */

/* How the summed dimension is cut: evenly, at even places. */
struct cut {
  int64_t inner, blocks, length;
};

struct job {
  struct product *product;
  struct cut cut;
  int16_t *x;    /* (tiles, blocks, length / 2, TALL, 2) */
  float *scales; /* (tiles, blocks, TALL) */
  int64_t tiles, groups, parts;
};

static struct cut cut_of(int64_t inner) {
  const int64_t blocks = (inner + BLOCK - 1) / BLOCK;
  const int64_t length = blocks ? (inner + blocks - 1) / blocks : 0;
  const int64_t even = (length + 15) / 16 * 16;
  return (struct cut){inner, even ? (inner + even - 1) / even : 0, even};
}

INLINE __m256 widened(const uint16_t *w, int kind) {
  const __m128i half = _mm_loadu_si128((const __m128i *)w);
  if (kind == FLOAT16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m256 magnitude(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

/* The scale of a block from its largest magnitude, and the sum of squares of what is left when divided by it. */
INLINE float scale_of(float largest, float squares) {
  if (largest < TINY) return squares == squares ? 0.0f : squares;
  const float by_norm = sqrtf(squares) * (1.0f / MOST_NORM);
  return largest * (by_norm < 1.0f / MOST ? 1.0f / MOST : by_norm);
}

INLINE float reciprocal(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

/* Sixteen numbers as integers, in order. */
INLINE __m256i integers(__m256 a, __m256 b, __m256 by) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(a, by)), high = _mm256_cvtps_epi32(_mm256_mul_ps(b, by));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

/* One block of a row, `length` a multiple of 16, zeros behind its end: integers to q, the scale is returned. */
INLINE float row_block(const float *v, int length, int16_t *q) {
  __m256 most = _mm256_setzero_ps(), squares = _mm256_setzero_ps(), more = _mm256_setzero_ps();
  for (int i = 0; i < length; i += 8) most = _mm256_max_ps(most, magnitude(_mm256_loadu_ps(v + i)));
  const float largest = max8(most);
  const __m256 unit = _mm256_set1_ps(largest < TINY ? 0.0f : 1.0f / largest);
  for (int i = 0; i < length; i += 16) {
    const __m256 a = _mm256_mul_ps(unit, _mm256_loadu_ps(v + i)), b = _mm256_mul_ps(unit, _mm256_loadu_ps(v + i + 8));
    squares = _mm256_fmadd_ps(a, a, squares);
    more = _mm256_fmadd_ps(b, b, more);
  }
  const float scale = scale_of(largest, sum8(_mm256_add_ps(squares, more)));
  const __m256 by = _mm256_set1_ps(reciprocal(scale));
  for (int i = 0; i < length; i += 16) {
    const __m256i four = integers(_mm256_loadu_ps(v + i), _mm256_loadu_ps(v + i + 8), by);
    _mm256_storeu_si256((__m256i *)(q + i), four);
  }
  return scale;
}

/* Pairs of eight rows, side by side, `stride` apart; those of the last rows are overwritten where that is below 8. */
INLINE void transposed8(const int16_t *const rows[8], int at, int32_t *to, int stride) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(rows[i] + at)));
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++)
    _mm256_storeu_ps((float *)(to + i * stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
  for (int i = 0; i < 4; i++)
    _mm256_storeu_ps((float *)(to + (i + 4) * stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
}

/* The rows of one tile: pairs of neighbours in the summed dimension lie together, those of TALL rows side by side. */
static void pack_rows(void *given, int tile, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct cut cut = job->cut;
  float v[BLOCK];
  int16_t q[TALL][BLOCK];
  int32_t pairs[BLOCK / 2 * TALL + 8];
  const int16_t *const rows[8] = {q[0], q[1], q[2], q[3], q[4], q[5], q[5], q[5]};
  const int64_t first = (int64_t)tile * TALL;
  for (int64_t block = 0; block < cut.blocks; block++) {
    const int64_t begin = block * cut.length;
    const int64_t here = cut.inner - begin < cut.length ? cut.inner - begin : cut.length;
    float *scales = job->scales + (tile * cut.blocks + block) * TALL;
    for (int row = 0; row < TALL; row++) {
      const float *from = v;
      if (first + row >= job->product->rows || here < cut.length) memset(v, 0, sizeof v);
      if (first + row < job->product->rows) {
        from = job->product->x + (first + row) * cut.inner + begin;
        if (here < cut.length) from = memcpy(v, from, here * sizeof *v);
      }
      scales[row] = row_block(from, (int)cut.length, q[row]);
    }
    for (int i = 0; i < cut.length; i += 16) transposed8(rows, i, pairs + i / 2 * TALL, TALL);
    memcpy(job->x + (tile * cut.blocks + block) * cut.length * TALL, pairs, cut.length * TALL * sizeof(int16_t));
  }
}

/* WIDE rows of a (columns, inner) weight, one block of each: (length / 2, WIDE, 2). */
INLINE void pack_transposed(const struct product *p, struct cut cut, int64_t column, int64_t block, int kind,
                            int16_t *panel, float *scales) {
  const int64_t begin = block * cut.length;
  const int64_t here = cut.inner - begin < cut.length ? cut.inner - begin : cut.length;
  float v[BLOCK];
  uint16_t last[BLOCK];
  int16_t q[WIDE][BLOCK];
  const int16_t *rows[WIDE];
  for (int lane = 0; lane < WIDE; lane++) {
    rows[lane] = q[lane];
    const uint16_t *w = (const uint16_t *)p->weight + (column + lane) * cut.inner + begin;
    if (column + lane >= p->columns || here < cut.length) {
      memset(last, 0, sizeof last);
      if (column + lane < p->columns) memcpy(last, w, here * sizeof *w);
      w = last;
    } else if (begin + cut.length < cut.inner) {
      for (int i = 0; i < cut.length; i += 32) _mm_prefetch((const char *)(w + cut.length + i), _MM_HINT_T1);
    }
    for (int i = 0; i < cut.length; i += 8) _mm256_storeu_ps(v + i, widened(w + i, kind));
    scales[lane] = row_block(v, (int)cut.length, q[lane]);
  }
  for (int i = 0; i < cut.length; i += 16) {
    transposed8(rows, i, (int32_t *)panel + i / 2 * WIDE, WIDE);
    transposed8(rows + 8, i, (int32_t *)panel + i / 2 * WIDE + 8, WIDE);
  }
}

/* WIDE columns of an (inner, columns) weight, one block of each: as pack_transposed leaves them. */
INLINE void pack_plain(const struct product *p, struct cut cut, int64_t column, int64_t block, int kind,
                       int16_t *panel, float *scales) {
  const int64_t begin = block * cut.length;
  const int here = (int)(cut.inner - begin < cut.length ? cut.inner - begin : cut.length);
  const int64_t there = p->columns - column < WIDE ? p->columns - column : WIDE;
  float v[BLOCK][WIDE];
  __m256 most[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, squares[2] = {most[0], most[0]}, unit[2], by[2];
  for (int i = 0; i < here; i++) {
    const uint16_t *w = (const uint16_t *)p->weight + (begin + i) * p->columns + column;
    uint16_t last[WIDE] = {0};
    if (there < WIDE) w = memcpy(last, w, there * sizeof *w);
    for (int half = 0; half < 2; half++) {
      const __m256 wide = widened(w + 8 * half, kind);
      _mm256_storeu_ps(v[i] + 8 * half, wide);
      most[half] = _mm256_max_ps(most[half], magnitude(wide));
    }
  }
  for (int half = 0; half < 2; half++) {
    const __m256 counts = _mm256_cmp_ps(most[half], _mm256_set1_ps(TINY), _CMP_NLT_UQ);
    unit[half] = _mm256_and_ps(counts, _mm256_div_ps(_mm256_set1_ps(1.0f), most[half]));
  }
  for (int i = 0; i < here; i++)
    for (int half = 0; half < 2; half++) {
      const __m256 a = _mm256_mul_ps(unit[half], _mm256_loadu_ps(v[i] + 8 * half));
      squares[half] = _mm256_fmadd_ps(a, a, squares[half]);
    }
  float largest[WIDE], sums[WIDE], over[WIDE];
  for (int half = 0; half < 2; half++) {
    _mm256_storeu_ps(largest + 8 * half, most[half]);
    _mm256_storeu_ps(sums + 8 * half, squares[half]);
  }
  for (int lane = 0; lane < WIDE; lane++) {
    scales[lane] = scale_of(largest[lane], sums[lane]);
    over[lane] = reciprocal(scales[lane]);
  }
  for (int half = 0; half < 2; half++) by[half] = _mm256_loadu_ps(over + 8 * half);
  if (here < cut.length) memset(v[here], 0, (cut.length - here) * sizeof *v);
  const __m256i low = _mm256_set1_epi32(0xffff);
  for (int i = 0; i < cut.length; i += 2)
    for (int half = 0; half < 2; half++) {
      const __m256i even = _mm256_cvtps_epi32(_mm256_mul_ps(by[half], _mm256_loadu_ps(v[i] + 8 * half)));
      const __m256i odd = _mm256_cvtps_epi32(_mm256_mul_ps(by[half], _mm256_loadu_ps(v[i + 1] + 8 * half)));
      const __m256i pair = _mm256_or_si256(_mm256_and_si256(even, low), _mm256_slli_epi32(odd, 16));
      _mm256_storeu_si256((__m256i *)(panel + i * WIDE + 16 * half), pair);
    }
}

static void pack_panel(const struct product *p, struct cut cut, int64_t column, int64_t block, int16_t *panel,
                       float *scales) {
  if (p->plain && p->kind == BFLOAT16)
    pack_plain(p, cut, column, block, BFLOAT16, panel, scales);
  else if (p->plain)
    pack_plain(p, cut, column, block, FLOAT16, panel, scales);
  else if (p->kind == BFLOAT16)
    pack_transposed(p, cut, column, block, BFLOAT16, panel, scales);
  else
    pack_transposed(p, cut, column, block, FLOAT16, panel, scales);
}

#define ROW(at, c0, c1)                                                                     \
  "vpbroadcastd " at "(%[x]), %%ymm15\n\tvpmaddwd %%ymm15, %%ymm12, %%ymm14\n\t"             \
  "vpmaddwd %%ymm15, %%ymm13, %%ymm15\n\tvpaddd %%ymm14, " c0 ", " c0 "\n\t"                \
  "vpaddd %%ymm15, " c1 ", " c1 "\n\t"
#define PAIR(x0, x1, x2, x3, x4, x5, w0, w1)                                                \
  "vmovdqa " w0 "(%[w]), %%ymm12\n\tvmovdqa " w1 "(%[w]), %%ymm13\n\t"                      \
  ROW(x0, "%%ymm0", "%%ymm1") ROW(x1, "%%ymm2", "%%ymm3") ROW(x2, "%%ymm4", "%%ymm5")       \
  ROW(x3, "%%ymm6", "%%ymm7") ROW(x4, "%%ymm8", "%%ymm9") ROW(x5, "%%ymm10", "%%ymm11")
#define CLEAR(c) "vpxor " c ", " c ", " c "\n\t"
#define KEEP(at, c) "vmovdqa " c ", " at "(%[c])\n\t"

/* The sums of TALL rows times WIDE columns over `pairs` pairs, a multiple of 4. In assembler, because compilers spill:
 * twelve sums, two vectors of the panel, a pair of a row and a product fill all registers there are. */
INLINE void sums(const int32_t *x, const int16_t *w, int64_t pairs, int32_t c[TALL][WIDE]) {
  __asm__ volatile(
      CLEAR("%%ymm0") CLEAR("%%ymm1") CLEAR("%%ymm2") CLEAR("%%ymm3") CLEAR("%%ymm4") CLEAR("%%ymm5")
      CLEAR("%%ymm6") CLEAR("%%ymm7") CLEAR("%%ymm8") CLEAR("%%ymm9") CLEAR("%%ymm10") CLEAR("%%ymm11")
      ".p2align 5\n1:\n\t"
      PAIR("0", "4", "8", "12", "16", "20", "0", "32")
      PAIR("24", "28", "32", "36", "40", "44", "64", "96")
      PAIR("48", "52", "56", "60", "64", "68", "128", "160")
      PAIR("72", "76", "80", "84", "88", "92", "192", "224")
      "add $96, %[x]\n\tadd $256, %[w]\n\tsub $4, %[pairs]\n\tjg 1b\n\t"
      KEEP("0", "%%ymm0") KEEP("32", "%%ymm1") KEEP("64", "%%ymm2") KEEP("96", "%%ymm3") KEEP("128", "%%ymm4")
      KEEP("160", "%%ymm5") KEEP("192", "%%ymm6") KEEP("224", "%%ymm7") KEEP("256", "%%ymm8") KEEP("288", "%%ymm9")
      KEEP("320", "%%ymm10") KEEP("352", "%%ymm11")
      : [x] "+r"(x), [w] "+r"(w), [pairs] "+r"(pairs)
      : [c] "r"(c)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

INLINE __m256 floats(const int32_t *c) { return _mm256_cvtepi32_ps(_mm256_load_si256((const __m256i *)c)); }

/* TALL rows times WIDE columns over one block; added to y unless it is the first. */
static void tile(const int32_t *x, const int16_t *panel, int pairs, const float *sx, const float *sw, float *y,
                 int64_t stride, int rows, int columns, int first) {
  _Alignas(32) int32_t c[TALL][WIDE];
  sums(x, panel, pairs, c);
  const __m256 s0 = _mm256_loadu_ps(sw), s1 = _mm256_loadu_ps(sw + 8);
  for (int row = 0; row < rows; row++) {
    const __m256 s = _mm256_broadcast_ss(sx + row);
    const __m256 a = _mm256_mul_ps(_mm256_mul_ps(s, s0), floats(c[row]));
    const __m256 b = _mm256_mul_ps(_mm256_mul_ps(s, s1), floats(c[row] + 8));
    float *to = y + row * stride, part[WIDE];
    if (columns < WIDE) {
      _mm256_storeu_ps(part, a);
      _mm256_storeu_ps(part + 8, b);
      for (int i = 0; i < columns; i++) to[i] = first ? part[i] : to[i] + part[i];
    } else {
      _mm256_storeu_ps(to, first ? a : _mm256_add_ps(_mm256_loadu_ps(to), a));
      _mm256_storeu_ps(to + 8, first ? b : _mm256_add_ps(_mm256_loadu_ps(to + 8), b));
    }
  }
}

/* A group of panels times some of the tiles. */
static void multiply(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct product *p = job->product;
  const struct cut cut = job->cut;
  const int64_t group = item % job->groups, part = item / job->groups;
  const int64_t begin = part * job->tiles / job->parts, end = (part + 1) * job->tiles / job->parts;
  const int64_t column = group * GROUP * WIDE;
  const int64_t left = (p->columns - column + WIDE - 1) / WIDE;
  const int panels = (int)(left < GROUP ? left : GROUP);
  _Alignas(64) int16_t panel[GROUP][BLOCK * WIDE];
  float scales[GROUP][WIDE];
  for (int64_t block = 0; block < cut.blocks; block++) {
    for (int i = 0; i < panels; i++) pack_panel(p, cut, column + i * WIDE, block, panel[i], scales[i]);
    for (int64_t t = begin; t < end; t++) {
      const int64_t at = t * cut.blocks + block, rows = p->rows - t * TALL;
      const int32_t *x = (const int32_t *)(job->x + at * cut.length * TALL);
      for (int i = 0; i < panels; i++) {
        const int64_t columns = p->columns - column - i * WIDE;
        tile(x, panel[i], (int)cut.length / 2, job->scales + at * TALL, scales[i],
             p->y + t * TALL * p->columns + column + i * WIDE, p->columns, rows < TALL ? (int)rows : TALL,
             columns < WIDE ? (int)columns : WIDE, block == 0);
      }
    }
  }
}

int64_t fixed_scratch(int64_t rows, int64_t inner) {
  const struct cut cut = cut_of(inner);
  const int64_t tiles = (rows + TALL - 1) / TALL;
  return tiles * cut.blocks * TALL * (cut.length * (int64_t)sizeof(int16_t) + (int64_t)sizeof(float));
}

void fixed_product(struct pool *pool, struct product *product) {
  struct job job = {.product = product, .cut = cut_of(product->inner)};
  if (!product->rows || !product->columns) return;
  if (!product->inner) {
    memset(product->y, 0, product->rows * product->columns * sizeof *product->y);
    return;
  }
  job.tiles = (product->rows + TALL - 1) / TALL;
  job.groups = (product->columns + GROUP * WIDE - 1) / (GROUP * WIDE);
  job.x = product->packed;
  job.scales = (float *)(job.x + job.tiles * job.cut.blocks * job.cut.length * TALL);
  /* few columns leave threads idle at the end: then the rows are parted as well, and weights packed twice */
  job.parts = 1;
  while (job.groups * job.parts < 4 * pool_threads(pool) && job.tiles / job.parts >= 64) job.parts *= 2;
  pool_run(pool, pack_rows, &job, (int)job.tiles);
  pool_run(pool, multiply, &job, (int)(job.groups * job.parts));
}

const char *fixed_sources(void) { return SOURCES; }
