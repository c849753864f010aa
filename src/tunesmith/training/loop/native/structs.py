"""What the trainer's compiled library is given, as its headers have it (torch, ctypes)."""

from ctypes import Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LowRank:
    """A branch beside a weight: ``second_scale * middle @ second`` with ``middle = first_scale * x @ first``.

    Attributes:
        first: (K, R). second: (R, O). Both float32.
    """

    first: Tensor
    second: Tensor
    first_scale: float = 1.0
    second_scale: float = 1.0

    def middle(self, x_NK: Tensor) -> Tensor:
        middle_NR = x_NK @ self.first.to(x_NK.dtype)
        return middle_NR if self.first_scale == 1.0 else middle_NR.mul_(self.first_scale)

    def added(self, y_NO: Tensor, middle_NR: Tensor) -> Tensor:
        """The branch, added to ``y_NO`` in place."""
        return y_NO.addmm_(middle_NR, self.second.to(y_NO.dtype), alpha=self.second_scale)


@dataclass(frozen=True, slots=True)
class Sums:
    """What is known of rows of logits after some blocks of their columns; all (N,), float32.

    Attributes:
        most: the largest. total: the sum of e^(logit - most). chosen: the logit of the row's label.
    """

    most: Tensor
    total: Tensor
    chosen: Tensor

    @classmethod
    def none(cls, rows: int, device: torch.device) -> "Sums":
        """Of no block."""
        zeros_N = torch.zeros(rows, device=device)
        return cls(torch.full_like(zeros_N, -torch.inf), zeros_N, torch.zeros_like(zeros_N))


class Factor(Structure):
    """See low_rank.h."""

    _fields_ = (("values", c_void_p), ("row", c_int64), ("column", c_int64), ("scale", c_float))

    @classmethod
    def of(cls, matrix: Tensor, scale: float) -> "Factor":
        return cls(matrix.data_ptr(), *matrix.stride(), scale)


class Product(Structure):
    """See fixed.h."""

    _fields_ = (
        ("x", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("middle", c_void_p),
        ("first", Factor),
        ("second", Factor),
        ("rows", c_int64),
        ("inner", c_int64),
        ("columns", c_int64),
        ("rank", c_int64),
        ("kind", c_int32),
        ("plain", c_int32),
        ("added", c_int32),
        ("wide", c_int32),
    )


class Heads(Structure):
    """See attention.h."""

    _fields_ = (("at", c_void_p), ("head", c_int64), ("token", c_int64))

    @classmethod
    def of(cls, x_THD: Tensor) -> "Heads":
        return cls(x_THD.data_ptr(), x_THD.stride(1), x_THD.stride(0))


class Attention(Structure):
    """See attention.h."""

    _fields_ = (
        *((name, Heads) for name in ("q", "k", "v", "grad")),
        *((name, c_void_p) for name in ("out", "shares", "dq", "dk", "dv", "room", "lengths")),
        *((name, c_int64) for name in ("examples", "tokens", "window")),
        *((name, c_int32) for name in ("heads", "kv_heads", "dim")),
        ("scale", c_float),
    )


class Gated(Structure):
    """See gated.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("gate", "up", "product", "grad", "grad_up")),
        ("count", c_int64),
        ("activation", c_int32),
    )


class Norm(Structure):
    """See norm.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "scale", "grad", "y", "over")),
        ("rows", c_int64),
        ("width", c_int64),
        ("eps", c_float),
    )


class Rotary(Structure):
    """See rotary.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "cos", "sin", "y")),
        *((name, c_int64) for name in ("tokens", "heads", "dim", "token", "head")),
        ("back", c_int32),
    )


class Softmax(Structure):
    """See softmax.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "shares", "most", "total", "factor", "chosen", "labels")),
        *((name, c_int64) for name in ("rows", "width", "first")),
    )


class Outer(Structure):
    """See low_rank.h."""

    _fields_ = (
        ("wide", c_void_p),
        ("low", c_void_p),
        ("to", c_void_p),
        ("columns", c_int64),
        ("rank", c_int64),
        ("stride", c_int64),
        ("column", c_int64),
        ("lane", c_int64),
        ("scale", c_float),
    )

    @classmethod
    def of(cls, wide_NC: Tensor, low_NR: Tensor, to_CR: Tensor, scale: float) -> "Outer":
        assert wide_NC.is_contiguous() and low_NR.stride(1) == 1 and low_NR.dtype is torch.float32
        return cls(
            wide_NC.data_ptr(), low_NR.data_ptr(), to_CR.data_ptr(), *to_CR.shape, low_NR.stride(0), *to_CR.stride(),
            scale,
        )  # fmt: skip


class Outers(Structure):
    """See low_rank.h."""

    _fields_ = (("of", Outer * 2), ("rows", c_int64), ("packed", c_void_p))
