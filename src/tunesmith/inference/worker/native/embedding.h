/* What the layers begin with: rows of a table of numbers, or of the weights of the output head where these are the same. */
#pragma once

#include "product.h"

struct embedding {
  struct product table; /* without a bias; of FLOAT32, FLOAT16 or BFLOAT16 where it is not in panels */
  float scale;          /* of all numbers */
  int32_t panels;       /* 0: row by row */
};

/* Whether these tokens are all in the table. */
int embedding_has(const struct embedding *it, const int32_t *tokens, int count);

/* x (inputs) of one that is. */
void embedded(const struct embedding *it, int32_t token, float *x);

/* x (count, inputs) of some tokens; 0, or -2 where one is not in the table: then nothing has been written. */
int engine_embedded(const struct embedding *it, const int32_t *tokens, int count, float *x);
