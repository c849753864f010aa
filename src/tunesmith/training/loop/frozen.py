"""Frozen weights and the products with them (torch).

A weight may lie in memory narrower than the numbers computed with: bfloat16 files on a processor that multiplies
float32 faster. Then a product with many rows is made in block fixed point where the compiled library is (eight times
as exact as bfloat16 arithmetic); else the weight is widened while it is used, which costs a tenth of the product.
Where bfloat16 is computed with, the library makes such a product on the processor's tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.loop.loading import computed_in
from tunesmith.training.loop.native.library import KINDS, Library, library, library_for
from tunesmith.training.loop.native.structs import LowRank

# with fewer rows the work is reading the weights, with fewer columns turning the rows into integers
_FEW_ROWS, _FEW_COLUMNS = 32, 64


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of a frozen layer, (out, in).

    Attributes:
        wide: in the number format asked for. kept: as it lies in memory; None where that is no matrix of numbers.
    """

    wide: Callable[[torch.dtype], Tensor]
    kept: Callable[[], Tensor] | None = None

    def __call__(self, dtype: torch.dtype) -> Tensor:
        return self.wide(dtype)

    def times(self, x_ND: Tensor, bias_O: Tensor | None) -> Tensor:
        """``x W' + bias``, (N, out)."""
        found_NO = None if self.kept is None else _compiled_product(x_ND, self.kept().t(), bias_O)
        if found_NO is not None:
            return found_NO
        return functional.linear(x_ND, self.wide(x_ND.dtype), None if bias_O is None else bias_O.to(x_ND.dtype))

    def back(self, grad_NO: Tensor) -> Tensor:
        """``grad W``, (N, in)."""
        found_ND = None if self.kept is None else _compiled_product(grad_NO, self.kept())
        return grad_NO @ self.wide(grad_NO.dtype) if found_ND is None else found_ND

    def times_beside(self, x_ND: Tensor, bias_O: Tensor | None, low: LowRank) -> tuple[Tensor, Tensor]:
        """``times`` with a branch beside it, and the middle of the branch, (N, rank)."""
        found = None if self.kept is None else _suited(x_ND, self.kept().t())
        if found is not None and self.kept is not None:
            return found.product_beside(x_ND, self.kept().t(), low, bias_O)
        y_NO, middle_NR = self.times(x_ND, bias_O), low.middle(x_ND)
        return low.added(y_NO, middle_NR), middle_NR

    def back_beside(self, grad_NO: Tensor, low: LowRank, onto_ND: Tensor | None) -> tuple[Tensor, Tensor]:
        """``back`` with a branch beside it, added to ``onto_ND`` where that is given; and the middle of the branch."""
        found = None if self.kept is None else _suited(grad_NO, self.kept())
        if found is not None and self.kept is not None:
            return found.product_beside(grad_NO, self.kept(), low, None, onto_ND)
        grad_ND, middle_NR = self.back(grad_NO), low.middle(grad_NO)
        low.added(grad_ND, middle_NR)
        return grad_ND if onto_ND is None else onto_ND.add_(grad_ND), middle_NR

    def sums(
        self, grad_NO: Tensor, low_NR: Tensor, x_ND: Tensor, grad_low_NR: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """``grad_low' x`` and ``scale * grad' low``: the gradients of a branch's A and B."""
        found = None if self.kept is None else _suited(grad_NO, self.kept())
        if found is not None:
            return found.outer_products(grad_NO, low_NR, x_ND, grad_low_NR, scale)
        # only one of the two middles may have come from the library, as float32
        low_NR, grad_low_NR = low_NR.to(grad_NO.dtype), grad_low_NR.to(x_ND.dtype)
        return grad_low_NR.t() @ x_ND, (grad_NO.t() @ low_NR) * scale


def by_fixed_point(x_NK: Tensor, weight_KO: Tensor, bias_O: Tensor | None = None) -> Tensor | None:
    """``x @ weight + bias`` in block fixed point; None where it is to be made otherwise."""
    return _compiled_product(x_NK, weight_KO, bias_O) if x_NK.dtype is torch.float32 else None


def _compiled_product(x_NK: Tensor, weight_KO: Tensor, bias_O: Tensor | None = None) -> Tensor | None:
    found = _suited(x_NK, weight_KO)
    return None if found is None else found.product(x_NK, weight_KO, bias_O)


def _suited(x_NK: Tensor, weight_KO: Tensor) -> Library | None:
    """The library, where it is to make the product."""
    if len(x_NK) < _FEW_ROWS or weight_KO.shape[1] < _FEW_COLUMNS:
        return None
    if not (weight_KO.is_contiguous() or weight_KO.t().is_contiguous()):
        return None
    if x_NK.dtype is torch.bfloat16:
        return library_for(x_NK) if weight_KO.dtype is torch.bfloat16 else None
    return _library(weight_KO) if x_NK.dtype is torch.float32 else None


def arithmetic(model: Any) -> str:
    """What products with the frozen weights of a model are made in: "float32", "bfloat16" or "block fixed point"."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad and weight.ndim == 2]
    computed = computed_in(model)
    if computed is torch.float32 and any(_library(weight) is not None for weight in frozen):
        return "block fixed point"
    return str(computed).removeprefix("torch.")


def compiled(model: Any) -> bool:
    """Whether the compiled library computes what it can of a model; what it finds is rounded otherwise than torch's."""
    return model.device.type == "cpu" and library(computed_in(model)) is not None


def _library(weight: Tensor) -> Library | None:
    return library() if weight.dtype in KINDS and weight.device.type == "cpu" else None
