"""Server-sent events that stop when the reader leaves and say so when the writer fails.

One response runs three tasks: the pump (asks the engine, encodes, sends), the listener (hears the client leave) and
the ticker (a comment in long silences, so that proxies keep the connection). Until the first event nothing is sent,
so that an early Problem is still an HTTP error; after it, a failure is an error frame.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tunesmith.http.errors import Paint, answer
from tunesmith.kernel.problems import Problem, Unavailable

T = TypeVar("T")
E = TypeVar("E")
E_in = TypeVar("E_in", contravariant=True)
_HEARTBEAT_S = 12.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the frames back for seconds
]
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger()


def frame(value: object) -> bytes:
    """One event carrying ``value`` as JSON; always whole, since naive clients split by network read."""
    return b"data: " + _encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Encoder(Protocol[E_in]):
    """A dialect's frames. Each call gives zero or more whole frames."""

    def event(self, event: E_in) -> bytes:
        """The frames for one event."""
        ...

    def end(self) -> bytes:
        """What follows the last event."""
        ...

    def error(self, problem: Problem) -> bytes:
        """What a failure after the first frame looks like; nothing follows it."""
        ...


class EventStream(Response, Generic[E]):
    """Streams ``events`` as the encoder writes them; closing the connection closes ``events`` at once.

    Args:
        paint: the dialect's error body, for a Problem before the first event.
    """

    def __init__(self, request: Request, events: AsyncGenerator[E, None], encoder: Encoder[E], paint: Paint) -> None:
        self.status_code = 200
        self.background = None
        self._request, self._events, self._encoder, self._paint = request, events, encoder, paint
        self._started = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump(scope, receive, send))
        others = [asyncio.create_task(_left(receive)), asyncio.create_task(self._tick(send))]
        try:
            await asyncio.wait([pump, *others[:1]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, *others):
                task.cancel()
            # the engine's rows are free before this response counts as over
            await asyncio.gather(pump, *others, return_exceptions=True)
            await self._events.aclose()

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._write(send, self._encoder.event(event))
            await self._write(send, self._encoder.end())
        except Problem as problem:
            await self._fail(problem, scope, receive, send)
            return
        except Exception:
            _log.exception("bug in a stream", path=scope["path"])
            await self._fail(Unavailable("服务器内部错误", "internal error"), scope, receive, send)
            return
        await send({"type": "http.response.body", "body": b""})

    async def _fail(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started:
            await self._write(send, self._encoder.error(problem))
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer(self._request, problem, self._paint)(scope, receive, send)

    async def _write(self, send: Send, frames: bytes) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if frames:
            await send({"type": "http.response.body", "body": frames, "more_body": True})
            self._sent_at = asyncio.get_running_loop().time()

    async def _tick(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_HEARTBEAT_S / 4)
            if self._started and clock() - self._sent_at > _HEARTBEAT_S:
                await self._write(send, b": keep-alive\n\n")


async def unless_left(request: Request, work: Awaitable[T]) -> T | Response:
    """Await ``work``; when the client leaves first, stop it and answer nobody (status 499)."""
    task = asyncio.ensure_future(work)
    left = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return JSONResponse(None, 499)
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[object]]) -> None:
    """Return when the client has gone; only call once the body was read."""
    while True:
        message = await receive()
        if isinstance(message, dict) and message["type"] == "http.disconnect":
            return
