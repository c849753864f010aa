/* The numerators of a softmax, and their sums, block after block of its columns (as arXiv:1805.02867 does). */
#pragma once

#include <math.h>
#include <stdint.h>

struct pool;

#define SOFTMAX_STRIDE 1024 /* numbers summed in float32; their sums in float64, or a vocabulary would cost digits */

/* x (rows, width), float32: a block of columns. Of a row it becomes e^(x - most), most the largest of this block and
 * those before it.
 *
 * shares (rows, width), bfloat16: takes the exponentials in x's place in what ends in _16; NULL where none are wanted.
 * most, total (rows): kept from block to block, -inf and 0 in the beginning. total is of the exponentials as they are
 * before they are rounded.
 * factor (rows): what is to be multiplied by it was made by e to a smaller `most`.
 * labels (rows): columns, `first` the first of this block's; the x of a label that is in it is copied to chosen (rows).
 */
struct softmax {
  float *x;
  uint16_t *shares;
  float *most, *total, *factor, *chosen;
  const int64_t *labels;
  int64_t rows, width, first;
};

/* What is subtracted from a row of which `largest` is in the block; 0 where all so far are -inf. */
static inline float softmax_begin(const struct softmax *p, int64_t row, float largest) {
  const float most = largest > p->most[row] ? largest : p->most[row];
  const float less = most == -INFINITY ? 0.0f : most;
  const int64_t label = p->labels[row] - p->first;
  if (label >= 0 && label < p->width) p->chosen[row] = p->x[row * p->width + label];
  p->factor[row] = expf(p->most[row] - less);
  p->most[row] = most;
  return less;
}

static inline void softmax_end(const struct softmax *p, int64_t row, double total) {
  p->total[row] = (float)((double)p->total[row] * p->factor[row] + total);
}

void softmax_parts(struct pool *pool, struct softmax *softmax);
void softmax_parts_16(struct pool *pool, struct softmax *softmax);
