"""Rows of JSON Lines and of one big JSON array, a piece of the file at a time.

Row borders of an array are guessed from the border before and proved by decoding; where the guess fails, one compiled
pattern runs over everything between two brackets at once. Python sees a bracket, never a character.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.rows import (
    DEPTH_LIMIT,
    ROW_LIMIT,
    Reading,
    doubled_key,
    not_utf8,
    refused,
    too_deep,
    too_long,
    why_not_json,
    with_doubled_key,
)

CHUNK = 1 << 20
_SPACE = re.compile(rb"[ \t\r\n]*+")
# everything up to the next bracket; stops at a quote only when its string has not ended yet. Possessive: no backtracking
_FLAT = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL)
_SCALAR = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s"{}\[\],]++)', re.DOTALL)
# the end of one object and the beginning of the next with its first key
_BORDER = re.compile(rb'\}[ \t\r\n]*+,[ \t\r\n]*+\{[ \t\r\n]*+"[^"\\]{1,64}"')
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder().decode


def json_rows(file: BinaryIO, label: str, *, lines: bool) -> Iterator[Reading]:
    """Rows of JSON text, array or lines, whichever the file holds.

    Args:
        file: seekable, standing after any byte order mark.
        lines: the file says it is JSON Lines: a broken first line is then a bad row, not a broken file.

    Raises:
        Invalid: while iterating; the text is not JSON of either kind. A bad line of JSON Lines is a BadRow instead; in
            an array nothing after a syntax error can be trusted, so the file is refused.
    """
    start, line, array = begin(file, label, lines=lines)
    if array:
        yield from _Array(file, label, start, line).rows()
    else:
        yield from line_rows(file, label, start, line)


def begin(file: BinaryIO, label: str, *, lines: bool) -> tuple[int, int, bool]:
    """Offset and line of the first row or bracket, and whether it is the bracket of an array.

    The file is left standing there.

    Raises:
        Invalid: it holds one object written over several lines.
    """
    start, line, first = first_byte(file)
    if first == b"{":
        _refuse_spread_object(file, label, line, lines=lines)
        file.seek(start)
    return start, line, first == b"["


def first_byte(file: BinaryIO) -> tuple[int, int, bytes]:
    """Offset, line and value of the first byte that is no white space; the file is left standing on it."""
    offset, line = file.tell(), 1
    while chunk := file.read(CHUNK):
        found = _SPACE.match(chunk)
        end = found.end() if found else 0
        line += chunk.count(b"\n", 0, end)
        offset += end
        if end < len(chunk):
            file.seek(offset)
            return offset, line, chunk[end : end + 1]
    return offset, line, b""


def _refuse_spread_object(file: BinaryIO, label: str, line: int, *, lines: bool) -> None:
    """Refuse one object written over several lines: it holds no rows we could stream."""
    first = file.readline(ROW_LIMIT + 1)
    opening = first.strip()
    if len(first) > ROW_LIMIT or opening.endswith(b"}") or (lines and opening != b"{") or _is_row(opening):
        return
    key = re.search(rb'"([^"\\]{1,60})"\s*:\s*\[', first + file.read(4096))
    zh, en = "请写成对象的数组，或每行一个对象", "write an array of objects, or one object a line"
    if key:
        name = repr(key[1].decode(errors="replace"))
        zh, en = f"请只保存其中的列表 {name}", f"save the list {name} inside it alone"
    raise refused(
        label, line, f"文件是一个 JSON 对象，不是数据行；{zh}", f"the file is one JSON object, not rows; {en}"
    )


def _is_row(line: bytes) -> bool:
    """Whether there is a row on the line, and a comma that does not belong there."""
    try:
        return line.endswith(b",") and type(_decode(line[:-1])) is dict
    except _DECODE_ERRORS:
        return False


def line_rows(file: BinaryIO, label: str, offset: int, number: int, end: int | None = None) -> Iterator[Reading]:
    """Rows of JSON Lines from where ``file`` stands.

    Args:
        offset, number: byte and line the first row begins on, for messages.
        end: rows that begin here or later are not read; None reads to the end of the file.
    """
    while (end is None or offset < end) and (line := file.readline(ROW_LIMIT + 1)):
        if len(line) > ROW_LIMIT and not line.endswith(b"\n"):
            yield BadRow(Source(label, number), "", *too_long(), row=line[:1000].decode(errors="replace"))
            while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
                offset += len(rest)
            offset += len(rest)
        elif not line.isspace():
            try:
                row = _decode(line)
            except _DECODE_ERRORS as error:
                reason = why_not_json(line, error, offset)
                yield BadRow(Source(label, number), *reason, row=line.decode(errors="replace").rstrip("\r\n"))
            else:
                key = doubled_key(line, row)
                yield (number, row) if key is None else with_doubled_key(label, number, key, line)
        offset += len(line)
        number += 1


class _Array:
    """A cursor in the text of one JSON array; ``at`` indexes ``buffer``, ``offset`` is where ``buffer`` begins."""

    def __init__(self, file: BinaryIO, label: str, offset: int, line: int) -> None:
        self.file, self.label, self.offset, self.line = file, label, offset, line
        self.buffer, self.at = b"", 0
        self.border, self.reach = b"", 0

    def rows(self) -> Iterator[Reading]:
        """Every element, decoded, with the line it begins on."""
        self._next()
        self._advance(self.at + 1)
        if (first := self._next()) == b"]":
            self._end()
            return
        if first in b",":
            raise self._broken(
                first, "数组以逗号开头；请删去逗号", "a row is missing before the comma; remove the comma"
            )
        while True:
            line = self.line
            size, value = self._guessed() or self._found()
            data = self.buffer[self.at : self.at + size]
            key = doubled_key(data, value)
            yield (line, value) if key is None else with_doubled_key(self.label, line, key, data)
            self._advance(self.at + size)
            after = self._next()
            if after == b"]":
                self._end()
                return
            if after != b",":
                raise self._broken(after, "两行之间缺少逗号；请补上逗号", "a comma is missing between two rows; add it")
            self._advance(self.at + 1)
            if (after := self._next()) in b",]":
                raise self._broken(
                    after, "逗号之后缺少数据行；请删去多余的逗号", "a row is missing after the comma; remove the comma"
                )

    def _guessed(self) -> tuple[int, object] | None:
        """Size and value of the element ``at`` stands on, if it ends the way the one before did.

        Decoding proves the guess: no beginning of a JSON object is itself an object. Files are regular enough for the
        guess to be right nearly always, and it costs a tenth of looking for brackets.
        """
        if not self.border:
            return None
        # not much further than one element: an irregular file must not be searched again and again
        end = self.buffer.find(self.border, self.at, self.at + self.reach) + 1
        if not 0 < end - self.at <= ROW_LIMIT:
            return None
        try:
            return end - self.at, _decode(self.buffer[self.at : end])
        except _DECODE_ERRORS:
            return None

    def _found(self) -> tuple[int, object]:
        """Size and value of the element ``at`` stands on, by its brackets."""
        data = self._element()
        try:
            value = _decode(data)
        except _DECODE_ERRORS as error:
            field, zh, en = why_not_json(data, error, self.offset + self.at)
            raise refused(self.label, self.line, zh, en, field=field) from None
        border = _BORDER.match(self.buffer, self.at + len(data) - 1)
        self.border, self.reach = border[0] if border else b"", 4 * len(data) + 4096
        return len(data), value

    def _end(self) -> None:
        self._advance(self.at + 1)
        if self._next():
            raise refused(
                self.label,
                self.line,
                "数组结束之后还有内容；请合并为一个数组",
                "there is more after the end of the array; join it into one array",
            )

    def _broken(self, after: bytes, zh: str, en: str) -> Exception:
        if not after:
            zh, en = (
                "文件在数组结束之前中断（缺少 ]）；请重新获取完整的文件",
                "the file ends inside the array (no closing ]); fetch or write the whole file again",
            )
        return refused(self.label, self.line, zh, en)

    def _more(self) -> bool:
        """Read on; what lies before ``at`` is let go. False at the end of the file."""
        chunk = self.file.read(CHUNK)
        self.buffer = self.buffer[self.at :] + chunk
        self.offset += self.at
        self.at = 0
        return bool(chunk)

    def _advance(self, to: int) -> None:
        self.line += self.buffer.count(b"\n", self.at, to)
        self.at = to

    def _next(self) -> bytes:
        """Skip white space; the byte there, or nothing at the end of the file."""
        while True:
            found = _SPACE.match(self.buffer, self.at)
            self._advance(found.end() if found else self.at)
            if self.at < len(self.buffer):
                return self.buffer[self.at : self.at + 1]
            if not self._more():
                return b""

    def _element(self) -> bytes:
        """The bytes of the element ``at`` stands on."""
        if self.buffer[self.at : self.at + 1] not in b"{[":
            return self._scalar()
        depth, here = 0, self.at
        while True:
            flat = _FLAT.match(self.buffer, here)
            here = flat.end() if flat else here
            bracket = self.buffer[here : here + 1]
            if bracket in (b"{", b"["):
                depth += 1
                if depth > DEPTH_LIMIT:
                    raise refused(self.label, self.line, *too_deep())
            elif bracket in (b"}", b"]"):
                depth -= 1
                if depth == 0:
                    return self._taken(here + 1)
            else:  # inside a string, or at the end of what was read
                here = self._grown(here)
                continue
            here += 1

    def _scalar(self) -> bytes:
        here = self.at
        while True:
            found = _SCALAR.match(self.buffer, here)
            if found and found.end() < len(self.buffer):
                return self._taken(found.end())
            if not found and self.buffer[here : here + 1] != b'"':
                raise refused(
                    self.label,
                    self.line,
                    "缺少数据行；请删去多余的逗号或补上数据行",
                    "a row is missing; add it, or remove the comma",
                )
            here = self._grown(here)

    def _grown(self, here: int) -> int:
        """Read on within one element; the new index of ``here``."""
        self._check_size(here)
        here -= self.at
        if not self._more():
            zh, en = (
                "从这一行开始的引号或括号没有闭合；请补全这一行，或重新获取完整的文件",
                "a quote or bracket of the row that begins here is never closed; complete it, or fetch the whole file again",
            )
            raise refused(self.label, self.line, *(not_utf8(self.buffer, self.offset) or (zh, en)))
        return here

    def _taken(self, end: int) -> bytes:
        self._check_size(end)
        return self.buffer[self.at : end]

    def _check_size(self, end: int) -> None:
        if end - self.at <= ROW_LIMIT and len(self.buffer) - self.at <= ROW_LIMIT + CHUNK:
            return
        reason = not_utf8(self.buffer[self.at : self.at + ROW_LIMIT], self.offset + self.at)
        if reason is None:
            zh, en = too_long()
            reason = f"{zh}（或引号、括号没有闭合）", f"{en} (or a quote or bracket of it is never closed)"
        raise refused(self.label, self.line, *reason)
