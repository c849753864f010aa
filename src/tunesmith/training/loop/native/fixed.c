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

#include "integers.h"
#include "pool.h"

#define GROUP 6 /* panels packed together: they come from the second cache, a tile of rows stays in the first */
#define TILES 4 /* packed together: a block of `first` then stays in the first cache */
#define PARTS 8 /* of the rows, for groups that threads share */

/* One block of a group of panels. */
struct panels {
  _Alignas(64) int16_t numbers[GROUP][BLOCK * WIDE];
  float scales[GROUP][WIDE];
};

struct job {
  const struct product *product;
  struct cut cut;
  int64_t tiles, groups, ranks;
  int64_t alone, parts;  /* groups that one thread multiplies with all rows, and parts of the rows for the others */
  struct panels *panels; /* (groups - alone, blocks) */
  int16_t *x;            /* (tiles, blocks, length / 2, TALL, 2) */
  float *scales;         /* (tiles, blocks, TALL) */
  float *first, *second; /* (ranks / WIDE, inner, WIDE) and (groups * GROUP, rank, WIDE) */
};

/* One block of the rows of a tile: pairs of neighbours in the summed dimension lie together, those of TALL rows side
 * by side. The rows times `first` are added to what the blocks before gave. */
static void pack_block(const struct job *job, int64_t tile, int64_t block) {
  const struct product *p = job->product;
  const struct cut cut = job->cut;
  const int64_t begin = block * cut.length, first = tile * TALL;
  const int64_t here = cut.inner - begin < cut.length ? cut.inner - begin : cut.length;
  float v[TALL][BLOCK];
  int16_t q[TALL][BLOCK];
  int32_t pairs[BLOCK / 2 * TALL + 8];
  const int16_t *const integers[8] = {q[0], q[1], q[2], q[3], q[4], q[5], q[5], q[5]};
  float *scales = job->scales + (tile * cut.blocks + block) * TALL;
  const float *x = (const float *)p->x + first * cut.inner + begin;
  int64_t stride = cut.inner;
  if (first + TALL > p->rows || here < cut.length) {
    memset(v, 0, sizeof v);
    for (int row = 0; row < TALL && first + row < p->rows; row++) memcpy(v[row], x + row * stride, here * sizeof **v);
    x = v[0], stride = BLOCK;
  }
  for (int row = 0; row < TALL; row++) scales[row] = row_block(x + row * stride, (int)cut.length, q[row]);
  for (int i = 0; i < cut.length; i += 16) transposed8(integers, i, pairs + i / 2 * TALL, TALL);
  memcpy(job->x + (tile * cut.blocks + block) * cut.length * TALL, pairs, cut.length * TALL * sizeof(int16_t));
  for (int64_t rank = 0; rank < job->ranks; rank += WIDE) {
    float *middle = p->middle + first * job->ranks + rank;
    __m256 sums[TALL][2] = {{_mm256_setzero_ps()}};
    multiplied(sums, TALL, x, (int)stride, 1, job->first + rank * cut.inner + begin * WIDE, here);
    for (int row = 0; row < TALL; row++, middle += job->ranks)
      EACH(half, 2) {
        const __m256 before = block ? _mm256_loadu_ps(middle + 8 * half) : _mm256_setzero_ps();
        _mm256_storeu_ps(middle + 8 * half, _mm256_add_ps(before, sums[row][half]));
      }
  }
}

