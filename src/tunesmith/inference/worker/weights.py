"""Matrix products with weights kept as the machine multiplies them fastest.

One kernel a precision; all take inputs (T, in) and give outputs (T, out). Which is used, and why, is in ``precision``;
what each costs is in docs/performance.md.
"""

import warnings
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.inference.worker.pages import let_go
from tunesmith.inference.worker.precision import Precision


class Kernel(Protocol):
    """``nbytes``: what the weights take."""

    nbytes: int

    def __call__(self, x_TI: Tensor) -> Tensor: ...


def pack(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> Kernel:
    """The product ``x @ weight.T + bias`` in that precision. The weight given may be freed afterwards."""
    bias = None if bias_O is None else bias_O.to(precision.computed)
    if precision.name == "int8":
        return Int8(weight_OI, bias)
    if precision.name == "float16" and precision.computed == torch.float32:
        return Float16(weight_OI, bias)
    if precision.name == "bfloat16" and weight_OI.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Prepacked(weight_OI.to(torch.bfloat16), bias)
    return Dense(weight_OI.to(precision.computed), bias)


class Sliced:
    """A product of very many outputs, as an output head's, packed a slice at a time: packing widens what it packs."""

    _OUTPUTS = 1 << 15

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> None:
        biases = [None] * len(weight_OI) if bias_O is None else bias_O.split(self._OUTPUTS)
        self._kernels: list[Kernel] = []
        for some, bias in zip(weight_OI.split(self._OUTPUTS), biases, strict=False):
            self._kernels.append(pack(some, bias, precision))
            let_go([some])
        self.nbytes = sum(kernel.nbytes for kernel in self._kernels)

    def __call__(self, x_TI: Tensor) -> Tensor:
        if len(self._kernels) == 1:
            return self._kernels[0](x_TI)
        return torch.cat([kernel(x_TI) for kernel in self._kernels], dim=-1)


class Dense:
    """The weight as it stands."""

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight_OI.contiguous(), bias
        self.nbytes = self._weight.nbytes

    def __call__(self, x_TI: Tensor) -> Tensor:
        return F.linear(x_TI, self._weight, self._bias)


class Prepacked:
    """oneDNN's own layout of a bfloat16 weight, for processors that multiply bfloat16 tiles (AVX-512 BF16, AMX)."""

    _ROWS = 8  # the layout is chosen for so many; others are still computed

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        self.nbytes = weight_OI.nbytes
        self._weight, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), self._ROWS), bias

    def __call__(self, x_TI: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self._weight, self._bias, "none", [], "")
        return y


class Float16:
    """FBGEMM: float16 weights, widened in registers; float32 inputs, sums and outputs."""

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        self.nbytes = weight_OI.numel() * 2
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight_OI.float().contiguous(), bias)

    def __call__(self, x_TI: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_TI, self._packed)
        return y


class Int8:
    """Weights of 8 bits with one scale an output; inputs keep about 14 bits, so the weights' rounding is all that is lost.

    FBGEMM multiplies 7-bit inputs with 8-bit weights (one bit less than it takes, because pairs of products are summed
    in 16 bits where the processor has no VNNI). Each input is therefore written as two such digits, ``(hi + lo / 126) / 63``
    of its row's largest number, and both go through one product as rows of their own. A row's numbers depend on that row
    alone, whatever else is in the step.
    """

    _LEVELS = 63.0
    _ZERO = 64

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        wide = weight_OI.float()
        scales = wide.abs().amax(1).clamp_min(1e-12) / 127
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantize_per_channel.*", category=UserWarning)
            zeros = torch.zeros(len(scales), dtype=torch.long)
            quantized = torch.quantize_per_channel(wide, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = bias
        self.nbytes = weight_OI.numel()

    def __call__(self, x_TI: Tensor) -> Tensor:
        rows = len(x_TI)
        largest_T1 = x_TI.abs().amax(-1, keepdim=True).clamp_min_(1e-30)
        digits = x_TI * (self._LEVELS / largest_T1)
        high = digits.round()
        both = torch.cat((high, (digits - high) * (2 * self._LEVELS)))
        y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            both, 1.0, self._ZERO, self._packed
        )
        y = torch.add(y[:rows], y[rows:], alpha=0.5 / self._LEVELS).mul_(largest_T1 / self._LEVELS)
        return y if self._bias is None else y.add_(self._bias)
