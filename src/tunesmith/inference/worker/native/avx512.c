#include <math.h>
#include <string.h>

#include "kernels.h"
#include "wide.h"

#if HAVE_WIDE
WIDE_BEGIN
#define WIDE 1
#define KERNELS avx512_kernels
#include "kernels_of.h"
WIDE_END
#endif