static void pack_rows(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const int64_t begin = (int64_t)item * TILES, end = begin + TILES < job->tiles ? begin + TILES : job->tiles;
  for (int64_t block = 0; block < job->cut.blocks; block++)
    for (int64_t tile = begin; tile < end; tile++) pack_block(job, tile, block);
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

/* One block of a panel of weights, and what is added to its columns: nothing before the last block. */
struct stripe {
  const int16_t *numbers;
  const float *scales;
  const float *bias, *second; /* NULL where there is none; (rank, WIDE) */
  int64_t stride;             /* between rows of y */
  int64_t rank, ranks;        /* 0 before the last block; between rows of the middle */
  int pairs, begins;
};

/* TALL rows times WIDE columns over one block, added to y unless it `begins` it. */
static void tile(const struct stripe *s, const int32_t *x, const float *sx, const float *middle, float *y) {
  _Alignas(32) int32_t c[TALL][WIDE];
  /* all of y is read or written at once, and would be waited for */
  for (int row = 0; row < TALL; row++) _mm_prefetch((const char *)(y + row * s->stride), _MM_HINT_T0);
  sums(x, s->numbers, s->pairs, c);
  __m256 to[TALL][2];
  const __m256 sw[2] = {_mm256_loadu_ps(s->scales), _mm256_loadu_ps(s->scales + 8)};
  const int64_t stride = s->stride;
  EACH(row, TALL) {
    const __m256 scale = _mm256_broadcast_ss(sx + row);
    EACH(half, 2)
      to[row][half] = _mm256_mul_ps(_mm256_mul_ps(scale, sw[half]), floats(c[row] + 8 * half));
  }
  if (!s->begins)
    EACH(row, TALL)
      EACH(half, 2)
        to[row][half] = _mm256_add_ps(to[row][half], _mm256_loadu_ps(y + row * stride + 8 * half));
  if (s->bias)
    EACH(row, TALL)
      EACH(half, 2)
        to[row][half] = _mm256_add_ps(to[row][half], _mm256_loadu_ps(s->bias + 8 * half));
  multiplied(to, TALL, middle, (int)s->ranks, 1, s->second, s->rank);
  EACH(row, TALL)
    EACH(half, 2) _mm256_storeu_ps(y + row * stride + 8 * half, to[row][half]);
}

/* A tile at the edge of y, by way of a whole one. */
static void edge(struct stripe s, const int32_t *x, const float *sx, const float *middle, float *y, int64_t rows,
                 int64_t columns) {
  float whole[TALL][WIDE] = {{0}};
  const int64_t stride = s.stride;
  const size_t bytes = (columns < WIDE ? columns : WIDE) * sizeof **whole;
  for (int row = 0; row < TALL && row < rows; row++) memcpy(whole[row], y + row * stride, bytes);
  s.stride = WIDE;
  tile(&s, x, sx, middle, whole[0]);
  for (int row = 0; row < TALL && row < rows; row++) memcpy(y + row * stride, whole[row], bytes);
}

static void pack_group(const struct job *job, int64_t group, int64_t block, struct panels *panels) {
  for (int i = 0; i < GROUP && (group * GROUP + i) * WIDE < job->product->columns; i++)
    pack_panel(job->product, job->cut, (group * GROUP + i) * WIDE, block, panels->numbers[i], panels->scales[i]);
}

/* Panels of weights that threads share, and of the factors. */
static void prepare(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct product *p = job->product;
  const int64_t shared = (job->groups - job->alone) * job->cut.blocks;
  if (item < shared) {
    pack_group(job, job->alone + item / job->cut.blocks, item % job->cut.blocks, job->panels + item);
    return;
  }
  item -= (int)shared;
  if (item < job->ranks / WIDE) {
    const int64_t rank = (int64_t)item * WIDE;
    pack_factor(&p->first, p->inner, p->rank, rank, job->first + rank * p->inner);
    return;
  }
  item -= (int)(job->ranks / WIDE);
  for (int64_t column = (int64_t)item * GROUP * WIDE, i = 0; i < GROUP && column < p->columns; i++, column += WIDE)
    pack_factor(&p->second, p->rank, p->columns, column, job->second + column * p->rank);
}

/* A group of panels times all rows, or times a part of them. */
static void multiply(void *given, int item, int thread) {
  (void)thread;
  const struct job *job = given;
  const struct product *p = job->product;
  const struct cut cut = job->cut;
  const int64_t late = item - job->alone, group = late < 0 ? item : job->alone + late / job->parts;
  const int64_t part = late < 0 ? 0 : late % job->parts, parts = late < 0 ? 1 : job->parts;
  const int64_t begin = part * job->tiles / parts, end = (part + 1) * job->tiles / parts;
  const int64_t first = group * GROUP * WIDE, columns = p->columns - first;
  const int count = (int)(columns < GROUP * WIDE ? (columns + WIDE - 1) / WIDE : GROUP);
  struct panels own;
  float bias[GROUP * WIDE] = {0};
  struct stripe stripes[GROUP];
  if (p->bias) memcpy(bias, p->bias + first, (columns < GROUP * WIDE ? columns : GROUP * WIDE) * sizeof *bias);
  for (int64_t block = 0; block < cut.blocks; block++) {
    const struct panels *panels = &own;
    if (late < 0)
      pack_group(job, group, block, &own);
    else
      panels = job->panels + (group - job->alone) * cut.blocks + block;
    const int ends = block == cut.blocks - 1;
    for (int i = 0; i < count; i++)
      stripes[i] = (struct stripe){
          .numbers = panels->numbers[i],
          .scales = panels->scales[i],
          .bias = ends && p->bias ? bias + i * WIDE : NULL,
          .second = job->second + (first + i * WIDE) * p->rank,
          .stride = p->columns,
          .rank = ends ? p->rank : 0,
          .ranks = job->ranks,
          .pairs = (int)cut.length / 2,
          .begins = block == 0 && !p->added,
      };
    for (int64_t t = begin; t < end; t++) {
      const int64_t at = t * cut.blocks + block, rows = p->rows - t * TALL;
      const int32_t *x = (const int32_t *)(job->x + at * cut.length * TALL);
      const float *scales = job->scales + at * TALL, *middle = p->middle + t * TALL * job->ranks;
      float *y = (float *)p->y + t * TALL * p->columns + first;
      for (int i = 0; i < count; i++)
        if (rows < TALL || columns < (i + 1) * WIDE)
          edge(stripes[i], x, scales, middle, y + i * WIDE, rows, columns - i * WIDE);
        else
          tile(&stripes[i], x, scales, middle, y + i * WIDE);
    }
  }
}

/* The job, its scratch laid out from `at` on; the bytes that takes. */
static int64_t laid(struct job *job, const struct pool *pool, const struct product *p, char *at) {
  *job = (struct job){.product = p, .cut = cut_of(p->inner)};
  const int64_t threads = pool_threads(pool), blocks = job->cut.blocks;
  job->tiles = (p->rows + TALL - 1) / TALL;
  job->groups = (p->columns + GROUP * WIDE - 1) / (GROUP * WIDE);
  job->ranks = (p->rank + WIDE - 1) / WIDE * WIDE;
  /* a thread without a group at the end would wait for the others: the last groups are for all, by parts of the rows */
  job->alone = threads < 2 ? job->groups : job->groups > threads ? job->groups - threads : 0;
  job->parts = job->tiles < 4 * PARTS ? (job->tiles + 3) / 4 : PARTS;
  const int64_t panels = (job->groups - job->alone) * blocks * (int64_t)sizeof(struct panels);
  const int64_t x = job->tiles * blocks * job->cut.length * TALL * (int64_t)sizeof(int16_t);
  const int64_t scales = job->tiles * blocks * TALL * (int64_t)sizeof(float);
  const int64_t first = job->ranks * p->inner * (int64_t)sizeof(float);
  const int64_t second = job->groups * GROUP * WIDE * p->rank * (int64_t)sizeof(float);
  job->panels = (struct panels *)at;
  job->first = (float *)(at + panels);
  job->second = (float *)(at + panels + first);
  job->x = (int16_t *)(at + panels + first + second);
  job->scales = (float *)(at + panels + first + second + x);
  return panels + first + second + x + scales;
}

int64_t frozen_scratch(const struct pool *pool, const struct product *product) {
  struct job job;
  return laid(&job, pool, product, NULL);
}

void frozen_product(struct pool *pool, const struct product *product) {
  struct job job;
  if (!product->rows || !product->columns) return;
  laid(&job, pool, product, product->packed);
  const int64_t shared = job.groups - job.alone;
  pool_run(pool, prepare, &job, (int)(shared * job.cut.blocks + (job.ranks ? job.ranks / WIDE + job.groups : 0)));
  pool_run(pool, pack_rows, &job, (int)((job.tiles + TILES - 1) / TILES));
  pool_run(pool, multiply, &job, (int)(job.alone + shared * job.parts));
}

const char *trainer_sources(void) { return SOURCES; }
