"""``GET /metrics``: what Prometheus reads. For admins: it tells which adapters are used, and how much."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.http import errors
from tunesmith.http.door import Door, caller_of
from tunesmith.kernel.problems import Forbidden, Problem

PATH = "/metrics"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def build(page: Callable[[], Awaitable[bytes]], door: Door) -> ASGIApp:
    """The application at ``PATH``.

    Args:
        page: gives the page, in Prometheus' text format.
        door: where it knows callers, only admins may read.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    errors.install(app, errors.in_json(_paint), door=door)

    @app.get(PATH)
    async def metrics(request: Request) -> Response:
        if not caller_of(request).admin:
            raise Forbidden("只有管理员可以读取指标", "only admins may read the metrics")
        return Response(await page(), headers={"Content-Type": _TYPE, "Cache-Control": "no-store"})

    async def at_its_path(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": ""}, receive, send)

    return at_its_path


def _paint(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    return {"error": {"code": status, "message": message}}
