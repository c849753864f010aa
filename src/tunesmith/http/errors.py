"""From a Problem to an answer in a dialect's own shape.

A dialect gives one function that paints ``(status, message, problem)`` as its JSON body; everything that can go wrong
(a Problem, a body that does not parse, an unknown route, a wrong method, a bug) leaves through it.
"""

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.http.door import Door, Doorway
from tunesmith.http.limits import BodyLimit, MaxBody
from tunesmith.kernel import problems
from tunesmith.kernel.problems import Invalid, Problem

Paint = Callable[[int, str, Problem | None], Any]
Respond = Callable[[Request, int, str, Problem | None, Mapping[str, str] | None], Response]

STATUS: Mapping[type[Problem], int] = {
    problems.Invalid: 400,
    problems.Unauthenticated: 401,
    problems.Forbidden: 403,
    problems.NotFound: 404,
    problems.Conflict: 409,
    problems.TooMany: 429,
    problems.Unsupported: 400,
    problems.TimedOut: 504,
    problems.Unavailable: 503,
}

MAX_BODY_BYTES = 16 * 1024 * 1024
_log = structlog.get_logger()


def status_of(problem: Problem) -> int:
    """The HTTP status most dialects use for a Problem."""
    return next((STATUS[kind] for kind in type(problem).__mro__ if kind in STATUS), 500)


def language_of(headers: Mapping[str, str]) -> str:
    """ "en" when the client prefers English, else "zh", the language of the documents."""
    return "en" if headers.get("accept-language", "").lower().startswith("en") else "zh"


class PaintedResponse(JSONResponse):
    """JSON that may quote half a character, which JSON lets in and UTF-8 does not let out."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def in_json(paint: Paint) -> Respond:
    """How most dialects answer a failure: with what ``paint`` gives, as JSON."""

    def respond(
        request: Request, status: int, message: str, problem: Problem | None, headers: Mapping[str, str] | None
    ) -> Response:
        return PaintedResponse(paint(status, message, problem), status, headers)

    return respond


def answer(request: Request, problem: Problem, respond: Respond) -> Response:
    """The dialect's answer to a Problem.

    A 401 names the scheme wanted (RFC 9110, 11.6.1); ``retry_after`` in the details, in seconds, is sent as such too.
    """
    status = status_of(problem)
    message = problem.message(language_of(request.headers)).encode("utf-8", "backslashreplace").decode()
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if "retry_after" in problem.details:
        headers["Retry-After"] = str(max(1, math.ceil(problem.details["retry_after"])))
    return respond(request, status, message, problem, headers)


def install(app: FastAPI, respond: Respond, *, max_body: MaxBody = MAX_BODY_BYTES, door: Door | None = None) -> None:
    """Make every failure of ``app`` leave as ``respond`` says it.

    Args:
        max_body: bytes a body may have, or what gives them for a (method, path inside ``app``).
        door: who is let in, and how often; None lets everybody in and counts nothing.
    """

    async def expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return answer(request, error, respond)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, malformed_body(error), respond)

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {"Allow": _allowed(app, request.scope)} if error.status_code == 405 else error.headers
        message = _said(request, *_ROUTING.get(error.status_code, (str(error.detail), str(error.detail))))
        return respond(request, error.status_code, message, None, headers)

    async def bug(request: Request, error: Exception) -> Response:
        _log.error("bug", method=request.method, path=request.scope["path"], exc_info=error)
        return respond(request, 500, _said(request, *_BUG), None, None)

    async def too_large(scope: Scope, receive: Receive, send: Send) -> None:
        await (await routed(Request(scope), HTTPException(413)))(scope, receive, send)

    async def stalled(scope: Scope, receive: Receive, send: Send) -> None:
        response = answer(Request(scope), Invalid(*_STALLED, reason="stalled"), respond)
        response.headers["Connection"] = "close"  # what is still to come must not hold it open
        await response(scope, receive, send)

    def refuse(scope: Scope, problem: Problem) -> ASGIApp:
        return answer(Request(scope), problem, respond)

    app.router.redirect_slashes = False  # a redirect would quote the Host header, which anybody may write
    # the last one added is the first one asked
    app.add_middleware(BodyLimit, limit=max_body, refuse=too_large, stalled=stalled)
    app.add_middleware(_Caught, bug=bug)
    if door is not None:
        app.add_middleware(Doorway, door=door, refuse=refuse)
    app.add_exception_handler(Problem, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(Exception, bug)  # what fails outside _Caught: the door


class _Caught:
    """Answers bugs inside the door, so that their answers carry its headers too; asks for HEAD as GET."""

    def __init__(self, app: ASGIApp, bug: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self._app, self._bug = app, bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        # RFC 9110, 9.3.2: as GET without the body, which the server leaves out; it still looks at the scope it made
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(asked, receive, noticed)
        except ClientDisconnect:
            return
        except Exception as error:
            response = await self._bug(Request(scope), error)
            # a stream that was begun is left unfinished: the server closes the connection, and the client can tell
            if not started:
                await response(scope, receive, send)


def _allowed(app: FastAPI, scope: Scope) -> str:
    """Every method of a path; the framework names those of the first route only."""
    asked = {key: scope[key] for key in ("type", "path", "root_path", "headers") if key in scope}
    methods = [
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in app.router.routes)
    ]
    return ", ".join([*methods, "HEAD"] if "GET" in methods else methods)


def _said(request: Request, zh: str, en: str) -> str:
    return zh if language_of(request.headers) == "zh" else en


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_BUG = "服务器内部错误，详情见服务器日志", "internal error; the server's log has the details"
_STALLED = "请求体迟迟没有到达", "the request body did not arrive in time"
_ROUTING = {
    400: ("请求体无法解析：应为 UTF-8 编码的 JSON", "the request body cannot be parsed: JSON in UTF-8 is expected"),
    404: ("路径不存在", "there is no such path"),
    405: ("请求方法不允许", "this path does not take that method"),
    413: ("请求体过大", "the request body is too large"),
}


def malformed_body(error: RequestValidationError) -> Invalid:
    """The first thing wrong with a request: the field's path as the caller wrote it, and the reason in a word."""
    first = error.errors()[0]
    kind, where = first["type"], list(first["loc"])
    if where and where[0] in ("body", "query", "path", "header"):
        del where[0]  # which part of the request; a field may have the same name
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if kind == "json_invalid" or not field:
        reason = {"json_invalid": "json", "missing": "required", "string_unicode": "encoding"}.get(kind, "type")
        return Invalid(
            "请求体不是有效的 JSON 对象（Content-Type 应为 application/json）",
            "the request body is not a valid JSON object (with Content-Type: application/json)",
            field="body",
            reason=reason,
        )
    if kind == "missing":
        return Invalid(f"缺少字段 {field}", f"the field {field} is missing", field=field, reason="required")
    zh, reason = _WRONG.get(kind, (first["msg"], "invalid"))
    return Invalid(
        f"字段 {field} 无效：{zh}", f"the field {field} is not valid: {first['msg']}", field=field, reason=reason
    )


