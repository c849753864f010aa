#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#include "compressed.h"
#include "rounding.h"

#define MANY (1 << 15) /* numbers from which on norms and rotations are shared out: the threads have to meet again */
#define GROUP 16 /* tokens whose inputs an adapter is given at once */
#define FORESEEN 8 /* adapters that are asked for before they are wanted */
#define LONG (1 << 14) /* inputs from which on it is shared out to write them in fewer bits */
struct engine {
  struct pool *pool;
  char *memory;
  long size;
};

struct engine *engine_new(int threads) {
  struct engine *engine = calloc(1, sizeof *engine);
  if (engine && !(engine->pool = pool_new(threads))) {
    free(engine);
    return NULL;
  }
  return engine;
}

void engine_free(struct engine *engine) {
  pool_free(engine->pool);
  free(engine->memory);
  free(engine);
}

static char *room_of(struct engine *engine, long size) {
  if (size <= engine->size) return engine->memory;
  free(engine->memory);
  engine->size = 0;
  engine->memory = aligned_alloc(64, (size + 63) / 64 * 64);
  if (engine->memory) engine->size = size;
  return engine->memory;
}

/* What one product of a step is given, and where its results go. */
struct job {
  const struct kernels *kernels;
  const struct product *product;
  const float *x;
  float *y; /* or NULL, where the likeliest outputs are all that is wanted */
  struct best *best; /* (threads, `most`) of each row, or NULL */
  int most, rows, span; /* span: panels an item */
  int first; /* of the rows among those of the segments */
  int added; /* the results are added to what is there */
  int gate; /* panels [0, gate) are gates of [gate, 2 gate): their products are the results */
  int activation;
  const struct segment *segments;
  int count, site, ranks; /* site: layer * SITES + site */
  float *low; /* (rows, ranks), what the adapters make of x */
  char *room; /* `each` bytes a thread */
  long each;
  char *shared; /* inputs_room */
  struct narrow narrow; /* x, where the weights are INT8 */
  struct tiled tiled; /* x, where they are multiplied by tiles */
};

static long product_room(int rows) {
  return (long)sizeof(float) * (2 * tiled_height(rows) * PANEL + BLOCK * PANEL) + 64;
}

static long inputs_room(const struct product *it, int rows) {
  return by_tiles(it->kind) ? tiled_room(it, tiled_rows(it, rows)) : narrow_room(it, rows);
}

/* scale, bias and adapters of one panel's sums (rows, 16) */
static void finished(const struct job *j, int panel, float *sums) {
  const struct product *p = j->product;
  const int at = panel * PANEL, some = p->outputs - at < PANEL ? p->outputs - at : PANEL;
  const float *scale = p->scale ? p->scale + at : NULL, *bias = p->bias ? p->bias + at : NULL;
  if (scale || bias) j->kernels->scaled(sums, j->rows, some, scale, bias);
  for (int i = 0; i < j->count; i++) {
    const struct segment *segment = &j->segments[i];
    const struct worn *worn = segment->worn[j->site];
    const int begin = segment->begin > j->first ? segment->begin - j->first : 0;
    const int end = segment->end - j->first < j->rows ? segment->end - j->first : j->rows;
    const float *low = j->low + (long)(j->first + begin) * j->ranks;
    if (worn && begin < end)
      j->kernels->adapter_sums(worn, low, j->ranks, end - begin, at, sums + begin * PANEL);
  }
}

/* What `finished` will read of the adapters comes from memory while the panel is multiplied. */
static void foreseen(const struct job *j, int panel) {
  for (int i = 0; i < j->count && i < FORESEEN; i++) {
    const struct worn *worn = j->segments[i].worn[j->site];
    if (worn) adapter_foreseen(worn, panel * PANEL);
  }
}

static void sums_of(const struct job *j, int panel, float *sums, float *block) {
  if (j->product->kind == INT8)
    narrow_sums(j->product, panel, &j->narrow, sums);
  else
    panel_sums(j->product, panel, j->x, j->product->inputs, j->rows, sums, block);
}

static void sums_of_two(const struct job *j, int first, int second, float *sums, float *more, float *block) {
  if (by_tiles(j->product->kind)) {
    const int width = j->gate ? j->gate * PANEL : j->product->outputs;
    tiled_sums(j->product, first, second, &j->tiled, sums, more, j->y ? j->y + first * PANEL : NULL, width);
  } else if (j->product->kind != INT8 && j->rows <= PAIRED) {
    panel_sums_of_two(j->product, first, second, j->x, j->rows, sums, more);
  } else {
    sums_of(j, first, sums, block);
    sums_of(j, second, more, block);
  }
}

