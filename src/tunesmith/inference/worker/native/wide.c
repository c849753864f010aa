#include "wide.h"

#if HAVE_WIDE && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PERMIT 0x1023 /* ARCH_REQ_XCOMP_PERM: memory for the tiles of a thread is asked for, by whole processes */
#define TILE_DATA 18  /* the state's number */

struct leaf {
  unsigned a, b, c, d;
};

static struct leaf leaf_of(unsigned number, unsigned part) {
  struct leaf found = {0, 0, 0, 0};
  __get_cpuid_count(number, part, &found.a, &found.b, &found.c, &found.d);
  return found;
}

static int has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

/* The registers that the system saves. */
static unsigned saved(void) {
  unsigned low, high;
  if (!has(leaf_of(1, 0).c, 1u << 27)) return 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

static int avx512(void) {
  const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
  return has(saved(), 0xe6) && has(leaf_of(7, 0).b, f | dq | bw | vl);
}

static int tiles(void) {
  const unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
  return avx512() && has(saved(), 3u << 17) && has(leaf_of(7, 0).d, bf16 | tile | int8) &&
         has(leaf_of(7, 1).a, 1u << 5) && !syscall(SYS_arch_prctl, PERMIT, TILE_DATA);
}
#else
static int avx512(void) { return 0; }
static int tiles(void) { return 0; }
#endif

/* Two threads may both ask: they are told the same. */
static int asked_once(int *known, int (*ask)(void)) {
  int found = __atomic_load_n(known, __ATOMIC_RELAXED);
  if (found) return found > 0;
  found = ask() ? 1 : -1;
  __atomic_store_n(known, found, __ATOMIC_RELAXED);
  return found > 0;
}

int wide_avx512(void) {
  static int known;
  return asked_once(&known, avx512);
}

int wide_tiles(void) {
  static int known;
  return asked_once(&known, tiles);
}
