"""Products with frozen weights of 16 bits in block fixed point, through a compiled library (fixed.h); torch, ctypes."""

import ctypes
import threading
from ctypes import POINTER, Structure, c_int, c_int32, c_int64, c_void_p
from functools import cache
from hashlib import sha256
from pathlib import Path
from weakref import finalize

import structlog
import torch
from torch import Tensor

KINDS = {torch.float16: 1, torch.bfloat16: 2}
# AVX-512 multiplies float32 as fast as these kernels multiply integers, and much of it has bfloat16 arithmetic
_FASTER_ON = "AVX2"
_SHARED = ("pool.c", "pool.h", "vector.h")  # the engine's threads

log = structlog.get_logger(__name__)


class Product(Structure):
    """See fixed.h."""

    _fields_ = (
        ("x", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("packed", c_void_p),
        ("rows", c_int64),
        ("inner", c_int64),
        ("columns", c_int64),
        ("kind", c_int32),
        ("plain", c_int32),
    )


class Library:
    """The product, and threads of its own. Calls from several threads take turns."""

    def __init__(self, functions: ctypes.CDLL, threads: int) -> None:
        functions.pool_new.argtypes, functions.pool_new.restype = (c_int,), c_void_p
        functions.pool_free.argtypes, functions.pool_free.restype = (c_void_p,), None
        functions.fixed_scratch.argtypes, functions.fixed_scratch.restype = (c_int64, c_int64), c_int64
        functions.fixed_product.argtypes, functions.fixed_product.restype = (c_void_p, POINTER(Product)), None
        self._functions, self._lock = functions, threading.Lock()
        self._pool = functions.pool_new(threads)
        if not self._pool:
            raise MemoryError("no memory for the trainer's threads")
        # not as the process ends: a thread that nobody waits for may still be in a product
        finalize(self, functions.pool_free, self._pool).atexit = False

    def product(self, x_NK: Tensor, weight_KO: Tensor) -> Tensor:
        """``x @ weight``, (N, O), float32.

        Args:
            x_NK: float32. weight_KO: float16 or bfloat16, contiguous or the transpose of what is.
        """
        plain = weight_KO.is_contiguous()
        assert plain or weight_KO.t().is_contiguous()
        x_NK = x_NK.contiguous()
        (rows, inner), columns = x_NK.shape, weight_KO.shape[1]
        y_NO = torch.empty(rows, columns)
        packed = torch.empty(self._functions.fixed_scratch(rows, inner), dtype=torch.int8)
        product = Product(
            x_NK.data_ptr(), weight_KO.data_ptr(), y_NO.data_ptr(), packed.data_ptr(), rows, inner, columns,
            KINDS[weight_KO.dtype], int(plain),
        )  # fmt: skip
        with self._lock:
            self._functions.fixed_product(self._pool, product)
        return y_NO


@cache
def library() -> Library | None:
    """The library, with as many threads as torch has; None where there is none for this processor and these sources."""
    try:
        return Library(_loaded(), torch.get_num_threads())
    except OSError as error:
        log.info("products in float32", why=str(error))
        return None


def reason() -> str:
    """Why there is no library; "" where there is one."""
    try:
        _loaded()
    except OSError as error:
        return str(error)
    return ""


def _loaded() -> ctypes.CDLL:
    """Raises OSError where it cannot be used."""
    folder, processor = Path(__file__).parent, torch.backends.cpu.get_cpu_capability()
    if processor != _FASTER_ON:
        raise OSError(f"the processor has {processor}")
    functions = ctypes.CDLL(str(folder / "fixed.so"))
    if not hasattr(functions, "fixed_sources"):
        raise OSError("fixed.so is another library")
    functions.fixed_sources.restype = ctypes.c_char_p
    shared = folder.parents[2] / "inference/worker/native"
    sources = [*sorted(folder.glob("*.[ch]")), *(shared / name for name in _SHARED)]
    if functions.fixed_sources() != sha256(b"".join(one.read_bytes() for one in sources)).hexdigest().encode():
        raise OSError("compiled from other sources, install again")
    return functions