_WRONG = {
    "string_type": ("应为字符串", "type"),
    "int_type": ("应为整数", "type"),
    "int_from_float": ("应为整数", "type"),
    "int_parsing": ("应为整数", "type"),
    "float_type": ("应为数字", "type"),
    "float_parsing": ("应为数字", "type"),
    "bool_type": ("应为 true 或 false", "type"),
    "bool_parsing": ("应为 true 或 false", "type"),
    "list_type": ("应为数组", "type"),
    "dict_type": ("应为对象", "type"),
    "model_type": ("应为对象", "type"),
    "model_attributes_type": ("应为对象", "type"),
    "int_parsing_size": ("整数过大", "range"),
    "finite_number": ("应为有限数", "range"),
    "less_than": ("过大", "range"),
    "less_than_equal": ("过大", "range"),
    "greater_than": ("过小", "range"),
    "greater_than_equal": ("过小", "range"),
    "too_long": ("项数过多", "range"),
    "too_short": ("项数过少", "range"),
    "string_too_long": ("过长", "range"),
    "string_too_short": ("过短", "range"),
    "literal_error": ("不是允许的取值", "choice"),
    "enum": ("不是允许的取值", "choice"),
    "extra_forbidden": ("未知字段", "unknown"),
    "string_pattern_mismatch": ("格式不正确", "format"),
    "string_unicode": ("含有无效字符", "encoding"),
    "date_parsing": ("应为日期，如 2026-01-31", "format"),
    "date_from_datetime_parsing": ("应为日期，如 2026-01-31", "format"),
    "date_from_datetime_inexact": ("应为日期，如 2026-01-31", "format"),
}


_JOINS = r"""[\w\[\]/\\.'"-]"""  # beside a word, makes it part of a longer name, a path or a quotation


def renamed(message: str, problem: Problem | None, names: Mapping[str, str]) -> str:
    """``message`` with the domain's name of the field at fault replaced by the caller's own.

    Only where the name first stands alone: messages begin with the field, and what follows may quote the caller's own
    text, a path or a package that is called alike.

    Args:
        names: wire names by domain names.
    """
    field = str(problem.details.get("field", "")) if problem else ""
    if field not in names:
        return message
    alone = rf"(?<!{_JOINS}){re.escape(field)}(?!{_JOINS})"
    return re.sub(alone, lambda _: names[field], message, count=1)
