/* The likeliest output of each row, found while a product's panels are written: what is not drawn at random needs none
 * of the other outputs. */
#pragma once

#include "product.h"

/* The best of those of a panel's places that one thread has come across, and the panel it lies in. Of equal ones the
 * first: a thread's panels rise. A number that is none counts as infinite. */
struct best {
  float value[PANEL];
  float panel[PANEL]; /* whole numbers */
};

/* None has been seen yet. */
void best_begin(struct best *all, long count);

/* The first of a row's largest outputs, whichever thread came across it; -1 where that is not finite, or any output is
 * not a number: what numpy's argmax and isfinite would say. `step` lies between the threads' own. */
int32_t best_of(const struct best *row, int threads, long step);
