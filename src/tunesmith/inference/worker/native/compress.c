#include <stdlib.h>
#include <string.h>

#include "compressed.h"

#define INLINE static inline __attribute__((always_inline))
#define PLACES (BYTES / 2)
#define FOUND 16

/* What of a panel's weights is written in four bits: those of the sixteen upper bytes that have the same upper half are
 * looked up at once, by their lower half. */
struct codes {
  uint8_t half[16], of[16][16]; /* of: the code and FOUND, or 0 */
  int halves;
};

struct compressing {
  const char *from;
  uint8_t *to, *upper; /* upper: sixteen bytes a panel */
  uint32_t *begin;
  char *room; /* `each` bytes a thread: a panel's tiles */
  long each;
  int plain, outputs, inputs; /* plain: the kind that it is uncompressed */
};

static const uint16_t *tiles_of_panel(const struct compressing *c, int panel, int thread) {
  char *tiles = c->room + c->each * thread;
  const int left = c->outputs - panel * PANEL;
  const long bytes = panel_bytes(c->plain, c->inputs);
  pack_panel(c->plain, c->from + 2L * PANEL * panel * c->inputs, left < PANEL ? left : PANEL, c->inputs, tiles);
  memset(tiles + bytes, 0, (long)tiles_of_inputs(c->inputs) * BYTES - bytes);
  return (const uint16_t *)tiles;
}

/* The sixteen most frequent of the weights. */
static void most_frequent(const uint16_t *weights, long count, uint8_t *upper) {
  int times[4][256] = {{0}}; /* in one they would wait for each other */
  for (long i = 0; i < count; i += 4)
    for (int n = 0; n < 4; n++) times[n][weights[i + n] >> 8]++;
  for (int byte = 0; byte < 256; byte++) times[0][byte] += times[1][byte] + times[2][byte] + times[3][byte];
  for (int code = 0; code < 16; code++) {
    int most = 0;
    for (int byte = 1; byte < 256; byte++) most = times[0][byte] > times[0][most] ? byte : most;
    upper[code] = (uint8_t)most, times[0][most] = -1;
  }
}

static struct codes codes_of(const uint8_t *upper) {
  struct codes found = {.halves = 0};
  for (int code = 0; code < 16; code++) {
    int n = 0;
    while (n < found.halves && found.half[n] != upper[code] >> 4) n++;
    if (n == found.halves) found.half[found.halves++] = upper[code] >> 4;
    found.of[n][upper[code] & 15] = (uint8_t)(FOUND | code);
  }
  return found;
}

/* The codes of sixteen weights and of sixteen others, eight of the first, eight of the others, and so on, and their lower
 * bytes. */
INLINE __m256i coded(const struct codes *codes, const uint16_t *first, const uint16_t *second, __m256i *lower) {
  const __m256i four = _mm256_set1_epi8(15), a = _mm256_loadu_si256((const __m256i *)first);
  const __m256i byte = _mm256_set1_epi16(255), b = _mm256_loadu_si256((const __m256i *)second);
  const __m256i upper = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
  const __m256i half = _mm256_and_si256(_mm256_srli_epi16(upper, 4), four), rest = _mm256_and_si256(upper, four);
  __m256i found = _mm256_setzero_si256();
  *lower = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
  for (int n = 0; n < codes->halves; n++) {
    const __m256i of = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes->of[n]));
    const __m256i same = _mm256_cmpeq_epi8(half, _mm256_set1_epi8((char)codes->half[n]));
    found = _mm256_or_si256(found, _mm256_and_si256(same, _mm256_shuffle_epi8(of, rest)));
  }
  return found;
}

static int places_of(const struct compressing *c, int chunk) {
  const int left = tiles_of_inputs(c->inputs) - chunk * CHUNK;
  return (left < CHUNK ? left : CHUNK) * PLACES;
}

/* How many of the weights are exceptions; written to `to`, unless it is NULL. */
static int exceptions_of(const struct codes *codes, const uint16_t *weights, int count, uint32_t *to) {
  int found = 0;
  for (int i = 0; i < count; i += 32) {
    __m256i lower;
    const __m256i code = coded(codes, weights + i, weights + i + 16, &lower);
    unsigned left = ~(unsigned)_mm256_movemask_epi8(_mm256_slli_epi16(code, 3)); /* FOUND is the highest bit now */
    for (; left; left &= left - 1, found++) {
      const int n = __builtin_ctz(left), place = i + n % 16 / 8 * 16 + n / 16 * 8 + n % 8;
      if (to) to[found] = (uint32_t)place << 16 | weights[place];
    }
  }
  return found;
}