static void one_item(void *context, int item, int thread) {
  const struct job *j = context;
  const struct product *p = j->product;
  float *block = (float *)(j->room + j->each * thread);
  float *sums = block + BLOCK * PANEL, *more = sums + tiled_height(j->rows) * PANEL;
  struct best *best = j->best ? j->best + (long)thread * j->most + j->first : NULL;
  const int tiles = by_tiles(p->kind);
  const int all = j->gate ? j->gate : panels_of(p);
  const int end = (item + 1) * j->span < all ? (item + 1) * j->span : all;
  if (tiles) tiles_begin(&j->tiled);
  for (int panel = item * j->span; panel < end; panel++) {
    const int at = panel * PANEL;
    foreseen(j, panel);
    if (j->gate) {
      foreseen(j, panel + j->gate);
      sums_of_two(j, panel, panel + j->gate, sums, more, block);
      finished(j, panel, sums);
      finished(j, panel + j->gate, more);
      j->kernels->gated(j->activation, sums, more, j->rows, j->y + at, (long)j->gate * PANEL);
      continue;
    }
    const int pair = (tiles || j->rows <= PAIRED) && panel + 1 < end;
    if (pair || tiles) {
      if (pair) foreseen(j, panel + 1);
      sums_of_two(j, panel, panel + pair, sums, more, block);
    } else {
      sums_of(j, panel, sums, block);
    }
    for (int n = 0; n <= pair; n++) {
      const int from = at + n * PANEL, some = p->outputs - from < PANEL ? p->outputs - from : PANEL;
      float *found = n ? more : sums;
      finished(j, panel + n, found);
      if (j->y) j->kernels->written(found, j->rows, some, j->added, j->y + from, p->outputs);
      if (best) j->kernels->likeliest(found, j->rows, some, panel + n, best);
    }
    panel += pair;
  }
  if (tiles) tiles_end();
}

static void input_row(void *context, int row, int thread) {
  const struct job *j = context;
  (void)thread;
  const float *x = j->x + (long)row * j->product->inputs;
  if (by_tiles(j->product->kind))
    tiled_row(j->product, x, row, &j->tiled);
  else
    narrow_row(j->product, x, row, &j->narrow);
}

static void some_rows(struct pool *pool, struct job *j) {
  const int tiles = by_tiles(j->product->kind), kind = j->product->kind;
  if (tiles) j->tiled = tiled_in(j->product, j->rows, j->shared);
  if (kind == INT8) j->narrow = narrow_in(j->product, j->rows, j->shared);
  if (tiles || kind == INT8) {
    const int together = (long)j->rows * j->product->inputs < LONG;
    for (int row = 0; together && row < j->rows; row++) input_row(j, row, 0);
    if (!together) pool_run(pool, input_row, j, j->rows);
  }
  const int panels = j->gate ? j->gate : panels_of(j->product);
  j->span = panels / (pool_threads(pool) * 12);
  j->span = j->span < 1 ? 1 : j->span > 8 ? 8 : j->span;
  if ((tiles || j->rows <= PAIRED) && !j->gate && j->span % 2) j->span++; /* panels go in pairs */
  pool_run(pool, one_item, j, (panels + j->span - 1) / j->span);
}

static void multiply(struct pool *pool, struct job *j) {
  const int outputs = j->gate ? j->gate * PANEL : j->product->outputs;
  const int most = by_tiles(j->product->kind) ? tiled_rows(j->product, j->rows) : j->rows;
  for (int first = 0; first < j->rows; first += most) {
    struct job some = *j;
    some.first = first, some.rows = j->rows - first < most ? j->rows - first : most;
    some.x = j->x + (long)first * j->product->inputs, some.y = j->y ? j->y + (long)first * outputs : NULL;
    some_rows(pool, &some);
  }
}

int engine_product(struct engine *engine, const struct product *product, const float *x, int rows, float *y) {
  const long each = (product_room(rows) + 63) / 64 * 64;
  char *room = room_of(engine, each * pool_threads(engine->pool) + inputs_room(product, rows));
  if (!room) return -1;
  struct job job = {.kernels = kernels(), .product = product, .x = x, .y = y, .rows = rows, .room = room, .each = each};
  job.shared = room + each * pool_threads(engine->pool);
  multiply(engine->pool, &job);
  return 0;
}

void engine_pack(struct engine *engine, int kind, const void *from, int outputs, int inputs, void *to) {
  pack_panels(engine->pool, kind, from, outputs, inputs, to);
}

