/* Attention over keys and values of bfloat16 by tiles (AMX): for a struct model whose `cached` says so, and only where
 * wide_tiles has said yes. */
#pragma once

#include "kernels.h"

/* See attention_room and kernels.attend. */
long attention_room_16(const struct model *model);
void attend_item_16(void *context, int item, int thread);

/* `count` numbers, a multiple of 16, rounded to nearest even. */
void rounded_16(const float *from, int count, uint16_t *to);
