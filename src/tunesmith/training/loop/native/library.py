"""The trainer's compiled library: products in block fixed point, attention, gates, norms, softmax (torch, ctypes)."""

import ctypes
import threading
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import finalize

import structlog
import torch
from torch import Tensor

from tunesmith.kernel.compiled import compiled
from tunesmith.training.loop.native.structs import (
    Attention,
    Factor,
    Gated,
    Heads,
    LowRank,
    Norm,
    Outer,
    Outers,
    Product,
    Rotary,
    Softmax,
    Sums,
)

SILU, GELU_TANH = 1, 2  # as gated.h has them
KINDS = {torch.float16: 1, torch.bfloat16: 2}
# AVX-512 multiplies float32 as fast as the kernels of float32 multiply integers
_FASTER_ON = "AVX2"
_MOST_DIM = 256  # ATTENTION_DIM in attention.h
_TALL, _WIDE = {torch.float32: 6, torch.bfloat16: 32}, 16  # rows and ranks of a middle; see fixed.h
_SHARED = ("pairs_16.h", "pool.c", "pool.h", "vector.h", "wide.c", "wide.h")  # the engine's
_ENDINGS = {torch.float32: "", torch.bfloat16: "_16"}
_FUNCTIONS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "frozen_scratch": ((c_void_p, POINTER(Product)), c_int64),
    "frozen_product": ((c_void_p, POINTER(Product)), None),
    "outer_scratch": ((POINTER(Outers),), c_int64),
    "outer_products": ((c_void_p, POINTER(Outers)), None),
    "attention_room": ((POINTER(Attention), c_int), c_int64),
    "attention_forward": ((c_void_p, POINTER(Attention)), None),
    "attention_backward": ((c_void_p, POINTER(Attention)), None),
    "gated_forward": ((c_void_p, POINTER(Gated)), None),
    "gated_backward": ((c_void_p, POINTER(Gated)), None),
    "norm_forward": ((c_void_p, POINTER(Norm)), None),
    "norm_backward": ((c_void_p, POINTER(Norm)), None),
    "rotary": ((c_void_p, POINTER(Rotary)), None),
    "softmax_parts": ((c_void_p, POINTER(Softmax)), None),
}

log = structlog.get_logger(__name__)


