"""The dialect's description of itself: what the framework cannot know of who may ask, statuses, headers and texts.

Served at ``/openapi.json``, with a token. Ranges and patterns that stand here are checked by the services, whose
messages say more than the framework's could; they are written down so that clients know them beforehand.
"""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import ConfigDict, Field

from tunesmith.dialects.platform_v1.wire import ErrorAnswer
from tunesmith.training.limits import parameters

_ALWAYS = (400, 401, 413, 429, 500)
_SAID = {
    400: "参数无效 / not a valid request",
    401: "没有令牌，或令牌无效 / no token, or none that is valid",
    403: "禁止访问 / may not be reached",
    404: "不存在，或属于他人 / not there, or somebody else's",
    409: "冲突 / in the way of something else",
    413: "请求体过大 / the body is too large",
    429: "请求过于频繁 / asked too often",
    500: "服务器内部错误 / a bug",
    503: "暂不可用 / not now",
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "`POST /login` 返回的令牌，或 API 密钥 / a token of `POST /login`, or an API key",
}


def _header(said: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"description": said, "required": required, "schema": schema}


_HEADERS = {
    "X-Request-ID": _header(
        "the id of the request: the client's own where it sent a harmless one",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    ),
    "X-RateLimit-Limit": _header("requests in a window", {"type": "integer", "minimum": 1}),
    "X-RateLimit-Remaining": _header("how many of them are left", {"type": "integer", "minimum": 0}),
    "X-RateLimit-Reset": _header(
        "when the oldest one counted leaves the window, in seconds since 1970", {"type": "integer", "minimum": 0}
    ),
}
_RETRY = {"type": "integer", "minimum": 1}
_MORE_HEADERS = {
    "401": {"WWW-Authenticate": _header("the scheme wanted", {"type": "string", "const": "Bearer"})},
    "429": {"Retry-After": _header("seconds", _RETRY)},
    "503": {"Retry-After": _header("seconds, where they can be told", _RETRY, required=False)},
}

# one character that a name may hold (kernel/home.py), and one that it may end with
_LETTER = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\%/]"
_LAST = r"[^\x00-\x1f\x7f-\x9f\u2024-\u2026\u2028-\u202e\u2066-\u2069\uff0e\\%/. ]"
# one of a text of several lines
_ANY = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"

_PART = rf"{_LETTER}{{0,254}}{_LAST}"

NAME = rf"^/?(?![/~])(?!.:)(?:\./)?{_PART}(?:/{_PART})*/?$"
PLACE = rf"^/?(?![/~])(?!.:)(?:\./)?(?!\.){_PART}(?:/(?!\.){_PART}){{0,4}}/?$"
BASE = rf"^(?![/~])(?!.:){_PART}(?:/{_PART})*$"
# which letters beyond ASCII are letters only Unicode's tables tell: the services ask them
DATASET = r"^[^\x00-/:-@\[-\^`{-\x9f][^\x00-,./:-@\[-\^`{-\x9f]{0,63}$"
TITLE = r"\S"
LINES = rf"^{_ANY}*$"
NOTE = r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
TEMPLATE = rf"^{_ANY}*\{{instruction\}}{_ANY}*\{{response\}}{_ANY}*$"
KEY = "^[!-~](?:[ -~]{0,253}[!-~])?$"

# beside the answer itself, for who asks with ``Accept: text/event-stream``; see progress.py
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "string",
                    "description": "`data:` lines of JSON; the last is the answer, or the error, with `done: true`",
                    "examples": [
                        'data: {"phase":"checking","bytes":1048576,"total":9437184,"rows":8000,"done":false}\n\n'
                    ],
                }
            }
        }
    }
}


def written(pattern: str, longest: int | None = None) -> Any:
    """How a text is written that a service checks."""
    return Field(json_schema_extra={"pattern": pattern, **({} if longest is None else {"maxLength": longest})})


def example(value: dict[str, Any]) -> ConfigDict:
    """The document's example of a body."""
    return ConfigDict(json_schema_extra={"examples": [value]})


def ranged(name: str, *, but: Literal["low", "high"] | None = None) -> Any:
    """The range a recipe's value has.

    Args:
        but: the end that does not belong to it.
    """
    [found] = [each for each in parameters() if each.name == name]
    low, high = (
        ("exclusiveMinimum" if but == "low" else "minimum"),
        ("exclusiveMaximum" if but == "high" else "maximum"),
    )
    return Field(json_schema_extra={low: found.minimum, high: found.maximum})


def links(**to: tuple[str, str]) -> dict[int | str, dict[str, Any]]:
    """Where an answer leads: operations by the parameter they take, and where in the answer its value stands."""
    return {
        200: {
            "links": {
                operation: {"operationId": operation, "parameters": {name: f"$response.body#/{place}"}}
                for operation, (name, place) in to.items()
            }
        }
    }


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The failures of a path: those any has, and ``statuses``."""
    return {status: {"model": ErrorAnswer, "description": _SAID[status]} for status in sorted({*_ALWAYS, *statuses})}


def install(app: FastAPI, open_routes: frozenset[tuple[str, str]]) -> None:
    """Let ``app`` describe itself.

    Args:
        open_routes: (method, path) that want no token.
    """

    def description() -> dict[str, Any]:
        return _completed(FastAPI.openapi(app), open_routes)

    app.openapi = description  # type: ignore[method-assign]


def _completed(document: dict[str, Any], open_routes: frozenset[tuple[str, str]]) -> dict[str, Any]:
    """``document`` itself; twice is fine."""
    _with_whole_numbers(document)
    components = document["components"]
    components["securitySchemes"] = {"bearer": _BEARER}
    components["headers"] = _HEADERS
    document["security"] = [{"bearer": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if (method.upper(), path) in open_routes:
                operation["security"] = []
            operation["responses"].pop("422", None)  # the framework's own; ours is 400
            for status, response in operation["responses"].items():
                response["headers"] = {
                    **{name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
                    **_MORE_HEADERS.get(status, {}),
                }
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return document


def _with_whole_numbers(part: Any) -> None:
    """Bounds as integers again: the framework makes them floats, which are no longer exact at 2**63."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            _with_whole_numbers(value)
        elif isinstance(value, float) and value.is_integer():
            part[key] = int(value)
