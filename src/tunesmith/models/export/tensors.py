"""Safetensors files read and written one tensor at a time, with numpy alone: never a whole model in memory."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tunesmith.kernel.problems import Invalid

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

FLOATS = ("F32", "F16", "BF16")
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LARGEST_HEADER = 100 << 20  # what the format allows
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: as safetensors writes it: ``BF16``.
        begin: byte of the file where its data begins.
        size: bytes of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    size: int

    def data(self) -> Bytes:
        """Its bytes, mapped from the disk and read as they are touched."""
        if self.size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(self.file, np.uint8, "r", self.begin, (self.size,))

    def floats(self) -> Floats:
        """Its numbers in float32, a copy.

        Raises:
            Invalid: they are not of a floating-point type that loses nothing so.
        """
        if self.dtype not in FLOATS:
            raise broken(self.file, f"{self.name} 的类型是 {self.dtype}", f"{self.name} is {self.dtype}, not a float")
        return widened(self.data(), self.dtype).reshape(self.shape)


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors of the model in ``folder``, in the order they lie in its files: one file, or shards with an index.

    Raises:
        Invalid: a file is missing or damaged, or a tensor comes twice.
    """
    found: dict[str, Stored] = {}
    for file in _files(folder):
        for tensor in read_header(file):
            if tensor.name in found:
                raise broken(file, f"{tensor.name} 出现两次", f"{tensor.name} is in two files")
            found[tensor.name] = tensor
    return found


def read_header(file: Path) -> list[Stored]:
    """The tensors in one file, in the order they lie in it.

    Raises:
        Invalid: it is missing, damaged, or names bytes that are not there.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            if length > min(_LARGEST_HEADER, size - 8):
                raise broken(file, "文件头超出文件", "its header is longer than the file")
            header = msgspec.json.decode(opened.read(length))
        return sorted(_described(file, header, 8 + length, size), key=lambda tensor: tensor.begin)
    except (OSError, struct.error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise broken(file, "无法读取", f"it cannot be read: {error}") from error


def write(file: Path, tensors: Sequence[tuple[str, str, tuple[int, ...]]], data: Callable[[str], NDArray[Any]]) -> None:
    """Write one safetensors file.

    Args:
        tensors: name, dtype and shape of each, in the order to be written.
        data: gives a tensor's bytes by its name; asked for one at a time.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        size = size_of(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, dtype, shape in tensors:
            given = data(name)
            assert given.nbytes == size_of(dtype, shape), name
            np.ascontiguousarray(given).tofile(out)


def size_of(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of such a tensor."""
    return _WIDTHS[dtype] * math.prod(shape)


def widened(data: Bytes, dtype: str) -> Floats:
    """Numbers of one of FLOATS as float32, exactly."""
    if dtype == "F32":
        return data.view("<f4").astype(np.float32)
    if dtype == "F16":
        return data.view("<f2").astype(np.float32)
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def narrowed(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 numbers rounded to one of FLOATS, to the nearest, ties to even.

    Raises:
        OverflowError: a finite number is too large for the type.
    """
    if dtype == "F32":
        return values.astype("<f4", copy=False)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            halved = values.astype("<f2")
        if np.isinf(halved).any() and not np.isinf(values).any():
            raise OverflowError("a weight is too large for float16")
        return halved
    bits = values.astype("<f4", copy=False).view("<u4")
    rounded = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2")


def broken(file: Path, zh: str, en: str) -> Invalid:
    """A file of a model or adapter that cannot be used."""
    return Invalid(f"{file.name} 不可用：{zh}", f"{file.name} cannot be used: {en}", file=str(file))


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; empty where there is no such file.

    Raises:
        Invalid: it cannot be read or is no object.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise broken(file, "无法读取", f"it cannot be read: {error}") from error


def _files(folder: Path) -> list[Path]:
    # some folders hold the same weights again under another name, which transformers does not read either
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    named = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(named, dict) or any(not isinstance(name, str) or "/" in name for name in named.values()):
        raise Invalid(
            f"{folder.name} 中没有 model.safetensors，也没有有效的 {_INDEX}",
            f"{folder.name} holds neither model.safetensors nor a usable {_INDEX}",
        )
    return [folder / name for name in sorted(set(named.values()))]


def _described(file: Path, header: Mapping[str, Any], begin: int, size: int) -> Iterator[Stored]:
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        first, last = facts["data_offsets"]
        shape = tuple(int(length) for length in facts["shape"])
        if facts["dtype"] not in _WIDTHS:
            raise ValueError(f"{name[:100]!r} is of type {facts['dtype']}, which is not known here")
        if not 0 <= first <= last <= size - begin or last - first != size_of(facts["dtype"], shape):
            raise ValueError(f"the place of {name[:100]!r} is wrong")
        yield Stored(name, facts["dtype"], shape, file, begin + first, last - first)
