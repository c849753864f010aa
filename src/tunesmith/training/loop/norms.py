"""Root mean square norms as one step of the gradient tape (torch).

A model's own are a dozen small operations forward and back, each with its own pass over the rows and its own entry on
the tape. Here it is one each way, through the compiled library.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.training.loop.native.library import Library, library_for

_EPS = ("variance_epsilon", "eps")
_PROBES = (1e-3, 1.0, 1e3)  # with the smallest the number beside the squares counts
_ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 2**-6}  # a model rounds to bfloat16 up to three times, we do once


class _Norm(torch.autograd.Function):
    """``scale * x / sqrt(mean(x * x) + eps)`` with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, scale_D: Tensor, eps: float, by: Library) -> Tensor:
        y_ND, over_N = by.norm(x_ND, scale_D, eps)
        ctx.save_for_backward(x_ND, scale_D, over_N)
        ctx.by = by
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.by.norm_back(grads[0].contiguous(), *ctx.saved_tensors), None, None, None


class Norm(nn.Module):
    """Takes the place of a frozen norm.

    Args:
        eps: is added to the mean of the squares.
        beside_one: the weight is what the factor differs from 1 by, as in Gemma.
    """

    def __init__(self, base_layer: Any, eps: float, *, beside_one: bool) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._eps, self._beside_one = eps, beside_one

    @property
    def weight(self) -> Tensor:
        """As it lies in memory."""
        weight: Tensor = self.base_layer.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        found = library_for(x)
        if found is None:
            own: Tensor = self.base_layer(x)
            return own
        weight_D = self.weight.float()
        scale_D = 1 + weight_D if self._beside_one else weight_D
        y: Tensor = _Norm.apply(x.reshape(-1, x.shape[-1]).contiguous(), scale_D, self._eps, found)
        return y.view(x.shape)


def normed(module: Any, computed: torch.dtype = torch.float32) -> Norm | None:
    """What takes the place of ``module`` in a model computed in that number format.

    None where the library does not compute just what it does, but for rounding.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.requires_grad:
        return None
    eps = next((eps for name in _EPS if isinstance(eps := getattr(module, name, None), float)), None)
    if eps is None or len(list(module.parameters())) != 1 or list(module.children()):
        return None
    if len(signature(module.forward).parameters) != 1:
        return None  # what is given beside x may count
    row_D = torch.linspace(-1, 2, len(weight), device=weight.device).cos() + 0.5  # its mean is not 0
    x_ND = torch.stack([row_D * size for size in _PROBES]).to(computed)
    if library_for(x_ND) is None:
        return None
    with torch.no_grad():
        wanted_ND = module(x_ND)
        for norm in (Norm(module, eps, beside_one=beside) for beside in (False, True)):
            if torch.allclose(norm(x_ND), wanted_ND, rtol=_ROUNDED[computed], atol=1e-6):
                return norm
    return None
