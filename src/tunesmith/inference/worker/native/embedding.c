#include "embedding.h"

#include <string.h>

#include "compressed.h"

#define INLINE static inline __attribute__((always_inline))

INLINE float of_float32(const char *at) {
  float x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE float of_float16(const char *at) {
  uint16_t bits;
  memcpy(&bits, at, sizeof bits);
  return _cvtsh_ss(bits);
}

INLINE float of_bfloat16(const char *at) {
  uint16_t half;
  memcpy(&half, at, sizeof half);
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* One row: `together` inputs lie `apart` bytes from each other, the next ones `step` bytes further. */
#define GATHERED(NAME, OF, TOGETHER, APART, STEP)                                             \
  static void NAME(const char *at, int inputs, float scale, float *x) {                       \
    for (int k = 0; k < inputs; k++)                                                          \
      x[k] = OF(at + k / (TOGETHER) * (long)(STEP) + k % (TOGETHER) * (APART)) * scale;       \
  }

GATHERED(plain_float32, of_float32, 1, 0, 4)
GATHERED(plain_float16, of_float16, 1, 0, 2)
GATHERED(plain_bfloat16, of_bfloat16, 1, 0, 2)
/* see product.h */
GATHERED(panel_float32, of_float32, 1, 0, 4 * PANEL)
GATHERED(panel_float16, of_float16, 1, 0, 2 * PANEL)
GATHERED(panel_bfloat16, of_bfloat16, 1, 0, 2 * PANEL)
GATHERED(tiles_bfloat16, of_bfloat16, 2, 2, 4 * PANEL)

static void in_compressed(const struct product *t, int panel, int place, float scale, float *x) {
  _Alignas(64) char plain[CHUNK * BYTES];
  struct chunks from = chunks_of(t, panel, panel);
  for (int left = t->inputs; left > 0; left -= CHUNK * 32, x += CHUNK * 32) {
    const int some = left < CHUNK * 32 ? left : CHUNK * 32;
    uncompressed(&from, from.tiles < CHUNK ? from.tiles : CHUNK, plain);
    if (t->kind == TILES_COMPRESSED)
      tiles_bfloat16(plain + 4 * place, some, scale, x);
    else
      panel_bfloat16(plain + 2 * (place % 8 * 2 + place / 8), some, scale, x);
  }
}

static void in_panel(const struct embedding *it, int32_t token, float *x) {
  const struct product *t = &it->table;
  const int place = token % PANEL;
  if (t->begin) {
    in_compressed(t, token / PANEL, place, it->scale, x);
    return;
  }
  const char *panel = (const char *)t->weight + token / PANEL * panel_bytes(t->kind, t->inputs);
  if (t->kind == FLOAT32) panel_float32(panel + 4 * place, t->inputs, it->scale, x);
  if (t->kind == FLOAT16) panel_float16(panel + 2 * place, t->inputs, it->scale, x);
  if (t->kind == BFLOAT16) panel_bfloat16(panel + 2 * (place % 8 * 2 + place / 8), t->inputs, it->scale, x);
  if (t->kind == BFLOAT16_TILES) tiles_bfloat16(panel + 4 * place, t->inputs, it->scale, x);
}

static void in_row(const struct embedding *it, int32_t token, float *x) {
  const struct product *t = &it->table;
  const char *row = (const char *)t->weight + (long)token * t->inputs * (stride_of(t->kind) / PANEL);
  if (t->kind == FLOAT32) plain_float32(row, t->inputs, it->scale, x);
  if (t->kind == FLOAT16) plain_float16(row, t->inputs, it->scale, x);
  if (t->kind == BFLOAT16) plain_bfloat16(row, t->inputs, it->scale, x);
}

void embedded(const struct embedding *it, int32_t token, float *x) {
  if (it->panels)
    in_panel(it, token, x);
  else
    in_row(it, token, x);
}

int embedding_has(const struct embedding *it, const int32_t *tokens, int count) {
  for (int i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= it->table.outputs) return 0;
  return 1;
}

int engine_embedded(const struct embedding *it, const int32_t *tokens, int count, float *x) {
  if (!embedding_has(it, tokens, count)) return -2;
  for (int i = 0; i < count; i++) embedded(it, tokens[i], x + (long)i * it->table.inputs);
  return 0;
}
