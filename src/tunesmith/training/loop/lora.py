"""Frozen linear layers, bare and with LoRA, each one step of the gradient tape (torch).

LoRA: Hu et al., arXiv:2106.09685. rsLoRA: Kalajdzievski, arXiv:2312.03732. DoRA: Liu et al., arXiv:2402.09353.

The frozen weight never gets a gradient, so the tape needs only the input and the product with A: half of what
composing the same from torch's own operations keeps. How the products with the weight are made is ``frozen``'s.
"""

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.training.loop.frozen import Weight
from tunesmith.training.loop.native.structs import LowRank
from tunesmith.training.run import Recipe

QUANTIZED = ("Linear4bit", "Linear8bitLt")  # bitsandbytes
_TINY = 1e-12


def weight_of(linear: Any) -> Weight:
    """The weight of a frozen layer."""
    name = type(linear).__name__
    if name == "Conv1D":  # GPT-2's: a linear layer with its weight transposed
        return Weight(lambda dtype: linear.weight.to(dtype).t(), lambda: linear.weight.t())
    if name == "Linear4bit":
        return Weight(lambda dtype: _dequantized_4bit(linear, dtype))
    if name == "Linear8bitLt":
        return Weight(lambda dtype: _dequantized_8bit(linear, dtype))
    return Weight(lambda dtype: linear.weight.to(dtype), lambda: linear.weight)


def features(linear: Any) -> tuple[int, int]:
    """(in, out) of a frozen layer."""
    if type(linear).__name__ == "Conv1D":
        return int(linear.weight.shape[0]), int(linear.weight.shape[1])
    return int(linear.in_features), int(linear.out_features)


def _dequantized_4bit(linear: Any, dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = copy(linear.weight.quant_state)
    shape, count = state.shape, state.shape.numel()
    # block by block: with AVX-512 bitsandbytes 0.50 takes another block's scale where a row is no whole number of blocks
    blocks, rest = divmod(count, state.blocksize)
    state.shape = torch.Size((1, count) if rest else (blocks, state.blocksize))
    return dequantize_4bit(linear.weight.data, state).view(shape).to(dtype)


def _dequantized_8bit(linear: Any, dtype: torch.dtype) -> Tensor:
    # int8 rows and their largest absolute values (Dettmers et al., arXiv:2208.07339)
    codes = linear.weight.CB if getattr(linear.weight, "CB", None) is not None else linear.weight.data
    scales = linear.weight.SCB if getattr(linear.weight, "SCB", None) is not None else linear.state.SCB
    return torch.mul(codes, scales.to(codes.device)[:, None] / 127).to(dtype)


@dataclass(frozen=True, slots=True)
class Branch:
    """The low-rank branch of one layer: ``scale * B(A(x))``.

    Attributes:
        A: (rank, in). B: (out, rank). Both float32, whatever is computed with.
    """

    A: Tensor
    B: Tensor
    scale: float

    @property
    def forward(self) -> LowRank:
        return LowRank(self.A.t(), self.B.t(), second_scale=self.scale)

    @property
    def backward(self) -> LowRank:
        return LowRank(self.B, self.A, first_scale=self.scale)


class _Frozen(torch.autograd.Function):
    """``x W' + bias`` with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return weight.times(x_ND, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,) = grads
        return ctx.weight.back(grad) if ctx.needs_input_grad[0] else None, None, None


class _Lora(torch.autograd.Function):
    """``x W' + bias + scale * (x * kept) A' B'`` with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, A: Tensor, B: Tensor, kept_ND: Tensor | None,
        weight: Weight, bias: Tensor | None, scale: float,
    ) -> Tensor:  # fmt: skip
        y_NO, low_NR = branched(x_ND, Branch(A, B, scale), kept_ND, weight, bias)
        ctx.save_for_backward(x_ND, low_NR, A, B, kept_ND)
        ctx.weight, ctx.scale = weight, scale
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, low_NR, A, B, kept_ND = ctx.saved_tensors
        branch = Branch(A, B, ctx.scale)
        if ctx.needs_input_grad[0]:
            grad_x, grad_low_NR = input_gradient(grads[0], branch, kept_ND, ctx.weight)
        else:
            grad_x, grad_low_NR = None, branch.backward.middle(grads[0])
        grad_A, grad_B = branch_gradients(grads[0], x_ND, low_NR, grad_low_NR, branch, kept_ND, ctx.weight)
        return grad_x, grad_A, grad_B, None, None, None, None


