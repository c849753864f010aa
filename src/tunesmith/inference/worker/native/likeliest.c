#include "likeliest.h"

#include <math.h>

void best_begin(struct best *all, long count) {
  for (long i = 0; i < count; i++)
    for (int lane = 0; lane < PANEL; lane++) all[i].value[lane] = -INFINITY, all[i].panel[lane] = 0;
}

int32_t best_of(const struct best *row, int threads, long step) {
  float most = -INFINITY;
  int32_t found = -1;
  for (int thread = 0; thread < threads; thread++, row += step)
    for (int lane = 0; lane < PANEL; lane++) {
      const float value = row->value[lane];
      const int32_t output = (int32_t)row->panel[lane] * PANEL + lane;
      if (value > most || (value == most && output < found)) most = value, found = output;
    }
  return isfinite(most) ? found : -1;
}
