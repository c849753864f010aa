#define WIDE 0
#define KERNELS avx2_kernels
#include "kernels_of.h"
