#include "step.h"

#define RANKS 32 /* of a part that are asked for before they are wanted */

void adapter_foreseen(const struct worn *worn, int at) {
  for (int n = 0; n < worn->count; n++) {
    const struct part *part = &worn->parts[n];
    if (part->begin > at || part->end <= at) continue;
    const float *from = part->b + at - part->begin;
    for (int r = part->low; r < part->high && r < part->low + RANKS; r++, from += part->end - part->begin)
      _mm_prefetch(from, _MM_HINT_T0);
  }
}

int adapter_ranks(const struct model *m, const struct step *s) {
  int most = 0;
  for (int i = 0; i < s->segments; i++)
    for (int site = 0; site < m->count * SITES; site++) {
      const struct worn *worn = s->segment[i].worn[site];
      if (worn && worn->ranks > most) most = worn->ranks;
    }
  return most;
}
