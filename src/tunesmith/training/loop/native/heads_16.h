/* What attention in tiles of bfloat16 has in common forward and backward.
 *
 * Scores lie turned, a key a row and a query a lane, so that a query's maximum, sum and shares are made lane by lane;
 * two rows of shares side by side are then a factor of the values' product, and a row one of the gradients'.
 */
#pragma once

#include "examples.h"
#include "tiles_16.h"

#if HAVE_WIDE
WIDE_BEGIN

#define QUERIES 128       /* of a block, a multiple of PIECE */
#define PIECE 32          /* queries and keys made at once, two tiles each */
#define LOG2E 1.44269504f /* e^score is a power of two */

static const struct sizes SIZES = {QUERIES, PIECE, 256, 8};

enum plane { KEYS_LAID, KEYS_TURNED, VALUES, PLANES }; /* one a key-value head each */

struct job {
  const struct attention *a;
  struct parts parts;
  uint16_t *planes; /* (planes, kv_heads, rows, width): what is packed */
  float *sums;      /* (tasks, 2, rows, width): gradients of keys and values */
  int width;
};

static inline uint16_t *plane(const struct job *job, int kind, int64_t head, const struct example *e) {
  return job->planes + ((kind * job->a->kv_heads + head) * job->parts.rows + e->place) * job->width;
}

static inline const uint16_t *row(struct heads x, int64_t head, int64_t token) {
  return (const uint16_t *)x.at + head * x.head + token * x.token;
}

static inline uint16_t *row_to(void *x, int64_t heads, int64_t dim, int64_t head, int64_t token) {
  return (uint16_t *)x + (token * heads + head) * dim;
}

static inline struct job job_of(const struct attention *a) {
  struct job job = {.a = a, .parts = parts_of(a, SIZES), .width = (int)upwards(a->dim, PIECE)};
  job.planes = (uint16_t *)job.parts.rest;
  job.sums = (float *)(job.planes + PLANES * a->kv_heads * job.parts.rows * job.width);
  return job;
}

/* The lanes of queries [query, query + 16) that see a key. */
WIDE_INLINE __mmask16 seeing(int64_t query, int64_t key, int64_t window) {
  const int64_t from = largest(0, least(16, key - query));
  const int64_t to = window ? largest(from, least(16, key + window - query)) : 16;
  return (__mmask16)((1u << to) - (1u << from));
}

/* Whether every query of a piece sees every key of it. */
WIDE_INLINE int all_seen(int64_t query, int64_t key, int64_t window) {
  return key + PIECE - 1 <= query && (!window || query + PIECE - 1 - key < window);
}

/* The rows of a block of keys that are packed together with it. */
struct rows {
  const struct example *e;
  int64_t first, count, padded;
};

static inline struct rows rows_of_block(const struct job *job, int64_t block) {
  const struct block *b = job->parts.blocks + block;
  const struct example *e = job->parts.examples + b->example;
  const int64_t count = least(QUERIES, e->length - b->first);
  return (struct rows){e, b->first, count, upwards(count, PIECE)};
}

/* Rows of keys times those of queries, both as they are packed: (PIECE, PIECE). */
WIDE_INLINE void dots_piece(const uint16_t *rows, const uint16_t *queries, int width, float *to) {
  product4((struct strip){rows, TILE, 16 * width}, (struct strip){queries, TILE, 16 * width}, width / PIECE, 0, to,
           16 * PIECE, 16, 4 * PIECE);
}

/* One call for each kind of piece: whether all of it is seen, and whether it has more than 16 queries. */
#define OF_PIECE(query, key, window, rows, PIECE_OF) \
  if ((rows) <= 16)                                  \
    PIECE_OF(0, 1);                                  \
  else if (all_seen(query, key, window))             \
    PIECE_OF(1, 2);                                  \
  else                                               \
    PIECE_OF(0, 2)

WIDE_END
#endif
