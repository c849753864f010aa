/* What is compiled twice, for AVX2 (avx2.c) and for AVX-512 (avx512.c), from the same lines: lanes.h. */
#pragma once

#include "likeliest.h"
#include "step.h"

/* What attention is given: items are some tokens of a row, of all query heads of a key-value head or a part of them. */
struct attention {
  const struct model *model;
  const struct step *step;
  const float *qkv;
  float *seen;
  char *room;
  long each;
  int layer, split; /* the query heads of a key-value head are so many items */
};

#define SPAN 64    /* positions at once */
#define QUERIES 64 /* queries at once: those of some tokens, of all heads that share a key-value head */

static inline int group_of(const struct model *m) { return m->heads / m->kv_heads; }

/* tokens of a row that are one item */
static inline int together(const struct model *m, int split) {
  const int heads = group_of(m) / split;
  return heads >= QUERIES ? 1 : QUERIES / heads;
}

static inline int queries_at_most(const struct model *m) { return group_of(m) > QUERIES ? group_of(m) : QUERIES; }

/* One item: `group` query heads from `head` on of the step's tokens from `first` on, token by token. They see positions
 * [begin, stop) of the row or some of them; the first token is at `here`, and the key-value head's numbers begin at
 * `slot`. */
struct share {
  const struct row *row;
  int first, head, group, queries, here, begin, stop;
  long slot;
};

struct share share_of(const struct attention *w, int item);

struct kernels {
  /* see product.h */
  void (*panel_sums)(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums,
                     float *block);
  void (*panel_sums_of_two)(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                            float *more);

  /* low (rows, ranks) = x (rows, inputs) a, each sum over the inputs in their order. */
  void (*adapter_low)(const struct worn *worn, const float *x, int inputs, int rows, float *low, long ldl);

  /* Add low b to the sums (rows, 16) of outputs [at, at + PANEL). */
  void (*adapter_sums)(const struct worn *worn, const float *low, long ldl, int rows, int at, float *sums);

  work_fn attend; /* an item of a struct attention */

  /* sums (rows, 16) = sums scale + bias, either NULL; of the first `some` outputs */
  void (*scaled)(float *sums, int rows, int some, const float *scale, const float *bias);

  /* y (rows, ldy) = the first `some` of sums (rows, 16), or y + them */
  void (*written)(const float *sums, int rows, int some, int added, float *y, long ldy);

  /* the first `some` of sums (rows, 16), of this panel, against the best so far of each row */
  void (*likeliest)(const float *sums, int rows, int some, int panel, struct best *to);

  /* y (rows, ldy) = activation(gate) up, all of them (rows, 16) */
  void (*gated)(int activation, const float *gate, const float *up, int rows, float *y, long ldy);

  /* RMSNorm (arXiv:1910.07467) */
  void (*norm)(const float *x, const float *weight, float eps, int width, float *y);

  /* The rotary embedding of heads (heads, width), by the sines and cosines (rotated) of their token. */
  void (*rotate)(float *heads, int count, int width, const float *cos, const float *sin, int rotated);
};

extern const struct kernels avx2_kernels, avx512_kernels;

/* Those for this processor. */
const struct kernels *kernels(void);

/* For tests, which compare: from now on those of AVX2 (1), or what the processor has (0). */
void engine_narrow_vectors(int narrow);
