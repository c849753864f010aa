"""From a Problem to an answer in a dialect's own shape.

A dialect gives one function that paints ``(status, message, problem)`` as its JSON body; everything that can go wrong
(a Problem, a body that does not parse, an unknown route, a wrong method, a bug) leaves through it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tunesmith.http.limits import BodyLimit
from tunesmith.kernel import problems
from tunesmith.kernel.problems import Invalid, Problem

Paint = Callable[[int, str, Problem | None], Any]

STATUS: Mapping[type[Problem], int] = {
    problems.Invalid: 400,
    problems.Unauthenticated: 401,
    problems.Forbidden: 403,
    problems.NotFound: 404,
    problems.Conflict: 409,
    problems.TooMany: 429,
    problems.Unsupported: 400,
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


def answer(request: Request, problem: Problem, paint: Paint) -> JSONResponse:
    """The dialect's answer to a Problem."""
    status = status_of(problem)
    # a message may quote half a character that JSON let in
    message = problem.message(language_of(request.headers)).encode("utf-8", "backslashreplace").decode()
    return JSONResponse(paint(status, message, problem), status)


def install(app: FastAPI, paint: Paint, *, max_body: int = MAX_BODY_BYTES) -> None:
    """Make every failure of ``app`` leave in the shape ``paint`` gives; bodies over ``max_body`` bytes are one."""

    async def expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return answer(request, error, paint)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, malformed_body(error), paint)

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        zh, en = _ROUTING.get(error.status_code, (str(error.detail), str(error.detail)))
        message = zh if language_of(request.headers) == "zh" else en
        return JSONResponse(paint(error.status_code, message, None), error.status_code, headers=error.headers)

    async def bug(request: Request, error: Exception) -> Response:
        _log.error("bug", path=request.url.path, exc_info=error)
        zh, en = "服务器内部错误，详情见服务器日志", "internal error; the server's log has the details"
        return JSONResponse(paint(500, zh if language_of(request.headers) == "zh" else en, None), 500)

    async def too_large(scope: Scope, receive: Receive, send: Send) -> None:
        error = HTTPException(413)
        await (await routed(Request(scope), error))(scope, receive, send)

    app.router.redirect_slashes = False  # a redirect would quote the Host header, which anybody may write
    app.add_middleware(BodyLimit, limit=max_body, refuse=too_large)
    app.add_exception_handler(Problem, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(Exception, bug)


_ROUTING = {
    400: ("请求体无法解析：应为 UTF-8 编码的 JSON", "the request body cannot be parsed: JSON in UTF-8 is expected"),
    404: ("路径不存在", "there is no such path"),
    405: ("请求方法不允许", "this path does not take that method"),
    413: ("请求体过大", "the request body is too large"),
}


def malformed_body(error: RequestValidationError) -> Invalid:
    """The first thing wrong with a body or query, with the field's path as the caller wrote it."""
    first = error.errors()[0]
    where = [part for part in first["loc"] if part not in ("body", "query", "path")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if first["type"] == "json_invalid" or not field:
        return Invalid("请求体不是有效的 JSON 对象", "the request body is not a valid JSON object")
    if first["type"] == "missing":
        return Invalid(f"缺少字段 {field}", f"the field {field} is missing", field=field)
    zh = _WRONG.get(first["type"], first["msg"])
    return Invalid(f"字段 {field} 无效：{zh}", f"the field {field} is not valid: {first['msg']}", field=field)


_WRONG = {
    "string_type": "应为字符串",
    "int_type": "应为整数",
    "int_from_float": "应为整数",
    "int_parsing_size": "整数过大",
    "float_type": "应为数字",
    "finite_number": "应为有限数",
    "bool_type": "应为 true 或 false",
    "list_type": "应为数组",
    "dict_type": "应为对象",
    "model_type": "应为对象",
    "model_attributes_type": "应为对象",
    "literal_error": "不是允许的取值",
    "too_long": "项数过多",
    "too_short": "项数过少",
    "extra_forbidden": "未知字段",
    "string_unicode": "含有无效字符",
    "less_than_equal": "过大",
    "greater_than_equal": "过小",
    "int_parsing": "应为整数",
}


def renamed(message: str, problem: Problem | None, names: Mapping[str, str]) -> str:
    """``message`` with the domain's name of the field at fault replaced by the caller's own.

    Args:
        names: wire names by domain names.
    """
    field = str(problem.details.get("field", "")) if problem else ""
    return re.sub(rf"\b{re.escape(field)}\b", names[field], message) if field in names else message
