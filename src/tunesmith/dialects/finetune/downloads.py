"""Files of examples as answers: their headers leave when every row was checked, and their names may be Chinese."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol
from urllib.parse import quote

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tunesmith.datasets.export.sample import Wanted
from tunesmith.datasets.export.wanted import DEFAULT_THINKING, check_wanted, read_format, read_strategy

MEDIA_TYPE = "application/jsonl"


class LinesOfFile(Protocol):
    """A file that was checked whole; see ``datasets/export/service.py``."""

    @property
    def filename(self) -> str:
        """What it is called; any text."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in order."""
        ...

    def close(self) -> None:
        """Forget it."""
        ...


class Lines(StreamingResponse):
    """The file as it is read; closed however the answer ends."""

    def __init__(self, file: LinesOfFile) -> None:
        headers = {"Content-Disposition": attachment(file.filename), "Content-Length": str(file.size)}
        super().__init__(_pieces(file), 200, headers, MEDIA_TYPE)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(asyncio.to_thread(self._file.close))


class Described(Response):
    """What OpenAPI says of such a file."""

    media_type = MEDIA_TYPE


def attachment(filename: str) -> str:
    """The ``Content-Disposition`` of a file to be kept (RFC 6266), with an ASCII name for clients that know no other."""
    safe = "".join(c if c.isprintable() and c not in '/\\"' else "_" for c in filename)
    plain = "".join(c if c.isascii() and c != "%" else "_" for c in safe)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(safe.encode('utf-8', 'replace'), safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def wanted(
    format_type: str, data_strategy: str, system: str | None, thinking: str | None, otherwise: str = DEFAULT_THINKING
) -> Wanted:
    """How a caller wants examples written.

    Args:
        otherwise: the instructions where the strategy wants some and the caller gave none.

    Raises:
        Invalid: nobody knows the format or the strategy, or one does not go with the other.
    """
    format, strategy = read_format(format_type), read_strategy(data_strategy)
    said = thinking if thinking and thinking.strip() else None
    return check_wanted(Wanted(format, strategy, system, said or (otherwise if strategy.instructs else None)))


async def _pieces(file: LinesOfFile) -> AsyncIterator[bytes]:
    async for piece in iterate_in_threadpool(file.chunks()):
        yield piece
