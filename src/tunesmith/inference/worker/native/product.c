#include "product.h"

#include <string.h>

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

struct packing {
  const char *from;
  char *to;
  int kind, outputs, inputs;
};

static void pack_one(void *context, int panel, int thread) {
  const struct packing *p = context;
  (void)thread;
  const long rows = stride_of(p->kind) * p->inputs; /* bytes of sixteen */
  const int left = p->outputs - panel * PANEL;
  char *to = p->to + panel * panel_bytes(p->kind, p->inputs);
  pack_panel(p->kind, p->from + panel * rows, left < PANEL ? left : PANEL, p->inputs, to);
}

void pack_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, void *to) {
  struct packing packing = {from, to, kind, outputs, inputs};
  pool_run(pool, pack_one, &packing, (outputs + PANEL - 1) / PANEL);
}
