"""The compiled library, as ctypes sees it: its structs (product.h, step.h) and its functions."""

import ctypes
import threading
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path
from weakref import finalize

import structlog
import torch
from torch import Tensor

from tunesmith.kernel.compiled import compiled

PANEL = 16
SITES = 4  # products of a layer: q with k and v, out, gate with up, down
SILU, GELU = 0, 1
LINE = 64  # bytes; panels of compressed weights begin with one

log = structlog.get_logger(__name__)


class Kind(IntEnum):
    """How weights lie in memory and are multiplied; see product.h. Those of tiles are for a library with ``tiles``."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8 = 3
    BFLOAT16_COMPRESSED = 4
    BFLOAT16_TILES = 5
    INT8_TILES = 6
    TILES_COMPRESSED = 7

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are packed."""
        return _TYPES.get(self, torch.bfloat16)

    @property
    def tiled(self) -> bool:
        return self >= Kind.BFLOAT16_TILES


_TYPES = {
    Kind.FLOAT32: torch.float32,
    Kind.FLOAT16: torch.float16,
    Kind.INT8: torch.int8,
    Kind.INT8_TILES: torch.int8,
}
_WHOLE = {Kind.INT8: 4, Kind.BFLOAT16_TILES: 32, Kind.INT8_TILES: 64}  # inputs are filled up to a multiple of it


