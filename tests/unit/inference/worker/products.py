"""Products of the compiled library, with weights packed by hand."""

from collections.abc import Callable

import torch

from tunesmith.inference.worker.native.library import LINE, PANEL, Kind, Library, Product, packed_shape

COMPRESSED = (Kind.BFLOAT16_COMPRESSED, Kind.TILES_COMPRESSED)


def packed(
    library: Library,
    weight_OI: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    kind: Kind | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product with these weights as they are; a function that keeps what its struct points to."""
    if kind is None:
        kind = next(one for one in Kind if one.dtype == weight_OI.dtype)
    outputs, inputs = weight_OI.shape
    begin = None
    if kind in COMPRESSED:
        panels, begin = compressed(library, kind, weight_OI)
    else:
        panels = torch.full(packed_shape(kind, outputs, inputs), 99).to(weight_OI.dtype)
        library.pack(kind, weight_OI, panels)
    kept = (panels, bias, scale, begin)
    addresses = (None if one is None else one.data_ptr() for one in (scale, bias, begin))
    product = Product(panels.data_ptr(), *addresses, kind, inputs, outputs)
    return lambda x, kept=kept: library.product(product, x)


def compressed(library: Library, kind: Kind, weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of weights, and where their panels begin."""
    panels = -(-len(weight_OI) // PANEL)
    upper, begin = torch.empty(panels, 16, dtype=torch.uint8), torch.zeros(panels + 1, dtype=torch.int32)
    library.compress(kind, weight_OI, upper, begin)
    to = torch.full((int(begin[-1]) * LINE,), 99, dtype=torch.uint8)
    library.compress(kind, weight_OI, upper, begin, to)
    return to, begin
