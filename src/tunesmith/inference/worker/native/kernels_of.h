/* All kernels for one kind of vectors, by WIDE: see lanes.h. */
#include <math.h>
#include <string.h>

#include "compressed.h"
#include "kernels.h"

#include "lanes.h"
/* in this order */
#include "sums.h"

#include "adapter.h"
#include "attention.h"
#include "elementwise.h"

const struct kernels KERNELS = {
    .panel_sums = sums_of_panel,
    .panel_sums_of_two = sums_of_two_panels,
    .adapter_low = adapter_low,
    .adapter_sums = adapter_sums,
    .attend = attend_item,
    .scaled = scaled,
    .written = written,
    .likeliest = likeliest,
    .gated = gated,
    .norm = norm_row,
    .rotate = rotate,
};