class Library:
    """Its functions for one number format, and threads of its own. Calls from several threads take turns.

    Attributes:
        computes: float32 or bfloat16, what rows of numbers come in and go out as. What is narrow beside them (what has
            one number a rank, a row or a score's row) is float32.
    """

    def __init__(self, functions: ctypes.CDLL, threads: int, computes: torch.dtype = torch.float32) -> None:
        self.computes = computes
        self._functions = SimpleNamespace(
            **{name: _bound(functions, name + _ENDINGS[computes], *types) for name, types in _FUNCTIONS.items()}
        )
        self._lock = threading.Lock()
        functions.pool_new.argtypes, functions.pool_new.restype = (c_int,), c_void_p
        functions.pool_free.argtypes, functions.pool_free.restype = (c_void_p,), None
        self._pool = functions.pool_new(threads)
        if not self._pool:
            raise MemoryError("no memory for the trainer's threads")
        # not as the process ends: a thread that nobody waits for may still be in a product
        finalize(self, functions.pool_free, self._pool).atexit = False

    def product(
        self, x_NK: Tensor, weight_KO: Tensor, bias_O: Tensor | None = None, *, wide: bool = False,
        onto: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``x @ weight + bias``, (N, O), added to ``onto`` where that is given.

        Args:
            x_NK: in the library's number format.
            weight_KO: bfloat16, or float16 for the library of float32; contiguous or the transpose of what is.
            wide: float32 is to come out, whatever the library computes. With ``onto`` its format decides.
        """
        return self._made(x_NK, weight_KO, bias_O, None, onto, wide=wide)[0]

    def product_beside(
        self, x_NK: Tensor, weight_KO: Tensor, low: LowRank, bias_O: Tensor | None = None, onto_NO: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``x @ weight + bias`` and the branch, added to ``onto_NO`` where that is given; and the branch's middle."""
        return self._made(x_NK, weight_KO, bias_O, low, onto_NO)

    def _made(
        self, x_NK: Tensor, weight_KO: Tensor, bias_O: Tensor | None, low: LowRank | None, onto_NO: Tensor | None, *,
        wide: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        plain = weight_KO.is_contiguous()
        assert plain or weight_KO.t().is_contiguous()
        assert x_NK.dtype is self.computes and weight_KO.dtype in KINDS
        x_NK, bias_O = x_NK.contiguous(), None if bias_O is None else bias_O.float().contiguous()
        (rows, inner), columns, rank = x_NK.shape, weight_KO.shape[1], 0 if low is None else low.first.shape[1]
        y_NO = (
            torch.empty(rows, columns, dtype=torch.float32 if wide else self.computes) if onto_NO is None else onto_NO
        )
        assert y_NO.is_contiguous() and y_NO.shape == (rows, columns) and y_NO.dtype in (self.computes, torch.float32)
        tall = _TALL[self.computes]
        middle = torch.empty(-(-rows // tall) * tall, -(-rank // _WIDE) * _WIDE)
        product = Product(
            x_NK.data_ptr(), weight_KO.data_ptr(), y_NO.data_ptr(), None, None if bias_O is None else bias_O.data_ptr(),
            middle.data_ptr(), rows=rows, inner=inner, columns=columns, rank=rank, kind=KINDS[weight_KO.dtype],
            plain=plain, added=onto_NO is not None, wide=y_NO.dtype is torch.float32,
        )  # fmt: skip
        if low is not None:
            product.first = Factor.of(low.first, low.first_scale)
            product.second = Factor.of(low.second, low.second_scale)
        packed = torch.empty(self._functions.frozen_scratch(self._pool, product), dtype=torch.int8)
        product.packed = packed.data_ptr()
        with self._lock:
            self._functions.frozen_product(self._pool, product)
        return y_NO, middle[:rows, :rank]

    def outer_products(
        self, grad_NO: Tensor, low_NR: Tensor, x_NK: Tensor, grad_low_NR: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """``grad_low' x`` and ``scale * grad' low``: (R, K) and (O, R), float32, the gradients of a branch's factors.

        The wide ones in the library's number format, the low ones in that or float32.
        """
        rank = low_NR.shape[1]
        A_RK, B_OR = torch.empty(rank, x_NK.shape[1]), torch.empty(grad_NO.shape[1], rank)
        x_NK, grad_NO, low_NR, grad_low_NR = (
            x_NK.contiguous(),
            grad_NO.contiguous(),
            low_NR.float(),
            grad_low_NR.float(),
        )
        assert x_NK.dtype is grad_NO.dtype is self.computes
        both = Outer.of(x_NK, grad_low_NR, A_RK.t(), 1.0), Outer.of(grad_NO, low_NR, B_OR, scale)
        outers = Outers(both, len(x_NK))
        if self._functions.outer_scratch is not None:
            packed = torch.empty(self._functions.outer_scratch(outers), dtype=torch.int8)
            outers.packed = packed.data_ptr()
        with self._lock:
            self._functions.outer_products(self._pool, outers)
        return A_RK, B_OR

    def attention(
        self, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, lengths_E: Tensor, scale: float, window: int
    ) -> tuple[Tensor, Tensor]:
        """Causal attention in each of the examples that lie one after the other: (T, H, D), and what its gradient needs.

        Args:
            q_THD, k_TGD, v_TGD: as the library computes, D contiguous and such that ``attends``, H a multiple of G.
            lengths_E: int64, of the examples. window: tokens seen, the own one the last of them; 0 for all.
        """
        tokens, heads, _ = q_THD.shape
        out_THD, shares_HT2 = torch.empty(q_THD.shape, dtype=q_THD.dtype), torch.empty(heads, tokens, 2)
        job = _attention(q_THD, k_TGD, v_TGD, out_THD, shares_HT2, lengths_E, scale, window)
        self._attend(self._functions.attention_forward, job, False)
        return out_THD, shares_HT2

    def attention_back(
        self, grad_THD: Tensor, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, out_THD: Tensor, shares_HT2: Tensor,
        lengths_E: Tensor, scale: float, window: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of ``attention``'s queries, keys and values from that of its first result."""
        job = _attention(q_THD, k_TGD, v_TGD, out_THD, shares_HT2, lengths_E, scale, window)
        dq_THD, dk_TGD, dv_TGD = (torch.empty(x.shape, dtype=x.dtype) for x in (q_THD, k_TGD, v_TGD))
        job.grad = Heads.of(grad_THD)
        job.dq, job.dk, job.dv = dq_THD.data_ptr(), dk_TGD.data_ptr(), dv_TGD.data_ptr()
        self._attend(self._functions.attention_backward, job, True)
        return dq_THD, dk_TGD, dv_TGD

    def _attend(self, function: Any, job: Attention, back: bool) -> None:
        room = torch.empty(self._functions.attention_room(job, back), dtype=torch.int8)
        job.room = room.data_ptr()
        with self._lock:
            function(self._pool, job)

    def gated(self, gate_NF: Tensor, up_NF: Tensor, activation: int) -> Tensor:
        """``act(gate) * up``; all contiguous.

        Args:
            activation: ``SILU`` or ``GELU_TANH``.
        """
        assert self._made_for(gate_NF, up_NF)
        product_NF = torch.empty_like(gate_NF)
        gated = Gated(
            gate_NF.data_ptr(), up_NF.data_ptr(), product_NF.data_ptr(), count=gate_NF.numel(), activation=activation
        )
        with self._lock:
            self._functions.gated_forward(self._pool, gated)
        return product_NF

    def gated_back(
        self, grad_NF: Tensor, gate_NF: Tensor, up_NF: Tensor, activation: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of gate and up from that of ``gated``, which gate's overwrites; and ``gated`` again."""
        assert self._made_for(grad_NF, gate_NF, up_NF)
        product_NF, grad_up_NF = torch.empty_like(gate_NF), torch.empty_like(gate_NF)
        given = (each.data_ptr() for each in (gate_NF, up_NF, product_NF, grad_NF, grad_up_NF))
        gated = Gated(*given, gate_NF.numel(), activation)
        with self._lock:
            self._functions.gated_backward(self._pool, gated)
        return grad_NF, grad_up_NF, product_NF

    def norm(self, x_ND: Tensor, scale_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """``scale * x / root``, the root of the mean of each row's squares and ``eps``; one over it, (N,).

        All contiguous, the scale and what is one over the root float32.
        """
        assert self._made_for(x_ND) and scale_D.is_contiguous() and scale_D.dtype is torch.float32
        y_ND, over_N = torch.empty_like(x_ND), torch.empty(len(x_ND))
        norm = Norm(x_ND.data_ptr(), scale_D.data_ptr(), None, y_ND.data_ptr(), over_N.data_ptr(), *x_ND.shape, eps)
        with self._lock:
            self._functions.norm_forward(self._pool, norm)
        return y_ND, over_N

    def norm_back(self, grad_ND: Tensor, x_ND: Tensor, scale_D: Tensor, over_N: Tensor) -> Tensor:
        """The gradient of ``x``, of what ``norm`` found."""
        assert self._made_for(grad_ND, x_ND)
        out_ND = torch.empty_like(x_ND)
        norm = Norm(
            x_ND.data_ptr(), scale_D.data_ptr(), grad_ND.data_ptr(), out_ND.data_ptr(), over_N.data_ptr(), *x_ND.shape
        )
        with self._lock:
            self._functions.norm_backward(self._pool, norm)
        return out_ND

    @property
    def turns(self) -> bool:
        """Whether ``turned`` is there in this number format."""
        return self._functions.rotary is not None

    def turned(self, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, back: bool = False) -> Tensor:
        """Each token's heads turned by its angles, or turned back, as the gradient is; (T, H, D), contiguous.

        Args:
            x_THD: D contiguous and even.
        """
        tokens, _, dim = x_THD.shape
        assert x_THD.dtype is self.computes and x_THD.stride(2) == 1 and dim % 2 == 0
        assert self._made_for(cos_TD, sin_TD) and cos_TD.shape == sin_TD.shape == (tokens, dim)
        y_THD = torch.empty(x_THD.shape, dtype=self.computes)
        rotary = Rotary(
            *(each.data_ptr() for each in (x_THD, cos_TD, sin_TD, y_THD)), *x_THD.shape, *x_THD.stride()[:2], back
        )
        with self._lock:
            self._functions.rotary(self._pool, rotary)
        return y_THD

    def softmax_parts(
        self, x_NV: Tensor, sums: Sums, labels_N: Tensor, first: int, shares_NV: Tensor | None = None
    ) -> Tensor:
        """Turns ``x_NV``, a block of columns, into ``exp(x - most)``; by what earlier blocks' are to be multiplied, (N,).

        Args:
            x_NV: float32, contiguous. sums: of the blocks before this, which is taken in.
            labels_N: int64, columns. first: the block's first column.
            shares_NV: takes the exponentials where the library is of bfloat16; ``x_NV`` is then left as it was.
        """
        assert x_NV.is_contiguous() and labels_N.is_contiguous() and labels_N.dtype is torch.int64
        assert shares_NV is None or (self._made_for(shares_NV) and shares_NV.shape == x_NV.shape)
        factor_N = torch.empty_like(sums.most)
        softmax = Softmax(
            x_NV.data_ptr(), None if shares_NV is None else shares_NV.data_ptr(),
            *(each.data_ptr() for each in (sums.most, sums.total, factor_N, sums.chosen, labels_N)), *x_NV.shape, first,
        )  # fmt: skip
        with self._lock:
            self._functions.softmax_parts(self._pool, softmax)
        return factor_N

    def _made_for(self, *matrices: Tensor) -> bool:
        return all(each.dtype is self.computes and each.is_contiguous() for each in matrices)


def attends(dim: int) -> bool:
    """Whether the attention is made for heads of so many numbers."""
    return dim % 8 == 0 and 0 < dim <= _MOST_DIM


def _attention(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, out_THD: Tensor, shares_HT2: Tensor, lengths_E: Tensor, scale: float,
    window: int,
) -> Attention:  # fmt: skip
    (tokens, heads, dim), kv_heads = q_THD.shape, k_TGD.shape[1]
    assert int(lengths_E.sum()) == tokens and heads % kv_heads == 0
    assert k_TGD.shape == v_TGD.shape == (tokens, kv_heads, dim)
    return Attention(
        *map(Heads.of, (q_THD, k_TGD, v_TGD)), out=out_THD.data_ptr(), shares=shares_HT2.data_ptr(),
        lengths=lengths_E.data_ptr(), examples=len(lengths_E), tokens=tokens, window=window, heads=heads,
        kv_heads=kv_heads, dim=dim, scale=scale,
    )  # fmt: skip


def _bound(functions: ctypes.CDLL, name: str, arguments: tuple[Any, ...], result: Any) -> Any:
    function = getattr(functions, name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, result
    return function


@cache
def library(computes: torch.dtype = torch.float32) -> Library | None:
    """The library, with as many threads as torch has; None where torch is to compute in that number format."""
    why = reason(computes)
    if why:
        log.info("torch computes", format=str(computes).removeprefix("torch."), why=why)
        return None
    return Library(loaded(), torch.get_num_threads(), computes)


def library_for(x: Tensor) -> Library | None:
    """The library where it computes with numbers like these, on the processor."""
    return library(x.dtype) if x.dtype in _ENDINGS and x.device.type == "cpu" else None


def reason(computes: torch.dtype = torch.float32) -> str:
    """Why the library is not used in that number format; "" where it is."""
    try:
        functions = loaded()
    except OSError as error:
        return str(error)
    if computes is torch.bfloat16:
        return "" if functions.wide_tiles() else "the processor has no tiles of bfloat16"
    processor = torch.backends.cpu.get_cpu_capability()
    return "" if processor == _FASTER_ON else f"the processor has {processor}"


def loaded() -> ctypes.CDLL:
    """The compiled functions. Raises OSError where they cannot be used."""
    folder = Path(__file__).parent
    shared = folder.parents[2] / "inference/worker/native"
    sources = [*sorted(folder.glob("*.[ch]")), *(shared / name for name in _SHARED)]
    return compiled(folder / "kernels.so", sources, "trainer_sources", torch.backends.cpu.get_cpu_capability())
