"""Memory that is given back as soon as it is not used: of files that are mapped, and what the C library keeps."""

import ctypes
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import Tensor

_PAGE = 4096
_DONT_NEED = 4  # MADV_DONTNEED


def let_go(tensors: Iterable[Tensor]) -> None:
    """Give back the pages that lie whole in a safetensors file's mapping; they are read again when they are used.

    transformers maps a checkpoint instead of copying it. What was once looked at would count as this process's memory
    for as long as one weight of the file is used.
    """
    give_back(pages_of(tensors))


def pages_of(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """The pages that lie whole in a safetensors file's mapping: (first address, address after the last) of each tensor."""
    if not sys.platform.startswith("linux"):
        return []
    mapped = list(_mappings())
    found = []
    for tensor in tensors:
        if tensor.device.type != "cpu":
            continue
        begin = -(-tensor.data_ptr() // _PAGE) * _PAGE
        end = (tensor.data_ptr() + tensor.nbytes) // _PAGE * _PAGE
        # Only of files: giving them back would wipe other memory.
        if begin < end and any(low <= begin and end <= high for low, high in mapped):
            found.append((begin, end))
    return found


def give_back(pages: Iterable[tuple[int, int]]) -> None:
    """Count pages of a mapped file as this process's no more, until they are read again."""
    for begin, end in pages:
        _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONT_NEED)


def let_go_of_code() -> None:
    """Give back the pages of libraries' code; those that are run again come back from the system's cache of files.

    Importing torch touches four times as much of it as steps do.
    """
    if not sys.platform.startswith("linux"):
        return
    code: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if fields[0] == "Anonymous:":
            if code is not None and fields[1] == "0":  # no page of it was changed, so the file has all of it
                _libc().madvise(ctypes.c_void_p(code[0]), ctypes.c_size_t(code[1] - code[0]), _DONT_NEED)
            code = None
        elif not fields[0].endswith(":"):
            low, _, high = fields[0].partition("-")
            runs = len(fields) == 6 and fields[1] == "r-xp" and fields[5].startswith("/")
            code = (int(low, 16), int(high, 16)) if runs else None


def trim() -> None:
    """Give the system what the C library keeps of memory that was freed; loading frees as much as it keeps."""
    if sys.platform.startswith("linux") and hasattr(_libc(), "malloc_trim"):  # musl has none
        _libc().malloc_trim(0)


def _mappings() -> Iterable[tuple[int, int]]:
    """Where files of weights are mapped: (first address, address after the last). Nothing writes to mapped weights."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].endswith(".safetensors"):
            low, _, high = fields[0].partition("-")
            yield int(low, 16), int(high, 16)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