def branched(
    x_ND: Tensor, branch: Branch, kept_ND: Tensor | None, weight: Weight, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the layer gives for ``x_ND``, and the product with A that the gradient needs."""
    if kept_ND is None:
        return weight.times_beside(x_ND, bias, branch.forward)
    y_NO, low_NR = weight.times(x_ND, bias), branch.forward.middle(x_ND * kept_ND)
    return branch.forward.added(y_NO, low_NR), low_NR


def input_gradient(
    grad_NO: Tensor, branch: Branch, kept_ND: Tensor | None, weight: Weight, onto_ND: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of the layer's input, added to ``onto_ND`` where that is given; and of the product with A."""
    if kept_ND is None:
        return weight.back_beside(grad_NO, branch.backward, onto_ND)
    grad_low_NR = branch.backward.middle(grad_NO)
    grad_ND = weight.back(grad_NO).add_((grad_low_NR @ branch.A.to(grad_NO.dtype)).mul_(kept_ND))
    return grad_ND if onto_ND is None else onto_ND.add_(grad_ND), grad_low_NR


def branch_gradients(
    grad_NO: Tensor, x_ND: Tensor, low_NR: Tensor, grad_low_NR: Tensor, branch: Branch, kept_ND: Tensor | None,
    weight: Weight,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of A and B, in their own number format."""
    seen_ND = x_ND if kept_ND is None else x_ND * kept_ND
    grad_A, grad_B = weight.sums(grad_NO, low_NR, seen_ND, grad_low_NR, branch.scale)
    return grad_A.to(branch.A.dtype), grad_B.to(branch.B.dtype)


def kept(like_ND: Tensor, width: int, dropout: float) -> Tensor | None:
    """A mask that drops that share of (N, width) numbers and makes up for it; None where nothing is dropped."""
    if not dropout:
        return None
    return like_ND.new_empty(len(like_ND), width).bernoulli_(1 - dropout).div_(1 - dropout)


class FrozenLinear(nn.Module):
    """A frozen linear layer whose weight is widened while it is used."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.weight_as = weight_of(base_layer)

    @property
    def weight(self) -> Tensor:
        """As it lies in memory."""
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base_layer.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Frozen.apply(x.flatten(0, -2), self.weight_as, self.bias)
        return y.unflatten(0, x.shape[:-1])


class LoraLinear(FrozenLinear):
    """A frozen linear layer with a trainable low-rank branch beside it, drawn as PEFT draws it."""

    def __init__(self, base_layer: Any, recipe: Recipe) -> None:
        super().__init__(base_layer)
        inner, outer = features(base_layer)
        device = base_layer.weight.device
        self.lora_A = nn.Parameter(torch.empty(recipe.rank, inner, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outer, recipe.rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scale = scaling(recipe)
        self.dropout = recipe.dropout
        self.magnitude: nn.Parameter | None = None
        if recipe.use_dora:
            self.magnitude = nn.Parameter(torch.linalg.vector_norm(self.weight_as(torch.float32), dim=1))

    @property
    def branch(self) -> Branch:
        return Branch(self.lora_A, self.lora_B, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2)
        kept_ND = kept(x_ND, x_ND.shape[1], self.dropout if self.training else 0.0)
        if self.magnitude is None:
            y: Tensor = _Lora.apply(
                x_ND, self.lora_A, self.lora_B, kept_ND, self.weight_as, self.bias, self.scale
            )  # fmt: skip
        else:
            y = self._by_magnitude(x_ND, kept_ND, self.magnitude)
        return y.unflatten(0, x.shape[:-1])

    def _by_magnitude(self, x_ND: Tensor, kept_ND: Tensor | None, magnitude: Tensor) -> Tensor:
        A, B = self.lora_A.to(x_ND.dtype), self.lora_B.to(x_ND.dtype)
        base_NO = _Frozen.apply(x_ND, self.weight_as, None)
        low_NO = functional.linear(functional.linear(x_ND if kept_ND is None else x_ND * kept_ND, A), B)
        share_O = (magnitude / self.norm()).to(x_ND.dtype)
        y_NO = share_O * (base_NO + self.scale * low_NO)
        return y_NO if self.bias is None else y_NO + self.bias.to(x_ND.dtype)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Length of each row of ``W + scale B A``, float32; a constant to the gradient (section 4.3 of DoRA).

        From three small products, so that the sum is never made.
        """
        A, B, W = self.lora_A, self.lora_B, self.weight_as(torch.float32)
        cross_OR = W @ A.t()
        square_O = W.square().sum(1) + 2 * self.scale * (cross_OR * B).sum(1)
        square_O += self.scale**2 * ((B @ (A @ A.t())) * B).sum(1)
        return square_O.clamp_min(0).sqrt().clamp_min(_TINY)  # a row of zeros has no direction


def scaling(recipe: Recipe) -> float:
    """What the low-rank branch is multiplied by."""
    return recipe.alpha / (math.sqrt(recipe.rank) if recipe.use_rslora else recipe.rank)
