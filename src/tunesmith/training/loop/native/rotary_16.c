#include "rotary.h"

#include "pool.h"
#include "vector_16.h"

#if HAVE_WIDE
WIDE_BEGIN

/* One token's heads: angles are read once for all of them. */
static void turned(const struct rotary *p, int64_t token) {
  const int64_t half = p->dim / 2;
  const bf16 *x = (const bf16 *)p->x + token * p->token;
  const bf16 *cos = (const bf16 *)p->cos + token * p->dim, *sin = (const bf16 *)p->sin + token * p->dim;
  bf16 *y = (bf16 *)p->y + token * p->heads * p->dim;
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t i = 0; i < half; i += 16) {
    const __mmask16 some = first_of(half - i);
    const __m512 cos_a = load_some(cos + i, some), cos_b = load_some(cos + half + i, some);
    const __m512 sin_a = load_some(sin + i, some), sin_b = load_some(sin + half + i, some);
    const __m512 less = _mm512_sub_ps(zero, sin_a);
    const __m512 of_b = p->back ? sin_b : less, of_a = p->back ? less : sin_b;
    for (int64_t head = 0; head < p->heads; head++) {
      const __m512 a = load_some(x + head * p->head + i, some), b = load_some(x + head * p->head + half + i, some);
      bf16 *to = y + head * p->dim + i;
      store_some(to, some, _mm512_fmadd_ps(b, of_b, _mm512_mul_ps(a, cos_a)));
      store_some(to + half, some, _mm512_fmadd_ps(a, of_a, _mm512_mul_ps(b, cos_b)));
    }
  }
}

static void part(void *given, int item, int thread) {
  (void)thread;
  const struct rotary *p = given;
  const int64_t first = (int64_t)item * ROTARY_SPAN;
  for (int64_t token = first; token < first + ROTARY_SPAN && token < p->tokens; token++) turned(p, token);
}

void rotary_16(struct pool *pool, struct rotary *rotary) {
  pool_run(pool, part, rotary, (int)((rotary->tokens + ROTARY_SPAN - 1) / ROTARY_SPAN));
}

WIDE_END
#endif
