/* Helpers look for work without sleeping for a moment after the last, because a step is hundreds of short pieces and
 * waking a thread takes longer than most; then they sleep, so that an idle engine takes no processor time. */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "vector.h"

#define LOOKS 4000 /* looks before a helper sleeps: about a tenth of a millisecond */

struct pool {
  int threads;
  pthread_t *helpers;
  int started;
  work_fn work;
  void *context;
  int items;
  _Atomic int next;       /* the item to be taken next */
  _Atomic int busy;       /* helpers that may be taking items */
  _Atomic int open;       /* there may be items to take */
  _Atomic unsigned round; /* changes with every run */
  _Atomic int asleep;
  _Atomic int over;
  pthread_mutex_t lock;
  pthread_cond_t wake;
};

struct helper {
  struct pool *pool;
  int thread;
};

static void take(struct pool *pool, int thread) {
  int item;
  while ((item = atomic_fetch_add(&pool->next, 1)) < pool->items) pool->work(pool->context, item, thread);
}

static void sleep_until_next(struct pool *pool, unsigned seen) {
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add(&pool->asleep, 1); /* before looking again: whoever starts a run looks at it after saying so */
  while (atomic_load(&pool->round) == seen && !atomic_load(&pool->over)) pthread_cond_wait(&pool->wake, &pool->lock);
  atomic_fetch_sub(&pool->asleep, 1);
  pthread_mutex_unlock(&pool->lock);
}

static void *help(void *given) {
  struct helper *me = given;
  struct pool *pool = me->pool;
  const int thread = me->thread;
  free(me);
  unsigned seen = 0;
  while (!atomic_load(&pool->over)) {
    int looks = 0;
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == seen && looks++ < LOOKS) relax();
    if (atomic_load(&pool->round) == seen) sleep_until_next(pool, seen);
    seen = atomic_load(&pool->round);
    atomic_fetch_add(&pool->busy, 1); /* before looking at `open`: a run that saw nobody busy is closed by then */
    if (atomic_load(&pool->open)) take(pool, thread);
    atomic_fetch_sub(&pool->busy, 1);
  }
  return NULL;
}

struct pool *pool_new(int threads) {
  struct pool *pool = calloc(1, sizeof *pool);
  if (!pool) return NULL;
  pool->threads = threads < 1 ? 1 : threads;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pool->helpers = calloc(pool->threads, sizeof *pool->helpers);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
  while (pool->helpers && pool->started < pool->threads - 1) {
    struct helper *one = malloc(sizeof *one);
    if (!one) break;
    *one = (struct helper){pool, pool->started + 1};
    if (pthread_create(&pool->helpers[pool->started], NULL, help, one)) {
      free(one);
      break;
    }
    pool->started++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!pool->helpers) {
    pool_free(pool);
    return NULL;
  }
  return pool; /* with fewer helpers than wanted the work is still done */
}

void pool_free(struct pool *pool) {
  pthread_mutex_lock(&pool->lock);
  atomic_store(&pool->over, 1);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < pool->started; i++) pthread_join(pool->helpers[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  free(pool->helpers);
  free(pool);
}

int pool_threads(const struct pool *pool) { return pool->threads; }

void pool_run(struct pool *pool, work_fn work, void *context, int items) {
  if (items <= 1 || !pool->started) {
    for (int item = 0; item < items; item++) work(context, item, 0);
    return;
  }
  pool->work = work;
  pool->context = context;
  pool->items = items;
  atomic_store(&pool->next, 0);
  atomic_store(&pool->open, 1);
  atomic_fetch_add(&pool->round, 1);
  if (atomic_load(&pool->asleep)) {
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
  }
  take(pool, 0);
  atomic_store(&pool->open, 0);
  for (int looks = 0; atomic_load(&pool->busy); looks++) {
    if (looks < LOOKS)
      relax();
    else
      yield_now(); /* a helper has an item in hand and no processor */
  }
}
