/* One step of a decoder of the Llama family: all tokens of all rows through all layers. */
#pragma once

#include <stdint.h>

#include "embedding.h"
#include "pool.h"
#include "product.h"

enum activation { SILU, GELU };

/* What an adapter adds to outputs [begin, end) of a product: low[:, low : high] b, b (high - low, end - begin). */
struct part {
  int32_t begin, end, low, high;
  const float *b;
};

/* An adapter at one product: low = x a, a (inputs, ranks). */
struct worn {
  const float *a;
  const struct part *parts;
  int32_t ranks, count;
};

/* Ask for what adapter_sums will read. */
void adapter_foreseen(const struct worn *worn, int at);

enum site { QKV, OUT, GATE_UP, DOWN, SITES };

struct layer {
  struct product products[SITES];
  const float *before_attention, *after_attention; /* norms; NULL where there is none */
  const float *before_mlp, *after_mlp;
  const float *q_norm, *k_norm;
  float scaling;  /* of the scores */
  int32_t window; /* how many tokens are seen, its own the last of them; 0 for all */
  int32_t rotary; /* which of the step's rotations */
};

struct model {
  const struct layer *layers;
  struct embedding embedding; /* of `width` numbers */
  struct product head;
  const float *norm;
  float eps;
  int32_t count; /* of layers */
  int32_t width, heads, kv_heads, head_width, inner, activation; /* inner: what the MLP's gates are multiplied with */
  int32_t cached; /* kind of keys and values, FLOAT32 or BFLOAT16; the latter where there are tiles */
};

/* Tokens [begin, end) of the step are those of one row from position `start` on. Keys and values lie in a slot of its
 * arena: of each layer (slots, kv_heads, capacity, head_width). */
struct row {
  void *const *keys, *const *values; /* one a layer */
  int64_t slot, capacity;
  int32_t begin, end, start;
};

/* Tokens [begin, end) wear an adapter: worn[layer * SITES + site], NULL where it has nothing. */
struct segment {
  int32_t begin, end;
  const struct worn *const *worn;
};

struct step {
  int32_t tokens, rows, segments, kept;
  const int32_t *token; /* (tokens), which of the embedding's */
  const float *cos[2], *sin[2]; /* tables (.., rotated); the first half of the sines is negative */
  const int32_t *turn; /* (tokens), which row of the tables is each one's */
  int32_t rotated[2];
  const struct row *row;
  struct segment *segment; /* overwritten */
  const int32_t *keep; /* rising: the tokens whose logits are wanted */
  float *logits; /* (kept, outputs of the head); NULL where the likeliest output is all that is wanted */
  int32_t *likeliest; /* (kept): see best_of */
};

/* Of the adapters that a step wears, the most ranks one has at one product. */
int adapter_ranks(const struct model *m, const struct step *s);

/* What the library was compiled from: the SHA-256 of the sources, one after the other by name. */
const char *engine_sources(void);

/* Whether products of BFLOAT16_TILES and INT8_TILES can be computed here. */
int engine_tiles(void);

struct engine; /* a pool, and the memory of a step, which is kept for the next */

struct engine *engine_new(int threads);
void engine_free(struct engine *engine);

/* 0; -1 when there is not enough memory, -2 when a token is none of the embedding's: nothing has been written then. */
int engine_step(struct engine *engine, const struct model *model, const struct step *step);

/* y (rows, outputs) = x (rows, inputs) W^T * scale + bias; 0, or -1 when there is not enough memory. */
int engine_product(struct engine *engine, const struct product *product, const float *x, int rows, float *y);

/* Weights (outputs, inputs), row by row, as they are multiplied: all panels, one after the other. */
void engine_pack(struct engine *engine, int kind, const void *from, int outputs, int inputs, void *to);

/* The same for compressed ones: see measure_panels, and compress_panels where there is `to`. */
int engine_compress(struct engine *engine, int kind, const void *from, int outputs, int inputs, uint8_t *upper,
                    uint32_t *begin, uint8_t *to);

/* See round_outputs. */
void engine_round(struct engine *engine, int kind, const void *from, int outputs, int inputs, int8_t *to, float *scale);

/* Bytes of memory that attention needs for a thread. */
long attention_room(const struct model *model);

/* Write keys of `layer` that lie in `qkv` (tokens, heads + 2 kv_heads, head_width) with its values into the cache, and
 * attend: `seen` (tokens, heads, head_width). `room`: `threads` times attention_room. */
void attend(struct pool *pool, const struct model *model, int layer, const struct step *step, const float *qkv,
            float *seen, char *room);

/* For tests: the same of the first layer, with threads of its own; 0, or -1 when there is not enough memory. */
int engine_attention(int threads, const struct model *model, const struct step *step, const float *qkv, float *seen);
