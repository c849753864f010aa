"""Matrix products with weights kept as the machine multiplies them fastest.

The compiled kernels where there are any, else one of torch's a precision; all take inputs (T, in) and give outputs
(T, out). What each costs is in docs/performance.md.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.inference.worker.native.library import (
    LINE,
    PANEL,
    Embedding,
    Kind,
    Library,
    Product,
    library,
    packed_shape,
)
from tunesmith.inference.worker.pages import let_go
from tunesmith.inference.worker.precision import Precision

_OUTPUTS = 1 << 15  # packed at once by torch, where many are
_WIDENED = 1 << 12  # outputs whose weights are rounded at once: it takes several times their memory
_LARGE = 1 << 19  # weights from which on they come from memory, and fewer bytes are faster
_TRIED = 64  # rows that are looked up to see that they are what they were
_COMPRESSED = {Kind.BFLOAT16: Kind.BFLOAT16_COMPRESSED, Kind.BFLOAT16_TILES: Kind.TILES_COMPRESSED}


class Kernel(Protocol):
    """``nbytes``: what the weights take."""

    nbytes: int

    def __call__(self, x_TI: Tensor) -> Tensor: ...


def pack(weights_OI: Sequence[Tensor], bias_O: Tensor | None, precision: Precision) -> Kernel:
    """The product ``x @ weight.T + bias`` in that precision, of weights one below the other, which may be freed
    afterwards.
    """
    native = _native(weights_OI[0], precision)
    if native is None:
        return _packed_by_torch(torch.cat(list(weights_OI)), bias_O, precision)
    return Panels(weights_OI, None if bias_O is None else bias_O.to(precision.computed), precision, native)


def _packed_by_torch(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> Kernel:
    bias = None if bias_O is None else bias_O.to(precision.computed)
    if precision.name == "int8":
        return Int8(weight_OI, bias)
    if precision.name == "float16" and precision.computed == torch.float32:
        return Float16(weight_OI, bias)
    if precision.name == "bfloat16" and weight_OI.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Prepacked(weight_OI.to(torch.bfloat16), bias)
    return Dense(weight_OI.to(precision.computed), bias)


def _native(weight: Tensor, precision: Precision) -> Library | None:
    return library() if weight.device.type == "cpu" and precision.computed == torch.float32 else None


def sliced(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> Kernel:
    """As ``pack``, for very many outputs, as an output head's."""
    if _native(weight_OI, precision) is not None:
        return pack([weight_OI], bias_O, precision)
    if len(weight_OI) <= _OUTPUTS or weight_OI.device.type != "cpu":
        return _packed_by_torch(weight_OI, bias_O, precision)
    return Sliced(weight_OI, bias_O, precision)