int engine_compress(struct engine *engine, int kind, const void *from, int outputs, int inputs, uint8_t *upper,
                    uint32_t *begin, uint8_t *to) {
  if (to) return compress_panels(engine->pool, kind, from, outputs, inputs, upper, begin, to);
  return measure_panels(engine->pool, kind, from, outputs, inputs, upper, begin);
}

void engine_round(struct engine *engine, int kind, const void *from, int outputs, int inputs, int8_t *to, float *scale) {
  round_outputs(engine->pool, kind, from, outputs, inputs, to, scale);
}

/* Everything below is one forward. */

struct forward {
  const struct kernels *kernels;
  const struct model *m;
  const struct step *s;
  struct pool *pool;
  float *x, *normed, *qkv, *seen, *inner, *y, *low;
  struct best *best; /* (threads, kept) */
  char *room, *shared;
  long each;
  int tokens, ranks, layer;
  const float *in, *weight;
  float *out;
};

static void norm_token(void *context, int token, int thread) {
  const struct forward *f = context;
  (void)thread;
  const long at = (long)token * f->m->width;
  f->kernels->norm(f->in + at, f->weight, f->m->eps, f->m->width, f->out + at);
}

static void shared_out(struct forward *f, work_fn token, int numbers) {
  if ((long)f->tokens * numbers >= MANY) {
    pool_run(f->pool, token, f, f->tokens);
    return;
  }
  for (int item = 0; item < f->tokens; item++) token(f, item, 0);
}

static void norm(struct forward *f, const float *in, const float *weight, float *out) {
  f->in = in, f->weight = weight, f->out = out;
  shared_out(f, norm_token, f->m->width);
}

static void begin_token(void *context, int token, int thread) {
  const struct forward *f = context;
  (void)thread;
  embedded(&f->m->embedding, f->s->token[token], f->x + (long)token * f->m->width);
}

/* normed queries and keys, and their rotary embedding (arXiv:2104.09864) */
static void rotate_token(void *context, int token, int thread) {
  const struct forward *f = context;
  (void)thread;
  const struct model *m = f->m;
  const struct layer *layer = &m->layers[f->layer];
  const int width = m->head_width, rotated = f->s->rotated[layer->rotary], heads = m->heads + m->kv_heads;
  const long at = (long)f->s->turn[token] * rotated;
  float *const head = f->qkv + (long)token * (heads + m->kv_heads) * width;
  for (int h = 0; h < heads; h++) {
    const float *weight = h < m->heads ? layer->q_norm : layer->k_norm;
    if (weight) f->kernels->norm(head + (long)h * width, weight, m->eps, width, head + (long)h * width);
  }
  f->kernels->rotate(head, heads, width, f->s->cos[layer->rotary] + at, f->s->sin[layer->rotary] + at, rotated);
}

/* what the adapters make of some tokens' inputs */
static void low_tokens(void *context, int item, int thread) {
  const struct job *j = context;
  (void)thread;
  const int from = item * GROUP, to = from + GROUP, inputs = j->product->inputs;
  for (int i = 0; i < j->count; i++) {
    const struct segment *segment = &j->segments[i];
    const struct worn *worn = segment->worn[j->site];
    const int begin = segment->begin > from ? segment->begin : from, end = segment->end < to ? segment->end : to;
    if (worn && begin < end)
      j->kernels->adapter_low(worn, j->x + (long)begin * inputs, inputs, end - begin,
                              j->low + (long)begin * j->ranks, j->ranks);
  }
}

static void product(struct forward *f, enum site site, const float *x, float *y, int added) {
  const struct model *m = f->m;
  struct job job = {
      .kernels = f->kernels, .product = &m->layers[f->layer].products[site], .x = x, .y = y, .rows = f->tokens,
      .added = added, .activation = m->activation, .segments = f->s->segment, .count = f->s->segments,
      .ranks = f->ranks, .site = f->layer * SITES + site, .low = f->low, .room = f->room, .each = f->each,
      .shared = f->shared,
  };
  if (site == GATE_UP) job.gate = m->inner / PANEL;
  if (job.count) pool_run(f->pool, low_tokens, &job, (job.rows + GROUP - 1) / GROUP);
  multiply(f->pool, &job);
}

/* x += y, or its norm */
static void added_to(struct forward *f, enum site site, const float *in, const float *weight) {
  float *x = f->x;
  if (!weight) {
    product(f, site, in, x, 1);
    return;
  }
  product(f, site, in, f->y, 0);
  norm(f, f->y, weight, f->y);
  for (long i = 0; i < (long)f->tokens * f->m->width; i++) x[i] += f->y[i];
}

