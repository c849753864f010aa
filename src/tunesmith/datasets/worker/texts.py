"""Texts out of lines as we write them, many at once: numpy works on their bytes, Python sees no line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BEGIN = b'{"messages":[{"role":"user","content":"'
_BETWEEN = b'"},{"role":"assistant","content":"'
_END = b'"}]}\n'
# bytes no text of a line holds: JSON escapes them
_GONE, _ANSWER, _LINE = b"\x00", b"\x01", b"\x02"
_BACKSLASH, _QUOTE = ord("\\"), ord('"')
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t", "r": "\r"}
_MEANT = bytes(ord(_ESCAPES.get(chr(byte), "\0")) for byte in range(256))


def pairs_of(lines: bytes) -> tuple[Any, bytearray] | None:
    """The questions and answers of ``lines``, in turn.

    Args:
        lines: whole lines, each one JSON object without white space, as msgspec writes it.

    Returns:
        Where each text begins and the last one ends (int32), and all the texts in UTF-8; None unless every line is one
        turn of the user and one of the assistant, with no escape but the common ones.
    """
    import numpy as np

    if not lines.startswith(_BEGIN) or not lines.endswith(_END):
        return None
    bare = bytearray(lines[len(_BEGIN) : -len(_END)].replace(_END + _BEGIN, _LINE).replace(_BETWEEN, _ANSWER))
    data = np.frombuffer(bare, dtype=np.uint8)
    escapes = _escapes(data)
    if len(escapes):
        if escapes[-1] + 1 == len(data):
            return None
        meant = np.frombuffer(_MEANT, dtype=np.uint8)[data[escapes + 1]]
        if not meant.all():
            return None
    else:
        meant = data[:0]
    # a quote that is not escaped is one of JSON: there is more in a line than two texts
    if np.count_nonzero(data == _QUOTE) != np.count_nonzero(meant == _QUOTE):
        return None
    borders = np.flatnonzero(data <= _LINE[0])
    if len(borders) % 2 == 0 or (data[borders[::2]] != _ANSWER[0]).any() or (data[borders[1::2]] != _LINE[0]).any():
        return None
    data[escapes + 1] = meant
    data[escapes] = _GONE[0]
    before = np.searchsorted(escapes, borders) + np.arange(len(borders))  # bytes dropped before each border
    size = len(bare) - len(escapes) - len(borders)
    offsets = np.concatenate([[0], borders - before, [size]]).astype(np.int32)
    return offsets, bare.translate(None, _GONE + _ANSWER + _LINE)


def _escapes(data: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.int64]":
    """Where a backslash begins an escape: every other one of those in a row."""
    import numpy as np

    found = np.flatnonzero(data == _BACKSLASH)
    number = np.arange(len(found))
    first = np.diff(found, prepend=-2) > 1
    in_a_row = number - np.maximum.accumulate(np.where(first, number, 0))
    begins: npt.NDArray[np.int64] = found[in_a_row % 2 == 0]
    return begins
