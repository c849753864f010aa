#include "compressed.h"

#include "wide.h"

#define INLINE static inline __attribute__((always_inline))
#define SOON (4 * COMPRESSED) /* bytes that are asked for before they are wanted */

struct chunks chunks_of(const struct product *it, int panel, int other) {
  const int further = panel + (panel - other == 1 || other - panel == 1 ? 2 : 1), last = panels_of(it);
  const uint8_t *all = it->weight;
  const uint8_t *head = all + 64L * it->begin[panel];
  return (struct chunks){
      .at = head + head_bytes(it->inputs), .end = all + 64L * it->begin[panel + 1], .next = all + 64L * it->begin[further < last ? further : last],
      .upper = head, .exceptions = (const uint16_t *)(head + 16), .tiles = tiles_of_inputs(it->inputs),
  };
}

/* What a chunk of so many tiles ends with. */
INLINE void excepted(struct chunks *from, int tiles, char *to) {
  const int count = *from->exceptions++;
  const uint32_t *exceptions = (const uint32_t *)(from->at + COMPRESSED * tiles);
  for (int i = 0; i < count; i++) ((uint16_t *)to)[exceptions[i] >> 16] = (uint16_t)exceptions[i];
  from->at += COMPRESSED * tiles + exception_bytes(count);
  from->tiles -= tiles;
}

INLINE void narrow_tile(const uint8_t *from, __m256i upper, char *to) {
  const __m256i four = _mm256_set1_epi8(15);
  for (int n = 0; n < 8; n++, from += n % 2 ? 32 : COMPRESSED / 4 - 32, to += n % 2 ? 32 : BYTES / 4 - 32) {
    const __m256i codes = _mm256_load_si256((const __m256i *)(from + 128));
    for (int half = 0; half < 2; half++) {
      const __m256i low = _mm256_load_si256((const __m256i *)(from + 64 * half));
      const __m256i code = _mm256_and_si256(half ? _mm256_srli_epi16(codes, 4) : codes, four);
      const __m256i high = _mm256_shuffle_epi8(upper, code);
      _mm256_store_si256((__m256i *)(to + 128 * half), _mm256_unpacklo_epi8(low, high));
      _mm256_store_si256((__m256i *)(to + 128 * half + 64), _mm256_unpackhi_epi8(low, high));
    }
  }
}

void uncompressed(struct chunks *from, int tiles, char *to) {
  const __m256i upper = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)from->upper));
  for (; tiles > 0; tiles -= CHUNK, to += CHUNK * BYTES) {
    const int some = tiles < CHUNK ? tiles : CHUNK;
    for (int k = 0; k < some; k++) narrow_tile(from->at + COMPRESSED * k, upper, to + BYTES * k);
    excepted(from, some, to);
  }
}

#if HAVE_WIDE
WIDE_BEGIN

INLINE void tile(const uint8_t *from, __m512i upper, char *to) {
  const __m512i four = _mm512_set1_epi8(15);
  for (int part = 0; part < 4; part++, from += COMPRESSED / 4, to += BYTES / 4) {
    const __m512i codes = _mm512_load_si512(from + 128);
    for (int half = 0; half < 2; half++) {
      const __m512i low = _mm512_load_si512(from + 64 * half);
      const __m512i code = _mm512_and_si512(half ? _mm512_srli_epi16(codes, 4) : codes, four);
      const __m512i high = _mm512_shuffle_epi8(upper, code);
      _mm512_store_si512(to + 128 * half, _mm512_unpacklo_epi8(low, high));
      _mm512_store_si512(to + 128 * half + 64, _mm512_unpackhi_epi8(low, high));
    }
  }
}

INLINE __m512i upper_of(const struct chunks *from) {
  return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)from->upper));
}

void wide_uncompressed(struct chunks *from, int tiles, char *to) {
  const __m512i upper = upper_of(from);
  for (; tiles > 0; tiles -= CHUNK, to += CHUNK * BYTES) {
    const int some = tiles < CHUNK ? tiles : CHUNK;
    for (int k = 0; k < some; k++) tile(from->at + COMPRESSED * k, upper, to + BYTES * k);
    excepted(from, some, to);
  }
}

INLINE void ahead(const struct chunks *from, int k) {
  const uint8_t *soon = read_later(from, COMPRESSED * k + SOON);
  for (int line = 0; line < COMPRESSED; line += 64) _mm_prefetch((const char *)soon + line, _MM_HINT_T0);
}

/* While a chunk is multiplied, the next one is made ready. */
INLINE void sums_of(const struct product *it, int first, int second, const struct tiled *in, float *sums, float *more,
                    int two) {
  _Alignas(64) char ready[2][2][CHUNK * BYTES];
  struct chunks v = chunks_of(it, first, second), w = chunks_of(it, second, first);
  const __m512i upper_v = upper_of(&v), upper_w = upper_of(&w);
  const long step = 64L * in->height, below = (long)PANEL * in->height;
  const char *a = in->x, *b = a + step * v.tiles;
  _tile_zero(0);
  _tile_zero(1);
  if (two) _tile_zero(2);
  if (two) _tile_zero(3);
  int count = v.tiles < CHUNK ? v.tiles : CHUNK;
  wide_uncompressed(&v, count, ready[0][0]);
  wide_uncompressed(&w, count, ready[0][1]);
  for (int slot = 0; count; slot = !slot) {
    const int next = v.tiles < CHUNK ? v.tiles : CHUNK;
    for (int k = 0; k < count; k++, a += step, b += step) {
      if (k < next) {
        ahead(&v, k);
        tile(v.at + COMPRESSED * k, upper_v, ready[!slot][0] + BYTES * k);
        ahead(&w, k);
        tile(w.at + COMPRESSED * k, upper_w, ready[!slot][1] + BYTES * k);
      }
      __asm__ volatile("" : : : "memory"); /* tiles are loaded behind the compiler's back */
      _tile_loadd(4, a, 64);
      _tile_loadd(6, ready[slot][0] + BYTES * k, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, ready[slot][1] + BYTES * k, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (!two) continue;
      _tile_loadd(5, b, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    if (next) excepted(&v, next, ready[!slot][0]);
    if (next) excepted(&w, next, ready[!slot][1]);
    count = next;
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, more, 64);
  if (two) _tile_stored(2, sums + below, 64);
  if (two) _tile_stored(3, more + below, 64);
}

void compressed_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums,
                     float *more) {
  if (in->tiles > 1)
    sums_of(it, first, second, in, sums, more, 1);
  else
    sums_of(it, first, second, in, sums, more, 0);
}

WIDE_END
#else /* never called: there are no products of this kind */
void wide_uncompressed(struct chunks *from, int tiles, char *to) { (void)from, (void)tiles, (void)to; }
void compressed_sums(const struct product *it, int first, int second, const struct tiled *in, float *sums,
                     float *more) {
  (void)it, (void)first, (void)second, (void)in, (void)sums, (void)more;
}
#endif
