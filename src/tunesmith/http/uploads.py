"""Files sent as ``multipart/form-data`` (RFC 7578), handed on piece by piece while they come.

Starlette's own form parser has the whole file on disk before the route sees a byte, so no limit of ours could stop it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tunesmith.kernel.problems import Invalid

_MOST_PARTS = 16
_MOST_HEADER_BYTES = 8 << 10
_MOST_FIELD_BYTES = 64 << 10
_MOST_NAME_BYTES = 1024
_EXTENDED_FILENAME = re.compile(rb"filename\*\s*=\s*utf-8''([^;\s]{1,4096})", re.IGNORECASE)  # RFC 8187
_PIECE = 1 << 20  # parsed and written a piece at a time, each in one hop to a thread


class Sink(Protocol):
    """Where the bytes of the file go."""

    def write(self, data: bytes) -> None:
        """Keep ``data``; called in a thread, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """A form that came whole.

    Attributes:
        fields: text fields by name.
        filename: what the client called the file; hostile.
    """

    fields: Mapping[str, str]
    filename: str


async def read_form(request: Request, open_sink: Callable[[str], Sink], *, field: str = "file") -> Form:
    """Read the form; the file in ``field`` goes to the sink that ``open_sink(filename)`` gives.

    Raises:
        Invalid: no multipart body, not well formed, cut, too many or too large parts, no file or more than one.
        starlette.requests.ClientDisconnect: the client left in the middle.
    """
    parts = _Parts(field, open_sink)
    parser = MultipartParser(_boundary(request), parts.callbacks())  # type: ignore[arg-type]
    waiting = bytearray()

    def parse() -> None:
        try:
            parser.write(bytes(waiting))
        except MultipartParseError as error:
            raise _malformed(str(error)) from None
        waiting.clear()

    async for chunk in request.stream():
        waiting += chunk
        if len(waiting) >= _PIECE:
            await asyncio.to_thread(parse)
    await asyncio.to_thread(parse)
    if not parts.ended:
        raise Invalid(
            "上传内容不完整：表单在结束之前中断", "the upload is cut: the form ends in the middle", reason="cut"
        )
    if parts.filename is None:
        raise Invalid("缺少文件", "the file is missing", field=field, reason="required")
    return Form(parts.fields, parts.filename)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not re.fullmatch(rb"[\x20-\x7e]{1,70}", boundary):
        raise Invalid(
            "请求应为 multipart/form-data",
            "a multipart/form-data body is expected",
            field="content-type",
            reason="type",
        )
    return boundary


class _Parts:
    """What the parser has told so far."""

    def __init__(self, file_field: str, open_sink: Callable[[str], Sink]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.ended = False
        self._file_field, self._open_sink = file_field, open_sink
        self._sink: Sink | None = None
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value, self._text = bytearray(), bytearray(), bytearray()
        self._name = ""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._header, data[start:end], _MOST_HEADER_BYTES),
            "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end], _MOST_HEADER_BYTES),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": lambda data, start, end: self._data(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _malformed(f"more than {_MOST_PARTS} parts")
        self._headers.clear()
        self._text.clear()

    def _grow(self, what: bytearray, data: bytes, most: int) -> None:
        what += data
        if len(what) > most:
            raise _malformed(f"a header or field is over {most} bytes")

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()
        if len(self._headers) > _MOST_PARTS:
            raise _malformed("a part has too many headers")

    def _headers_end(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise _malformed("a part without a name")
        self._name = _text(options[b"name"], "name")
        extended = _EXTENDED_FILENAME.search(disposition)
        filename = unquote_to_bytes(extended[1]) if extended else options.get(b"filename")
        if filename is None and self._name != self._file_field:
            return
        if self._name != self._file_field or self.filename is not None:
            raise Invalid(
                f"只接受一个文件，字段名为 {self._file_field}",
                f"one file in the field {self._file_field} is expected",
                field=self._file_field,
                reason="unknown",
            )
        self.filename = _filename(filename or b"")
        self._sink = self._open_sink(self.filename)

    def _data(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.write(data)
        else:
            self._grow(self._text, data, _MOST_FIELD_BYTES)

    def _end(self) -> None:
        if self._sink is None:
            if self._name in self.fields:
                raise Invalid(
                    f"字段 {self._name} 重复",
                    f"the field {self._name} is given twice",
                    field=self._name,
                    reason="repeated",
                )
            self.fields[self._name] = _text(bytes(self._text), self._name)
        self._sink = None

    def _all(self) -> None:
        self.ended = True


def _filename(raw: bytes) -> str:
    if len(raw) > _MOST_NAME_BYTES:
        raise Invalid("文件名过长", "the file name is too long", field="file", reason="range")
    return _text(raw, "file")


def _text(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Invalid(
            f"字段 {field} 不是 UTF-8", f"the field {field} is not UTF-8", field=field, reason="encoding"
        ) from None


def _malformed(detail: str) -> Invalid:
    return Invalid(f"multipart 表单格式错误：{detail}", f"the multipart form is malformed: {detail}", reason="form")
