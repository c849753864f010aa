#include "kernels.h"

#include "wide.h"

#ifndef SOURCES
#define SOURCES ""
#endif

static int narrow_vectors;

const char *engine_sources(void) { return SOURCES; }

int engine_tiles(void) { return wide_tiles(); }

void engine_narrow_vectors(int narrow) { __atomic_store_n(&narrow_vectors, narrow, __ATOMIC_RELAXED); }

const struct kernels *kernels(void) {
#if HAVE_WIDE
  if (!__atomic_load_n(&narrow_vectors, __ATOMIC_RELAXED) && wide_avx512()) return &avx512_kernels;
#endif
  return &avx2_kernels;
}

void panel_sums(const struct product *it, int panel, const float *x, long ldx, int rows, float *sums, float *block) {
  kernels()->panel_sums(it, panel, x, ldx, rows, sums, block);
}

void panel_sums_of_two(const struct product *it, int first, int second, const float *x, int rows, float *sums,
                       float *more) {
  kernels()->panel_sums_of_two(it, first, second, x, rows, sums, more);
}