class Product(Structure):
    """See product.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("begin", c_void_p),
        ("kind", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
    )


class Part(Structure):
    """See step.h, as all below."""

    _fields_ = (("begin", c_int32), ("end", c_int32), ("low", c_int32), ("high", c_int32), ("b", c_void_p))


class Worn(Structure):
    _fields_ = (("a", c_void_p), ("parts", POINTER(Part)), ("ranks", c_int32), ("count", c_int32))


class Layer(Structure):
    _fields_ = (
        ("products", Product * SITES),
        ("before_attention", c_void_p),
        ("after_attention", c_void_p),
        ("before_mlp", c_void_p),
        ("after_mlp", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("scaling", c_float),
        ("window", c_int32),
        ("rotary", c_int32),
    )


class Embedding(Structure):
    """See embedding.h."""

    _fields_ = (("table", Product), ("scale", c_float), ("panels", c_int32))


class Model(Structure):
    _fields_ = (
        ("layers", POINTER(Layer)),
        ("embedding", Embedding),
        ("head", Product),
        ("norm", c_void_p),
        ("eps", c_float),
        ("count", c_int32),
        ("width", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_width", c_int32),
        ("inner", c_int32),
        ("activation", c_int32),
        ("cached", c_int32),
    )


class Row(Structure):
    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("slot", c_int64),
        ("capacity", c_int64),
        ("begin", c_int32),
        ("end", c_int32),
        ("start", c_int32),
    )


class Segment(Structure):
    _fields_ = (("begin", c_int32), ("end", c_int32), ("worn", c_void_p))


class Step(Structure):
    _fields_ = (
        ("tokens", c_int32),
        ("rows", c_int32),
        ("segments", c_int32),
        ("kept", c_int32),
        ("token", c_void_p),
        ("cos", c_void_p * 2),
        ("sin", c_void_p * 2),
        ("turn", c_void_p),
        ("rotated", c_int32 * 2),
        ("row", POINTER(Row)),
        ("segment", POINTER(Segment)),
        ("keep", POINTER(c_int32)),
        ("logits", c_void_p),
        ("likeliest", POINTER(c_int32)),
    )


def packed_shape(kind: Kind, outputs: int, inputs: int) -> tuple[int, int, int]:
    """Of weights as they are multiplied: whole panels, and of some kinds whole fours or tiles of inputs."""
    whole = _WHOLE.get(kind, 1)
    return -(-outputs // PANEL), -(-inputs // whole) * whole, PANEL


class Library:
    """The functions, and threads of their own that they share. Calls from several threads take turns.

    Attributes:
        tiles: the processor multiplies tiles (AMX) of bfloat16 and of 8 bits.
    """

    def __init__(self, functions: ctypes.CDLL, threads: int) -> None:
        functions.engine_new.argtypes, functions.engine_new.restype = (c_int,), c_void_p
        functions.engine_free.argtypes, functions.engine_free.restype = (c_void_p,), None
        functions.engine_product.argtypes = (c_void_p, POINTER(Product), c_void_p, c_int, c_void_p)
        functions.engine_pack.argtypes = (c_void_p, c_int, c_void_p, c_int, c_int, c_void_p)
        functions.engine_pack.restype = None
        functions.engine_compress.argtypes = (c_void_p, c_int, c_void_p, c_int, c_int, *[c_void_p] * 3)
        functions.engine_round.argtypes = (c_void_p, c_int, c_void_p, c_int, c_int, c_void_p, c_void_p)
        functions.engine_round.restype = None
        functions.engine_embedded.argtypes = (POINTER(Embedding), c_void_p, c_int, c_void_p)
        functions.engine_step.argtypes = (c_void_p, POINTER(Model), POINTER(Step))
        self._functions, self._lock = functions, threading.Lock()
        self.tiles = bool(functions.engine_tiles())
        self._engine = functions.engine_new(threads)
        if not self._engine:
            raise MemoryError("no memory for the engine's threads")
        # not as the process ends: a thread that nobody waits for may still be in a step
        finalize(self, functions.engine_free, self._engine).atexit = False

    def pack(self, kind: Kind, weight_OI: Tensor, packed: Tensor) -> None:
        """Write weights of that kind's type as they are multiplied: of ``packed_shape``, and the same type."""
        weight_OI = weight_OI.contiguous()
        outputs, inputs = weight_OI.shape
        with self._lock:
            self._functions.engine_pack(self._engine, kind, weight_OI.data_ptr(), outputs, inputs, packed.data_ptr())

    def compress(
        self, kind: Kind, weight_OI: Tensor, upper: Tensor, begin: Tensor, packed: Tensor | None = None
    ) -> None:
        """See what weights will take as one of the compressed kinds, or write them after that.

        Args:
            weight_OI: bfloat16, whole panels but for the last of a product.
            upper: (panels, 16), uint8: for the writing.
            begin: (panels + 1), int32: where the first lies, in lines; where the others and what follows do is written there.
            packed: bytes of all the product's panels; None to see what they take.
        """
        weight_OI = weight_OI.contiguous()
        addresses = upper.data_ptr(), begin.data_ptr(), None if packed is None else packed.data_ptr()
        with self._lock:
            _check(
                self._functions.engine_compress(self._engine, kind, weight_OI.data_ptr(), *weight_OI.shape, *addresses)
            )

    def round(self, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
        """The weights, float32, float16 or bfloat16, in 8 bits, times ``scale_O``, float32, which is written."""
        weight_OI = weight_OI.contiguous()
        rounded_OI = torch.empty(weight_OI.shape, dtype=torch.int8)
        kind = {torch.float16: Kind.FLOAT16, torch.bfloat16: Kind.BFLOAT16}.get(weight_OI.dtype, Kind.FLOAT32)
        addresses = rounded_OI.data_ptr(), scale_O.data_ptr()
        with self._lock:
            self._functions.engine_round(self._engine, kind, weight_OI.data_ptr(), *weight_OI.shape, *addresses)
        return rounded_OI

    def embedded(self, embedding: Embedding, tokens_T: Tensor) -> Tensor:
        """What it holds of these tokens, (tokens, width), float32."""
        tokens_T = tokens_T.to(torch.int32).contiguous()
        x = torch.empty(len(tokens_T), embedding.table.inputs)
        _check(self._functions.engine_embedded(embedding, tokens_T.data_ptr(), len(tokens_T), x.data_ptr()))
        return x

    def product(self, product: Product, x_TI: Tensor) -> Tensor:
        """``x`` (tokens, in), float32, times the weights: (tokens, out)."""
        x_TI = x_TI.contiguous()
        y_TO = torch.empty(len(x_TI), product.outputs)
        with self._lock:
            done = self._functions.engine_product(self._engine, product, x_TI.data_ptr(), len(x_TI), y_TO.data_ptr())
        _check(done)
        return y_TO

    def step(self, model: Model, step: Step) -> None:
        """Run a step, which says where its results go."""
        with self._lock:
            done = self._functions.engine_step(self._engine, model, step)
        _check(done)


def _check(code: int) -> None:
    if code == -2:
        raise IndexError("a token that is none of the vocabulary's")
    if code:
        raise MemoryError("no memory for a step")


@cache
def library() -> Library | None:
    """The library, with as many threads as torch has; None where there is none for this processor and these sources."""
    try:
        return Library(_loaded(), torch.get_num_threads())
    except OSError as error:
        log.warning("no compiled kernels, torch multiplies", why=str(error))
        return None


def tiles() -> bool:
    """Whether there is a library, and it multiplies tiles."""
    found = library()
    return found is not None and found.tiles


def reason() -> str:
    """Why there is no library; "" where there is one."""
    try:
        _loaded()
    except OSError as error:
        return str(error)
    return ""


def _loaded() -> ctypes.CDLL:
    """Raises OSError where it cannot be used."""
    folder = Path(__file__).parent
    processor = torch.backends.cpu.get_cpu_capability()
    return compiled(folder / "kernels.so", sorted(folder.glob("*.[ch]")), "engine_sources", processor)
