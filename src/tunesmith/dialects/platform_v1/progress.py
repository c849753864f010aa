"""How far a long request is, for clients that ask for ``text/event-stream``.

    data: {"phase": "checking", "bytes": 1048576, "total": 9437184, "rows": 8000, "done": false}
    data: {...the document's answer..., "done": true}

A failure before the first frame is an HTTP error, after it a frame with the document's error body and ``done: true``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response

from tunesmith.datasets.children import OnProgress
from tunesmith.datasets.worker.tasks import Progress
from tunesmith.dialects.platform_v1 import wire
from tunesmith.http.errors import in_json, language_of, status_of
from tunesmith.http.sse import EventStream, frame, unless_left
from tunesmith.kernel.problems import Problem

A = TypeVar("A", bound=wire.Answer)


async def answered(request: Request, work: Callable[[OnProgress | None], Awaitable[A]]) -> A | Response:
    """The answer of ``work``, with its progress before it where the client asked for that.

    A client that leaves stops the work.
    """
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventStream(request, _events(work), _Encoder(language_of(request.headers)), in_json(wire.error))
    return await unless_left(request, work(None))


@dataclass(frozen=True, slots=True)
class _Encoder:
    language: str

    def event(self, event: Progress | wire.Answer) -> bytes:
        if isinstance(event, Progress):
            told = {"phase": event.phase, "bytes": event.bytes, "total": event.total, "rows": event.rows}
            return frame({**told, "done": False})
        return frame({**event.model_dump(), "done": True})

    def end(self) -> bytes:
        return b""

    def error(self, problem: Problem) -> bytes:
        return frame({**wire.error(status_of(problem), problem.message(self.language), problem), "done": True})


async def _events(work: Callable[[OnProgress | None], Awaitable[A]]) -> AsyncGenerator[Progress | wire.Answer, None]:
    told: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(told.put_nowait))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while (progress := await told.get()) is not None:
            yield progress
        yield task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
