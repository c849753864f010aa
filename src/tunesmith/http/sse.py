"""Server-sent events that stop when the reader leaves and say so when the writer fails.

The request's own task is the pump (asks the engine, encodes, sends). Beside it run the listener (hears the client
leave) and, in long answers, the ticker (a comment in long silences, so that proxies keep the connection); either may
cut the pump short. Until the first event nothing is sent, so that an early Problem is still an HTTP error; after it, a
failure is an error frame.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tunesmith.http.errors import Respond, answer
from tunesmith.kernel.problems import Problem, Unavailable

T = TypeVar("T")
E = TypeVar("E")
E_in = TypeVar("E_in", contravariant=True)
_HEARTBEAT_S = 12.0
_STUCK_S = 60.0  # a client that took nothing for so long
_LAST_WORD_S = 1.0
_STOPPED = "服务正在停止，请稍后重试", "the server is stopping; ask again later"
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
        respond: the dialect's answer to a Problem before the first event.
        headers: more headers, asked for when the first event is known.
    """

    def __init__(
        self,
        request: Request,
        events: AsyncGenerator[E, None],
        encoder: Encoder[E],
        respond: Respond,
        *,
        headers: Callable[[], Sequence[tuple[bytes, bytes]]] = tuple,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._request, self._events, self._encoder = request, events, encoder
        self._respond, self._more_headers = respond, headers
        self._clock = asyncio.get_running_loop().time
        self._started = self._sending = False
        self._cut = self._over = False
        self._sent_at = self._clock()
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.current_task()
        assert pump is not None
        listener = asyncio.create_task(self._listen(receive, pump))
        # most answers are over before the first look at the clock, and a timer costs less than a task
        timer = asyncio.get_running_loop().call_later(_HEARTBEAT_S / 4, self._begin_to_tick, send, pump)
        try:
            await self._pump(scope, receive, send)  # the engine's rows are free before this response counts as over
        except asyncio.CancelledError:
            if not self._cut:  # the server stops, and has waited for this answer as long as it does
                self._leave(timer, listener)  # nothing of theirs follows the last word
                await self._say_stopped(scope, receive, send)
        finally:
            self._leave(timer, listener)
            if self._cut:
                pump.uncancel()

    def _leave(self, timer: asyncio.TimerHandle, listener: "asyncio.Task[None]") -> None:
        """Nothing cuts the pump short any more, nor speaks beside it."""
        self._over = True
        timer.cancel()
        listener.cancel()
        if self._ticking is not None:
            self._ticking.cancel()

    def _cut_short(self, pump: "asyncio.Task[None]", why: str) -> None:
        """End the pump, once: a second cancellation would break into its cleaning up."""
        if not self._cut and not self._over:
            self._cut = True
            _log.info(why, path=self._request.scope["path"])
            pump.cancel()

    async def _listen(self, receive: Receive, pump: "asyncio.Task[None]") -> None:
        await _left(receive)
        self._cut_short(pump, "client left a stream")

    async def _say_stopped(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await self._fail(Unavailable(*_STOPPED), scope, receive, send)

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._write(send, self._encoder.event(event))
            await self._write(send, self._encoder.end(), last=True)
        except Problem as problem:
            await self._fail(problem, scope, receive, send)
        except Exception:
            _log.exception("bug in a stream", path=scope["path"])
            await self._fail(Unavailable("服务器内部错误", "internal error", bug=True), scope, receive, send)

    async def _fail(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started:
            await self._write(send, self._encoder.error(problem), last=True)
        else:
            await answer(self._request, problem, self._respond)(scope, receive, send)

    async def _write(self, send: Send, frames: bytes, *, last: bool = False) -> None:
        if not self._started:
            headers = [*_HEADERS, *self._more_headers()]
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if frames or last:
            self._sending, self._sent_at = True, self._clock()
            await send({"type": "http.response.body", "body": frames, "more_body": not last})
            self._sending, self._sent_at = False, self._clock()

    def _begin_to_tick(self, send: Send, pump: "asyncio.Task[None]") -> None:
        self._ticking = asyncio.create_task(self._tick(send, pump))

    async def _tick(self, send: Send, pump: "asyncio.Task[None]") -> None:
        """A comment in long silences; an end to a client that takes nothing for so long that it may be gone."""
        while True:
            silent_s = self._clock() - self._sent_at
            stuck = self._sending and silent_s > _STUCK_S
            if self._started and not self._sending and silent_s > _HEARTBEAT_S:
                stuck = not await self._beat(send)
            if stuck:
                self._cut_short(pump, "client stopped reading a stream")
                return
            await asyncio.sleep(_HEARTBEAT_S / 4)

    async def _beat(self, send: Send) -> bool:
        """Whether the client took a comment; it may have stopped reading just when the writer fell silent."""
        try:
            async with asyncio.timeout(_STUCK_S):
                await self._write(send, b": keep-alive\n\n")
        except TimeoutError:
            return False
        return True


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