class Sliced:
    """Packed a slice at a time: packing widens what it packs."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> None:
        biases = [None] * len(weight_OI) if bias_O is None else bias_O.split(_OUTPUTS)
        self._kernels: list[Kernel] = []
        for some, bias in zip(weight_OI.split(_OUTPUTS), biases, strict=False):
            self._kernels.append(_packed_by_torch(some, bias, precision))
            let_go([some])
        self.nbytes = sum(kernel.nbytes for kernel in self._kernels)

    def __call__(self, x_TI: Tensor) -> Tensor:
        return torch.cat([kernel(x_TI) for kernel in self._kernels], dim=-1)


class Panels:
    """The compiled kernels: weights of 32 or 16 bits, widened in registers, with float32 inputs and sums; bfloat16 by
    tiles, with inputs rounded to bfloat16 and float32 sums; or of 8 bits, multiplied with inputs of 16 bits in integers.
    Inputs and outputs are float32.

    16 bits stay those of the checkpoint, bfloat16 or float16; many of bfloat16 take 12 bits of memory, and are the same to the
    last bit (decision 0028). 8 bits have one scale an output, their inputs one for 256 of a row, which costs a hundredth of
    what rounding the weights costs. A row's numbers are the same to the last bit whatever other rows there are.

    Attributes:
        product: what the library is told of it.
    """

    def __init__(
        self, weights_OI: Sequence[Tensor], bias: Tensor | None, precision: Precision, native: Library
    ) -> None:
        self._native, self._bias = native, None if bias is None else bias.contiguous()
        if any(len(one) % PANEL for one in weights_OI[:-1]):  # a panel may not hold outputs of two
            weights_OI = [torch.cat(list(weights_OI))]
        outputs, inputs = sum(map(len, weights_OI)), weights_OI[0].shape[1]
        self._scale = torch.empty(outputs) if precision.name == "int8" else None
        self._kind = _kind(weights_OI[0].dtype, precision, native)
        self._begin: Tensor | None = None
        shorter = _COMPRESSED.get(self._kind) if outputs * inputs >= _LARGE else None
        if shorter is None or not self._compressed(shorter, weights_OI):
            self._weight = torch.empty(packed_shape(self._kind, outputs, inputs), dtype=self._kind.dtype)
            self.nbytes = self._weight.nbytes
            for begin, some in _parts(weights_OI):
                native.pack(self._kind, self._rounded(some, begin), self._weight[begin // PANEL :])
                let_go([some])
        self.product = Product(
            self._weight.data_ptr(),
            None if self._scale is None else self._scale.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            None if self._begin is None else self._begin.data_ptr(),
            self._kind,
            inputs,
            outputs,
        )

    def __call__(self, x_TI: Tensor) -> Tensor:
        return self._native.product(self.product, x_TI)

    def keeps(self, weight_OI: Tensor) -> bool:
        """Whether ``rows`` gives back what ``weight_OI``, which it was made of, holds: nothing of it was rounded."""
        if self._scale is not None or self._kind.dtype not in (weight_OI.dtype, torch.float32):
            return False
        some = torch.linspace(0, len(weight_OI) - 1, _TRIED).long()
        return bool(torch.equal(self.rows(some), weight_OI[some].float()))

    def rows(self, outputs_T: Tensor) -> Tensor:
        """The weights of these outputs, (tokens, in), float32, where they ``keep`` them."""
        return self._native.embedded(Embedding(self.product, 1.0, True), outputs_T)

    def _compressed(self, kind: Kind, weights_OI: Sequence[Tensor]) -> bool:
        """Whether that saves an eighth of the memory, at least; a quarter is usual."""
        outputs, inputs = sum(map(len, weights_OI)), weights_OI[0].shape[1]
        panels = -(-outputs // PANEL)
        upper, begin = torch.empty(panels, 16, dtype=torch.uint8), torch.zeros(panels + 1, dtype=torch.int32)
        packed: Tensor | None = None
        for _ in range(2):  # they are measured, and written
            for first, some in _parts(weights_OI):
                panel = first // PANEL
                self._native.compress(kind, some.to(kind.dtype), upper[panel:], begin[panel:], packed)
                let_go([some])
            nbytes = int(begin[-1]) * LINE
            if nbytes > outputs * inputs * 2 / 8 * 7:
                return False
            if packed is None:
                packed = torch.empty(nbytes, dtype=torch.uint8)
        assert packed is not None
        self._weight, self._begin, self._kind, self.nbytes = packed, begin, kind, nbytes
        return True

    def _rounded(self, weight_OI: Tensor, begin: int) -> Tensor:
        if self._scale is None:
            return weight_OI.to(self._kind.dtype)
        return self._native.round(weight_OI, self._scale[begin:])


def _parts(weights_OI: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Some outputs' weights at a time, and the first of these outputs."""
    begin = 0
    for some in (part for one in weights_OI for part in one.split(_WIDENED)):
        yield begin, some
        begin += len(some)


def _kind(stored: torch.dtype, precision: Precision, native: Library) -> Kind:
    if precision.name == "int8":
        return Kind.INT8_TILES if native.tiles else Kind.INT8
    if precision.name == "bfloat16":
        return Kind.BFLOAT16_TILES if native.tiles else Kind.BFLOAT16
    if precision.name == "float16":
        return Kind.BFLOAT16 if stored == torch.bfloat16 else Kind.FLOAT16
    return Kind.FLOAT32


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
