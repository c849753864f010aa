/* Norms, rotations, gates, and what becomes of a panel's sums: part of kernels_of.h. */
#pragma once

static void scaled(float *sums, int rows, int some, const float *scale, const float *bias) {
  const lanes those = v_first(some);
  for (int n = 0; n < 2; n++) {
    const float *by = n ? bias : scale;
    if (!by) continue;
    const floats b = v_load_some(by, those);
    for (float *to = sums; to < sums + (long)rows * PANEL; to += PANEL)
      v_store(to, n ? v_add(v_load(to), b) : v_mul(v_load(to), b));
  }
}

static void written(const float *sums, int rows, int some, int added, float *y, long ldy) {
  const lanes those = v_first(some);
  for (int r = 0; r < rows; r++, sums += PANEL, y += ldy) {
    const floats v = v_load(sums);
    v_store_some(y, those, added ? v_add(v_load_some(y, those), v) : v);
  }
}

/* Hardly any number is the best so far, so most panels are looked at and nothing is written. */
static void likeliest(const float *sums, int rows, int some, int panel, struct best *to) {
  const lanes those = v_first(some);
  for (int r = 0; r < rows; r++, sums += PANEL, to++) {
    const floats v = v_load(sums);
    const lanes better = v_above(v, v_load(to->value), those);
    if (!v_any(better)) continue;
    v_store_some(to->value, better, v_min(v, v_all(INFINITY))); /* infinite where it is not a number */
    v_store_some(to->panel, better, v_all((float)panel));
  }
}

/* x / (1 + e^-a): SiLU with a = x (arXiv:1702.03118). */
INLINE floats gate_of(floats x, floats a) { return v_div(x, v_add(v_all(1.0f), v_exp(v_sub(v_all(0.0f), a)))); }

/* GELU in its tanh form (arXiv:1606.08415): 0.5 (1 + tanh u) = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
INLINE floats gelu(floats x) {
  const floats cube = v_mul(v_mul(x, x), x);
  return gate_of(x, v_mul(v_fma(cube, v_all(0.044715f), x), v_all(1.5957691216f)));
}

static void gated(int activation, const float *gate, const float *up, int rows, float *y, long ldy) {
  for (int r = 0; r < rows; r++, gate += PANEL, up += PANEL, y += ldy) {
    const floats g = v_load(gate);
    v_store(y, v_mul(activation == SILU ? gate_of(g, g) : gelu(g), v_load(up)));
  }
}

static void norm_row(const float *x, const float *weight, float eps, int width, float *y) {
  floats sum[4] = {v_all(0.0f), v_all(0.0f), v_all(0.0f), v_all(0.0f)};
  int d = 0;
  for (; d + 4 * PANEL <= width; d += 4 * PANEL)
    for (int i = 0; i < 4; i++) sum[i] = v_fma(v_load(x + d + i * PANEL), v_load(x + d + i * PANEL), sum[i]);
  for (; d < width; d += PANEL) {
    const floats v = v_load_some(x + d, v_first(width - d < PANEL ? width - d : PANEL));
    sum[0] = v_fma(v, v, sum[0]);
  }
  const float squares = v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
  const floats by = v_all(1.0f / sqrtf(squares / (float)width + eps));
  for (d = 0; d < width; d += PANEL) {
    const lanes those = v_first(width - d < PANEL ? width - d : PANEL);
    v_store_some(y + d, those, v_mul(v_mul(v_load_some(x + d, those), by), v_load_some(weight + d, those)));
  }
}

static void rotate(float *heads, int count, int width, const float *cos, const float *sin, int rotated) {
  const int half = rotated / 2;
  for (float *head = heads; head < heads + (long)count * width; head += width)
    for (int d = 0; d < half; d += PANEL) {
      const lanes those = v_first(half - d < PANEL ? half - d : PANEL);
      float *first = head + d, *second = first + half;
      const floats a = v_load_some(first, those), b = v_load_some(second, those);
      v_store_some(first, those,
                   v_fma(a, v_load_some(cos + d, those), v_mul(b, v_load_some(sin + d, those))));
      v_store_some(second, those,
                   v_fma(b, v_load_some(cos + half + d, those), v_mul(a, v_load_some(sin + half + d, those))));
    }
}