/* Nobody looks at the other tokens from here on. */
static void only_kept(struct forward *f) {
  const struct step *s = f->s;
  const long width = f->m->width, seen = (long)f->m->heads * f->m->head_width;
  for (int i = 0; i < s->kept; i++) {
    memmove(f->x + i * width, f->x + s->keep[i] * width, sizeof(float) * width);
    memmove(f->seen + i * seen, f->seen + s->keep[i] * seen, sizeof(float) * seen);
  }
  for (int i = 0; i < s->segments; i++) {
    struct segment *segment = &s->segment[i];
    int begin = 0, end = 0;
    for (int k = 0; k < s->kept; k++) begin += s->keep[k] < segment->begin, end += s->keep[k] < segment->end;
    segment->begin = begin, segment->end = end;
  }
  f->tokens = s->kept;
}

static long most_inputs(const struct model *m, int rows) {
  long most = inputs_room(&m->head, rows);
  for (int i = 0; i < m->count * SITES; i++) {
    const long room = inputs_room(&m->layers[i / SITES].products[i % SITES], rows);
    most = room > most ? room : most;
  }
  return most;
}

/* logits, and which of them is the likeliest */
static void head(struct forward *f) {
  const struct step *s = f->s;
  const int threads = pool_threads(f->pool);
  struct job job = {
      .kernels = f->kernels, .product = &f->m->head, .x = f->normed, .y = s->logits, .rows = f->tokens, .room = f->room,
      .each = f->each, .shared = f->shared, .best = f->best, .most = f->tokens,
  };
  norm(f, f->x, f->m->norm, f->normed);
  best_begin(f->best, (long)threads * f->tokens);
  multiply(f->pool, &job);
  for (int row = 0; row < f->tokens; row++) s->likeliest[row] = best_of(f->best + row, threads, f->tokens);
}

static float *part_of(char **memory, long numbers) {
  float *part = (float *)*memory;
  *memory += (numbers * (long)sizeof(float) + 63) / 64 * 64;
  return part;
}

int engine_step(struct engine *engine, const struct model *m, const struct step *s) {
  const long tokens = s->tokens, seen = (long)m->heads * m->head_width, qkv = seen + 2L * m->kv_heads * m->head_width;
  struct forward f = {.m = m, .s = s, .pool = engine->pool, .tokens = s->tokens, .ranks = adapter_ranks(m, s)};
  f.kernels = kernels();
  f.each = product_room(s->tokens) > attention_room(m) ? product_room(s->tokens) : attention_room(m);
  f.each = (f.each + 63) / 64 * 64;
  if (!embedding_has(&m->embedding, s->token, s->tokens)) return -2;
  const long best = (long)pool_threads(engine->pool) * s->kept * 2 * PANEL;
  const long numbers = tokens * (3 * m->width + qkv + seen + m->inner + f.ranks) + best;
  const long shared = (most_inputs(m, s->tokens) + 63) / 64 * 64, each = f.each * pool_threads(engine->pool);
  char *memory = room_of(engine, numbers * (long)sizeof(float) + 8 * 64 + shared + each);
  if (!memory) return -1;
  f.x = part_of(&memory, tokens * m->width);
  f.normed = part_of(&memory, tokens * m->width);
  f.y = part_of(&memory, tokens * m->width);
  f.qkv = part_of(&memory, tokens * qkv);
  f.seen = part_of(&memory, tokens * seen);
  f.inner = part_of(&memory, tokens * m->inner);
  f.low = part_of(&memory, tokens * f.ranks);
  f.best = (struct best *)part_of(&memory, best);
  f.shared = memory;
  f.room = memory + shared;
  shared_out(&f, begin_token, m->width);
  for (f.layer = 0; f.layer < m->count; f.layer++) {
    const struct layer *layer = &m->layers[f.layer];
    norm(&f, f.x, layer->before_attention, f.normed);
    product(&f, QKV, f.normed, f.qkv, 0);
    shared_out(&f, rotate_token, (m->heads + m->kv_heads) * m->head_width);
    attend(f.pool, m, f.layer, s, f.qkv, f.seen, f.room);
    if (f.layer == m->count - 1 && s->kept < s->tokens) only_kept(&f);
    if (!f.tokens) return 0; /* its keys and values are all that was wanted */
    added_to(&f, OUT, f.seen, layer->after_attention);
    norm(&f, f.x, layer->before_mlp, f.normed);
    product(&f, GATE_UP, f.normed, f.inner, 0);
    added_to(&f, DOWN, f.inner, layer->after_mlp);
  }
  head(&f);
  return 0;
}
