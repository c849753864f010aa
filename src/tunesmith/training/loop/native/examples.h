/* Examples that lie one after the other, cut into blocks and tasks by their own length alone. */
#pragma once

#include "attention.h"

struct example {
  int64_t begin, length;
  int64_t place;  /* of its first row among the packed rows of all */
  int64_t padded; /* rows to whole panels or tiles */
  int64_t task;   /* its first */
};

struct block {
  int64_t example, first; /* query */
};

struct task {
  int64_t example, head, heads;
  int64_t place; /* rows of the tasks before */
};

/* Blocks of `queries`, examples packed in multiples of `unit` rows. Gradients are made by tasks of all query heads that
 * share keys; with fewer than `few` such groups, those of an example of more than `together` tokens are made a query
 * head at a time, then summed. */
struct sizes {
  int64_t queries, unit, together, few;
};

struct parts {
  struct example *examples;
  struct block *blocks;
  struct task *tasks;
  int64_t rows, count, task_count;
  char *rest; /* of the room, on a line of the cache */
};

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t upwards(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* The first key that a query sees. */
static inline int64_t lowest(int64_t query, int64_t window) { return window ? largest(0, query - window + 1) : 0; }

static inline int64_t most_blocks(const struct attention *a, struct sizes sizes) {
  return a->tokens / sizes.queries + a->examples;
}

static inline int64_t most_rows(const struct attention *a, struct sizes sizes) {
  return a->tokens + a->examples * sizes.unit;
}

/* How many query heads a task of an example has. */
static inline int64_t heads_of(const struct attention *a, struct sizes sizes, int64_t length) {
  return length > sizes.together && a->kv_heads < sizes.few ? 1 : a->heads / a->kv_heads;
}

static inline int64_t rows_of_tasks(const struct attention *a, struct sizes sizes) {
  int64_t rows = 0;
  for (int64_t i = 0; i < a->examples; i++)
    rows += upwards(a->lengths[i], sizes.unit) * (a->heads / heads_of(a, sizes, a->lengths[i]));
  return rows;
}

/* Bytes of the tables in front of `rest`, wherever the room begins. */
static inline int64_t tables_room(const struct attention *a, struct sizes sizes) {
  return a->examples * (int64_t)sizeof(struct example) + most_blocks(a, sizes) * (int64_t)sizeof(struct block) +
         a->examples * a->heads * (int64_t)sizeof(struct task) + 64;
}

static inline struct parts parts_of(const struct attention *a, struct sizes sizes) {
  struct parts parts = {.examples = a->room};
  int64_t place = 0;
  parts.blocks = (struct block *)(parts.examples + a->examples);
  parts.tasks = (struct task *)(parts.blocks + most_blocks(a, sizes));
  parts.rest = (char *)upwards((int64_t)(parts.tasks + a->examples * a->heads), 64);
  for (int64_t i = 0, begin = 0; i < a->examples; i++) {
    const int64_t length = a->lengths[i], padded = upwards(length, sizes.unit);
    const int64_t heads = heads_of(a, sizes, length);
    parts.examples[i] = (struct example){begin, length, parts.rows, padded, parts.task_count};
    begin += length;
    parts.rows += padded;
    for (int64_t first = 0; first < length; first += sizes.queries)
      parts.blocks[parts.count++] = (struct block){i, first};
    for (int64_t head = 0; head < a->heads; head += heads, place += padded)
      parts.tasks[parts.task_count++] = (struct task){i, head, heads, place};
  }
  return parts;
}
