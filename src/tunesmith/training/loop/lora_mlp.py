"""A gated feed-forward block with LoRA as one step of the gradient tape (torch).

``down(act(gate(x)) * up(x))`` is two thirds of the work of today's models. Composed from torch's own operations it
keeps six tensors as wide as the block for the gradient; here it keeps two, gate's and up's, and makes the others again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.training.loop.frozen import Weight
from tunesmith.training.loop.lora import Branch, LoraLinear, branch_gradients, branched, input_gradient, kept
from tunesmith.training.loop.native.library import GELU_TANH, SILU, library_for

_NAMES = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of one number and the product of its derivative with a gradient.

    Attributes:
        kind: as the compiled library names it.
    """

    kind: int
    of: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]

    def gated(self, g_NF: Tensor, u_NF: Tensor) -> Tensor:
        """``act(g) * u``."""
        found = library_for(g_NF)
        return self.of(g_NF).mul_(u_NF) if found is None else found.gated(g_NF, u_NF, self.kind)

    def gradients(self, grad_NF: Tensor, g_NF: Tensor, u_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of g and u from that of ``act(g) * u``, which g's overwrites; and ``act(g) * u`` again."""
        found = library_for(g_NF)
        if found is not None:
            return found.gated_back(grad_NF, g_NF, u_NF, self.kind)
        active_NF = self.of(g_NF)
        grad_u_NF = active_NF * grad_NF
        return self.gradient(grad_NF.mul_(u_NF), g_NF), grad_u_NF, active_NF.mul_(u_NF)


_SILU = Activation(SILU, functional.silu, torch.ops.aten.silu_backward)
_GELU_TANH = Activation(
    GELU_TANH,
    lambda x: functional.gelu(x, approximate="tanh"),
    lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
)
_ACTIVATIONS = {"SiLUActivation": _SILU, "SiLU": _SILU, "GELUTanh": _GELU_TANH, "PytorchGELUTanh": _GELU_TANH}


@dataclass(frozen=True, slots=True)
class _Layers:
    """What does not change: frozen weights, biases and scales of gate, up and down."""

    weights: tuple[Weight, Weight, Weight]
    biases: tuple[Tensor | None, Tensor | None, Tensor | None]
    scales: tuple[float, float, float]
    activation: Activation


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: _Layers, x_ND: Tensor, kept_ND: Tensor | None, kept_NF: Tensor | None, *AB: Tensor
    ) -> Tensor:
        gate, up, down = _branches(layers, AB)
        g_NF, low_g = branched(x_ND, gate, kept_ND, layers.weights[0], layers.biases[0])
        u_NF, low_u = branched(x_ND, up, kept_ND, layers.weights[1], layers.biases[1])
        h_NF = layers.activation.gated(g_NF, u_NF)
        y_ND, low_d = branched(h_NF, down, kept_NF, layers.weights[2], layers.biases[2])
        ctx.layers = layers
        ctx.save_for_backward(x_ND, kept_ND, kept_NF, g_NF, u_NF, low_g, low_u, low_d, *AB)
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layers: _Layers = ctx.layers
        x_ND, kept_ND, kept_NF, g_NF, u_NF, low_g, low_u, low_d, *AB = ctx.saved_tensors
        gate, up, down = _branches(layers, AB)
        grad_h_NF, d_low = input_gradient(grads[0], down, kept_NF, layers.weights[2])
        grad_g_NF, grad_u_NF, h_NF = layers.activation.gradients(grad_h_NF, g_NF, u_NF)
        dA, dB = branch_gradients(grads[0], h_NF, low_d, d_low, down, kept_NF, layers.weights[2])
        del h_NF, grad_h_NF
        grad_x, g_low = input_gradient(grad_g_NF, gate, kept_ND, layers.weights[0])
        gA, gB = branch_gradients(grad_g_NF, x_ND, low_g, g_low, gate, kept_ND, layers.weights[0])
        grad_x, u_low = input_gradient(grad_u_NF, up, kept_ND, layers.weights[1], grad_x)
        uA, uB = branch_gradients(grad_u_NF, x_ND, low_u, u_low, up, kept_ND, layers.weights[1])
        return None, grad_x, None, None, gA, gB, uA, uB, dA, dB


def _branches(layers: _Layers, AB: Any) -> tuple[Branch, Branch, Branch]:
    gate, up, down = (Branch(AB[2 * i], AB[2 * i + 1], layers.scales[i]) for i in range(3))
    return gate, up, down


class LoraGatedMLP(nn.Module):
    """Takes the place of a block whose three layers wear LoRA; they keep their names."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (getattr(block, name) for name in _NAMES)
        self.act_fn = block.act_fn
        linears: list[LoraLinear] = [self.gate_proj, self.up_proj, self.down_proj]
        weights = tuple(linear.weight_as for linear in linears)
        biases = tuple(linear.bias for linear in linears)
        scales = tuple(linear.scale for linear in linears)
        self._layers = _Layers(weights, biases, scales, _ACTIVATIONS[type(block.act_fn).__name__])  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2)
        dropout = self.gate_proj.dropout if self.training else 0.0
        AB = [weight for linear in (self.gate_proj, self.up_proj, self.down_proj) for weight in (linear.lora_A, linear.lora_B)]  # fmt: skip
        kept_ND = kept(x_ND, x_ND.shape[1], dropout)
        kept_NF = kept(x_ND, self.down_proj.lora_A.shape[1], dropout)
        y: Tensor = _Gated.apply(self._layers, x_ND, kept_ND, kept_NF, *AB)
        return y.unflatten(0, x.shape[:-1])


def gated(block: Any) -> bool:
    """Whether ``block`` computes just what ``LoraGatedMLP`` does."""
    linears = [getattr(block, name, None) for name in _NAMES]
    if not all(isinstance(linear, LoraLinear) and linear.magnitude is None for linear in linears):
        return False
    if type(getattr(block, "act_fn", None)).__name__ not in _ACTIVATIONS or len(list(block.children())) != 4:
        return False
    first = linears[0]
    assert first is not None
    # a block may scale or clip in between: only what gives the same numbers is replaced
    x = torch.linspace(-1, 1, first.lora_A.shape[1], device=first.lora_A.device).repeat(2, 1)
    was = block.training
    block.eval()
    with torch.no_grad():
        same = torch.allclose(block(x), LoraGatedMLP(block).eval()(x), rtol=1e-3, atol=1e-4)
    block.train(was)
    return bool(same)
