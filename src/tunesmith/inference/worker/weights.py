"""Matrix products with weights kept as the machine multiplies them fastest.

One kernel a precision; all take inputs (T, in) and give outputs (T, out). Which is used, and why, is in ``precision``;
what each costs is in docs/performance.md.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.inference.worker.precision import Precision

_FEW_ROWS = 4  # up to so many the weight-only product reads memory and nothing else; beyond them it computes


class Kernel(Protocol):
    """``nbytes``: what the weights take."""

    nbytes: int

    def __call__(self, x_TI: Tensor) -> Tensor: ...


def pack(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> Kernel:
    """The product ``x @ weight.T + bias`` in that precision. The weight given may be freed afterwards."""
    bias = None if bias_O is None else bias_O.to(precision.computed)
    if precision.name == "int8":
        return Int8(weight_OI, bias, precision.computed)
    if precision.name == "float16" and precision.computed == torch.float32:
        return Float16(weight_OI, bias)
    if precision.name == "bfloat16" and weight_OI.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Prepacked(weight_OI.to(torch.bfloat16), bias)
    return Dense(weight_OI.to(precision.computed), bias)


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
    """Weights of 8 bits with one scale an output; activations stay as they are."""

    def __init__(self, weight_OI: Tensor, bias: Tensor | None, computed: torch.dtype) -> None:
        wide = weight_OI.float()
        scales = wide.abs().amax(1).clamp_min(1e-12) / 127
        self._weight = (wide / scales[:, None]).round_().to(torch.int8)
        self._scales, self._bias = scales.to(computed), bias
        self.nbytes = self._weight.nbytes

    def __call__(self, x_TI: Tensor) -> Tensor:
        y: Tensor = torch._weight_int8pack_mm(x_TI, self._weight, self._scales)
        return y if self._bias is None else y.add_(self._bias)
