/* Threads that share the work of one step. */
#pragma once

typedef void (*work_fn)(void *context, int item, int thread);

struct pool;

/* A pool of `threads` threads, the caller's among them, or fewer where the system gives no more; NULL without memory. */
struct pool *pool_new(int threads);
void pool_free(struct pool *pool);
int pool_threads(const struct pool *pool);

/* Do `items` items, each once, and return when all are done. Whoever is free takes the next, so a thread that the
 * system has given to somebody else holds nobody up but for the item it has in hand. One caller at a time. */
void pool_run(struct pool *pool, work_fn work, void *context, int items);
