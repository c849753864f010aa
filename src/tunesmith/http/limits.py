"""How much a client may send, and how slowly."""

import asyncio
from collections.abc import Callable

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MaxBody = int | Callable[[str, str], int]
_PATIENCE_S = 30.0
_SLOWEST = 500  # bytes a second, as Apache's mod_reqtimeout has it
_WHOLE_S = 60  # what came so far must be able to come again in that time ...
_SLOWEST_LARGE = 16 << 10  # ... or at this rate: a large file over a slow line


class BodyLimit:
    """Refuses bodies that are too large, by the announced length or as soon as too much has come, and too slow.

    A plain ASGI middleware: Starlette's BaseHTTPMiddleware would cost milliseconds a stream.

    Args:
        limit: bytes, or what gives them for a (method, path inside the application).
        refuse: answers a body that is too large.
        stalled: answers one that does not come: a client that sends a byte a minute would hold a connection for ever.
        patience: seconds a body may be waited for, without a piece or below the least rate. Bytes that come win back
            at most that much, so whatever came before buys no longer silence. The least rate grows with what came, and
            is in memory, from 500 bytes to 16 KiB a second. Time the application takes is not counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: MaxBody,
        refuse: ASGIApp,
        stalled: ASGIApp | None = None,
        patience: float = _PATIENCE_S,
    ) -> None:
        self._app, self._limit = app, limit
        self._refuse, self._stalled, self._patience = refuse, stalled or refuse, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit if isinstance(self._limit, int) else self._limit(scope["method"], get_route_path(scope))
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or len(announced) > 18 or int(announced) > limit:
            await self._refuse(scope, receive, send)
            return
        counted = _Counted(receive, limit, self._patience)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if not (counted.over or counted.late) or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, guarded)
        except Exception:
            if not (counted.over or counted.late):
                raise
        if not started and (counted.over or counted.late):
            await (self._refuse if counted.over else self._stalled)(scope, receive, send)


class _Counted:
    """Receives a body; what is too much or too late looks like a client that left."""

    def __init__(self, receive: Receive, limit: int, patience: float) -> None:
        self._receive, self._limit, self._patience = receive, limit, patience
        self._left = patience  # seconds it may still be waited for
        self._came = 0
        self._whole = self.over = self.late = False

    async def __call__(self) -> Message:
        if self._whole:  # waiting for the client to leave, as streams do
            return await self._receive()
        clock = asyncio.get_running_loop().time
        asked = clock()
        try:
            async with asyncio.timeout(self._left):
                message = await self._receive()
        except TimeoutError:
            self.late = True
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            earned = size / max(_SLOWEST, min(self._came / _WHOLE_S, _SLOWEST_LARGE))
            self._left = min(self._left - (clock() - asked) + earned, self._patience)
            self._came += size
            self._whole = not message.get("more_body", False)
            if self._came > self._limit:
                self.over = True
                return {"type": "http.disconnect"}
        return message
