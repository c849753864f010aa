/* What adapters add to products: low = x A, and a panel's sums += low B. Part of kernels_of.h. */
#pragma once

static void adapter_low(const struct worn *worn, const float *x, int inputs, int rows, float *low, long ldl) {
  const int ranks = worn->ranks;
  const long stride = ranks * (long)sizeof(float);
  for (int r = 0; r < rows; r++) memset(low + r * ldl, 0, sizeof(float) * ranks);
  for (int r = 0, columns; r < ranks; r += columns ? columns * PANEL : PANEL) {
    columns = (ranks - r) / PANEL < COLUMNS ? (ranks - r) / PANEL : COLUMNS;
    tiles(FAR_OF[columns], FAR_OF[columns], columns < 2 ? TALL : TALL_WIDE, x, inputs, (const char *)(worn->a + r),
          stride, inputs, rows, v_first(columns ? PANEL : ranks - r), low + r, ldl, NULL, NULL);
  }
}

/* y (rows, 16) += low (rows, ranks) b: b stays in registers, where there are enough; inlined with `ranks` known */
INLINE void held(int ranks, const float *low, long ldl, const float *b, long size, int rows, float *y) {
  floats w[PANEL];
#pragma GCC unroll 16
  for (int n = 0; n < ranks; n++) w[n] = v_load(b + n * size);
  for (int r = 0; r < rows; r++, low += ldl, y += PANEL) {
    floats sum = v_all(0.0f);
#pragma GCC unroll 16
    for (int n = 0; n < ranks; n++) sum = v_fma(v_all(low[n]), w[n], sum);
    v_store(y, v_add(v_load(y), sum));
  }
}

/* y (rows, 16) += low (rows, ranks) b, for the outputs from `at` on that the part has */
static void add_part(const struct part *part, const float *low, long ldl, int rows, int at, float *y) {
  const long size = part->end - part->begin;
  if (at >= part->begin && at + PANEL <= part->end) {
    const float *x = low + part->low, *b = part->b + at - part->begin;
    const int ranks = part->high - part->low;
    if (WIDE && ranks == 8)
      held(8, x, ldl, b, size, rows, y);
    else if (WIDE && ranks == 16)
      held(16, x, ldl, b, size, rows, y);
    else
      tiles(apart_f32, apart_f32, TALL, x, ldl, (const char *)b, size * (long)sizeof(float), ranks, rows, v_first(PANEL), y, PANEL,
            NULL, NULL);
    return;
  }
  for (int r = 0; r < rows; r++)
    for (int o = 0; o < PANEL; o++) {
      if (at + o < part->begin || at + o >= part->end) continue;
      float sum = 0.0f;
      const float *from = part->b + at + o - part->begin;
      for (int n = part->low; n < part->high; n++, from += size) sum = fmaf(low[r * ldl + n], *from, sum);
      y[r * PANEL + o] += sum;
    }
}

static void adapter_sums(const struct worn *worn, const float *low, long ldl, int rows, int at, float *sums) {
  for (int n = 0; n < worn->count; n++) {
    const struct part *part = &worn->parts[n];
    if (part->begin < at + PANEL && part->end > at) add_part(part, low, ldl, rows, at, sums);
  }
}
