"""What the stand-ins of real services have in common: they tell what they were asked, and can be told to fail.

``GET /report``: ``open``, ``done``, ``gone_count`` (``{"all": n}``: callers that hung up), ``requests`` (method, path,
headers with names in lower case, body). ``POST /reset`` forgets all of it. ``POST /fail`` ``{"path", "status",
"times"}`` answers the next requests to a path with a status and no more than that.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.upstreams.lifetime import allow_many_connections, announce, end_with_parent

BACKLOG = 4096
KEPT = 5000
CONTROL = ("/report", "/reset", "/fail", "/models")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recorder:
    """Sees every request before it is answered."""

    def __init__(self) -> None:
        self._requests: list[dict[str, Any]] = []
        self._failures: dict[str, tuple[int, int]] = {}
        self._open = self._done = self._gone = 0

    def attach(self, app: web.Application) -> None:
        @web.middleware
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._seen(request, handler)

        app.middlewares.append(record)
        app.router.add_get("/report", self._report)
        app.router.add_post("/reset", self._reset)
        app.router.add_post("/fail", self._fail)

    async def _seen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in CONTROL:
            return await handler(request)
        await self._record(request)
        if request.path in self._failures:
            return self._failed(request.path)
        self._open += 1
        try:
            answer = await handler(request)
            self._done += 1
            return answer
        except asyncio.CancelledError:
            self._gone += 1
            raise
        except ConnectionError:
            self._gone += 1
            return web.Response(status=499)  # nobody reads it
        finally:
            self._open -= 1

    async def _record(self, request: web.Request) -> None:
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw.decode("utf-8", "replace")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if len(self._requests) < KEPT:
            self._requests.append({"method": request.method, "path": request.path, "headers": headers, "body": body})

    def _failed(self, path: str) -> web.Response:
        status, times = self._failures.pop(path)
        if times > 1:
            self._failures[path] = (status, times - 1)
        return web.json_response({"error": f"told to fail with {status}"}, status=status)

    async def _report(self, request: web.Request) -> web.Response:
        gone = {"all": self._gone}
        report = {"open": self._open, "done": self._done, "gone_count": gone, "requests": self._requests}
        return web.json_response(report)

    async def _reset(self, request: web.Request) -> web.Response:
        self._requests.clear()
        self._failures.clear()
        self._done = self._gone = 0
        return await self._report(request)

    async def _fail(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self._failures[wanted["path"]] = (int(wanted["status"]), int(wanted.get("times", 1)))
        return await self._report(request)


async def serve(app: web.Application, port: int) -> None:
    """Answer on ``port`` (0 for any) of the loopback until the end of the process."""
    allow_many_connections()
    end_with_parent()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG)
    await site.start()
    port = runner.addresses[0][1]
    announce({"url": f"http://127.0.0.1:{port}", "port": port})
    await asyncio.Event().wait()
