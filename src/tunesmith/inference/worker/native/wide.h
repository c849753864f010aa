/* AVX-512 and AMX (tiles of bfloat16 and of 8-bit integers), for processors that have them: the library is compiled for
 * AVX2, and what lies between WIDE_BEGIN and WIDE_END for these; it may be called only after one of the checks. */
#pragma once

#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define HAVE_WIDE 1
#else
#define HAVE_WIDE 0 /* a compiler that does not know them: the checks say no */
#endif

/* In front of the first function, after all headers; not one inside another. */
#if HAVE_WIDE && defined(__clang__)
#define WIDE_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"prfchw,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,amx-int8\"))), apply_to = function)")
#define WIDE_END _Pragma("clang attribute pop")
#elif HAVE_WIDE
#define WIDE_BEGIN            \
  _Pragma("GCC push_options") \
  _Pragma("GCC target(\"prfchw,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,amx-int8\")")
#define WIDE_END _Pragma("GCC pop_options")
#else
#define WIDE_BEGIN
#define WIDE_END
#endif

/* 1 where the processor has AVX-512 F, BW, DQ and VL and the system saves its registers. */
int wide_avx512(void);

/* 1 where there are also AVX-512 BF16 and AMX with tiles of bfloat16 and 8 bits, and the system lets this process use
 * them, which it is asked for here. Each thread loads the shapes of its tiles itself, and releases them when it is done. */
int wide_tiles(void);