/* begin[panel + 1] = the lines that the panel takes */
static void measured(void *context, int panel, int thread) {
  const struct compressing *c = context;
  const uint16_t *weights = tiles_of_panel(c, panel, thread);
  uint8_t *upper = c->upper + 16L * panel;
  most_frequent(weights, (long)tiles_of_inputs(c->inputs) * PLACES, upper);
  const struct codes codes = codes_of(upper);
  long bytes = head_bytes(c->inputs) + (long)tiles_of_inputs(c->inputs) * COMPRESSED;
  for (int chunk = 0; chunk < chunks_of_inputs(c->inputs); chunk++, weights += CHUNK * PLACES)
    bytes += exception_bytes(exceptions_of(&codes, weights, places_of(c, chunk), NULL));
  c->begin[panel + 1] = (uint32_t)(bytes / 64);
}

/* 128 weights as `tile` in compressed.c unpacks them */
static void write_128(const struct codes *codes, const uint16_t *weights, uint8_t *to) {
  const __m256i four = _mm256_set1_epi8(15);
  for (int n = 0; n < 2; n++, weights += 16, to += 32) {
    __m256i lower[2];
    const __m256i low = _mm256_and_si256(coded(codes, weights, weights + 32, lower), four);
    const __m256i high = _mm256_and_si256(coded(codes, weights + 64, weights + 96, lower + 1), four);
    _mm256_storeu_si256((__m256i *)to, lower[0]);
    _mm256_storeu_si256((__m256i *)(to + 64), lower[1]);
    _mm256_storeu_si256((__m256i *)(to + 128), _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
  }
}

static void written(void *context, int panel, int thread) {
  const struct compressing *c = context;
  const uint16_t *weights = tiles_of_panel(c, panel, thread);
  const uint8_t *upper = c->upper + 16L * panel;
  const struct codes codes = codes_of(upper);
  uint8_t *head = c->to + 64L * c->begin[panel], *to = head + head_bytes(c->inputs);
  memset(head, 0, to - head);
  memcpy(head, upper, 16);
  uint16_t *exceptions = (uint16_t *)(head + 16);
  for (int chunk = 0; chunk < chunks_of_inputs(c->inputs); chunk++, weights += CHUNK * PLACES) {
    const int places = places_of(c, chunk);
    for (int i = 0; i < places; i += 128, to += COMPRESSED / 4) write_128(&codes, weights + i, to);
    const int count = exceptions_of(&codes, weights, places, (uint32_t *)to);
    exceptions[chunk] = (uint16_t)count;
    memset(to + 4L * count, 0, exception_bytes(count) - 4L * count);
    to += exception_bytes(count);
  }
}

static int all_panels(struct pool *pool, int kind, struct compressing *c, work_fn panel) {
  c->plain = kind == TILES_COMPRESSED ? BFLOAT16_TILES : BFLOAT16;
  c->each = (long)tiles_of_inputs(c->inputs) * BYTES;
  c->room = malloc(c->each * pool_threads(pool));
  if (!c->room) return -1;
  pool_run(pool, panel, c, (c->outputs + PANEL - 1) / PANEL);
  free(c->room);
  return 0;
}

int measure_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, uint8_t *upper,
                   uint32_t *begin) {
  struct compressing c = {.from = from, .upper = upper, .begin = begin, .outputs = outputs, .inputs = inputs};
  const int done = all_panels(pool, kind, &c, measured);
  for (int panel = 0; !done && panel < (outputs + PANEL - 1) / PANEL; panel++) begin[panel + 1] += begin[panel];
  return done;
}

int compress_panels(struct pool *pool, int kind, const void *from, int outputs, int inputs, const uint8_t *upper,
                    const uint32_t *begin, uint8_t *to) {
  struct compressing c = {.from = from, .to = to, .upper = (uint8_t *)upper, .begin = (uint32_t *)begin};
  c.outputs = outputs, c.inputs = inputs;
  return all_panels(pool, kind, &c, written);
}
