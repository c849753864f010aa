"""The libraries in C that ``hatch_build.py`` compiles: whether one can be used here, and it."""

import ctypes
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

PROCESSORS = frozenset(
    {"AVX2", "AVX512"}
)  # as torch names them: what the libraries are compiled for, and what has it too


def compiled(library: Path, sources: Iterable[Path], digest: str, processor: str) -> ctypes.CDLL:
    """The library's functions.

    Args:
        sources: what it must have been compiled from, in the order of ``hatch_build.py``: its structs may be others else.
        digest: its function that says what it was compiled from.

    Raises:
        OSError: it cannot be used; the text says why.
    """
    if processor not in PROCESSORS:
        raise OSError(f"the processor has {processor} alone")
    functions = ctypes.CDLL(str(library))
    if not hasattr(functions, digest):
        raise OSError(f"{library.name} is another library")
    told = functions[digest]
    told.restype = ctypes.c_char_p
    if told() != sha256(b"".join(one.read_bytes() for one in sources)).hexdigest().encode():
        raise OSError("compiled from other sources, install again")
    return functions
