/* Sums over rows of products of a wide matrix and a narrow one: the gradients of A and B. */
#include "low_rank.h"

#include <string.h>

#include "pool.h"

#define SLAB 96 /* columns of one item: with ROWS of them and of the narrow matrix in the first cache */
#define ROWS 64

/* Columns of one item, from the first row to the last, ROWS at a time: the same bytes for any number of threads. */
static void slab(const struct outer *outer, int64_t rows, int64_t column, int64_t rank) {
  const int64_t here = outer->columns - column < SLAB ? outer->columns - column : SLAB;
  const int64_t lanes = outer->rank - rank < WIDE ? outer->rank - rank : WIDE;
  float total[SLAB][WIDE] = {{0}}, low[ROWS][WIDE] = {{0}}, last[ROWS][TALL] = {{0}};
  for (int64_t begin = 0; begin < rows; begin += ROWS) {
    const int64_t length = rows - begin < ROWS ? rows - begin : ROWS;
    const float *wide = (const float *)outer->wide + begin * outer->columns + column;
    for (int64_t i = 0; i < length; i++) {
      memcpy(low[i], outer->low + (begin + i) * outer->stride + rank, lanes * sizeof **low);
      for (int64_t c = 0; c < here && begin + ROWS + i < rows; c += 16)
        _mm_prefetch((const char *)(wide + (ROWS + i) * outer->columns + c), _MM_HINT_T0);
    }
    for (int64_t c = 0; c < here; c += TALL) {
      const float *x = wide + c;
      int64_t step = outer->columns;
      if (here - c < TALL) {
        for (int64_t i = 0; i < length; i++) memcpy(last[i], x + i * step, (here - c) * sizeof **last);
        x = last[0], step = TALL;
      }
      __m256 sums[TALL][2];
      for (int k = 0; k < TALL; k++) sums[k][0] = sums[k][1] = _mm256_setzero_ps();
      multiplied(sums, TALL, x, 1, (int)step, low[0], length);
      for (int k = 0; k < TALL; k++)
        for (int half = 0; half < 2; half++) {
          float *to = total[c + k] + 8 * half;
          _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sums[k][half]));
        }
    }
  }
  for (int64_t c = 0; c < here; c++)
    for (int64_t lane = 0; lane < lanes; lane++)
      outer->to[(column + c) * outer->column + (rank + lane) * outer->lane] = outer->scale * total[c][lane];
}

static int64_t slabs(const struct outer *outer) { return (outer->columns + SLAB - 1) / SLAB; }

static void slab_of(void *given, int item, int thread) {
  (void)thread;
  const struct outers *outers = given;
  const int64_t first = slabs(&outers->of[0]);
  const struct outer *outer = &outers->of[item >= first];
  const int64_t column = (item >= first ? item - first : item) * SLAB;
  for (int64_t rank = 0; rank < outer->rank; rank += WIDE) slab(outer, outers->rows, column, rank);
}

void outer_products(struct pool *pool, const struct outers *outers) {
  pool_run(pool, slab_of, (void *)outers, (int)(slabs(&outers->of[0]) + slabs(&outers->of[1])));
}
