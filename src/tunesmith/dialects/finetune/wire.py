"""What every path of the finetune document shares: its error body, statuses, times, names and base shapes.

One error body serves the document's clients, Kiln's (``message``, ``error_messages``, ``source_errors``) and those that
read OpenAI's (``error``). Kiln's statuses: 400 for a word nobody knows, 422 for a value or a row that will not do.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from tunesmith.http.errors import PaintedResponse, answer, language_of, malformed_body, renamed
from tunesmith.kernel.home import parse_name
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unsupported

Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_MOST_ERRORS = 20
_LONGEST_SHOWN = 200


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


# what a form leaves empty was not said
SAID = BeforeValidator(_blank_is_none)


class Body(BaseModel):
    """Strict: "5" is no number, and what nobody knows is refused: a mistyped field would be paid for with a default."""

    model_config = ConfigDict(strict=True, protected_namespaces=(), extra="forbid")


class Answer(BaseModel):
    """What the server says, every field of it always; documented in the OpenAPI description."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_serialization_defaults_required=True)


class Deleted(Answer):
    id: str
    deleted: Literal[True] = True


class ErrorPart(Answer):
    """``param`` is the field at fault, ``code`` a word for programs, each null where unknown."""

    message: str
    type: str
    param: str | None
    code: str | None


class SourceError(BaseModel):
    """``input`` is there where the field had a plain value."""

    type: str
    loc: list[str | int]
    msg: str
    input: Any = None


class ErrorAnswer(Answer):
    """Every failure."""

    message: str
    error: ErrorPart
    details: dict[str, Any]


class InvalidAnswer(ErrorAnswer):
    """A value or a row of the data that will not do, status 422."""

    error_messages: list[str]
    source_errors: list[SourceError]


# the domain's names of fields, as this document calls them
NAMES = {
    "dataset": "dataset_path",
    "format": "format_type",
    "strategy": "data_strategy",
    "model": "model_name",
    "base_model": "model_name",
    "system": "system_message",
    "split": "split_name",
    "part": "split_name",
    "filter": "filter_id",
    "split_type": "dataset_split_type",
    "generator": "system_message_generator",
    "folder": "path",
    "input_schema": "input_json_schema",
    "output_schema": "output_json_schema",
}
# words of a closed list: where nobody knows one, Kiln answers 400
_WORDS = frozenset({"format_type", "data_strategy", "provider", "system_message_generator"})
_TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    422: "invalid_value",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "service_unavailable",
    504: "timeout",
}
_REASONS = {"required": "missing_required_parameter", "type": "invalid_type", "unknown": "unknown_parameter"}


def respond(
    request: Request, status: int, message: str, problem: Problem | None, headers: Mapping[str, str] | None
) -> Response:
    """The document's answer to a failure."""
    status = _status(status, problem)
    return PaintedResponse(error(status, message, problem), status, headers)


async def malformed(request: Request, error: Exception) -> Response:
    """The answer to a request that does not parse: every field at fault, as Kiln and FastAPI list them."""
    assert isinstance(error, RequestValidationError)
    problem = malformed_body(error)
    problem.details["errors"] = [_source(each) for each in error.errors()[:_MOST_ERRORS]]
    return answer(request, problem, respond)


def error(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    """The error body of this document."""
    details = dict(problem.details) if problem else {}
    sources = details.pop("errors", None)
    message = renamed(message, problem, NAMES)
    field = _field(problem)
    if "field" in details:
        details["field"] = field
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    code = details.get("code") or (_REASONS.get(str(details.get("reason"))) if status in (400, 422) else None)
    painted: dict[str, Any] = {
        "message": message,
        "error": {"message": message, "type": kind, "param": field, "code": code or _CODES.get(status)},
        "details": plain(details),
    }
    if status == 422:
        found = sources or [
            {"type": str(details.get("reason", "value_error")), "loc": [field or "body"], "msg": message}
        ]
        painted["error_messages"] = [_line(each) for each in sources] if sources else [message]
        painted["source_errors"] = found
    return painted


def _status(status: int, problem: Problem | None) -> int:
    if not isinstance(problem, Invalid) or isinstance(problem, Unsupported):
        return status
    return 400 if _field(problem) in _WORDS and problem.details.get("reason") not in ("required", "type") else 422


def _field(problem: Problem | None) -> str | None:
    field = str(problem.details.get("field") or "") if problem else ""
    return None if field in ("", "body") else NAMES.get(field, field)


def _source(found: Mapping[str, Any]) -> dict[str, Any]:
    """One thing wrong, without what JSON cannot hold and what nobody wants to read back."""
    shown: dict[str, Any] = {"type": str(found["type"]), "loc": list(found["loc"]), "msg": str(found["msg"])}
    given = found.get("input")
    if given is None or isinstance(given, bool | int | str) or (isinstance(given, float) and math.isfinite(given)):
        shown["input"] = given[:_LONGEST_SHOWN] if isinstance(given, str) else given
    return shown


def _line(found: Mapping[str, Any]) -> str:
    """``Filter_id: must be ...``, as Kiln writes it."""
    where = [str(part) for part in found["loc"] if part not in ("body", "query", "path", "header")]
    return f"{'.'.join(where).capitalize()}: {found['msg']}" if where else str(found["msg"])


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: what a provider said may have any number in it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def time(moment: datetime) -> str:
    """UTC, with microseconds where there are some."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def maybe_time(moment: datetime | None) -> str | None:
    return None if moment is None else time(moment)


def say(request: Request, pair: tuple[str, str]) -> str:
    """The Chinese or the English text, as the client prefers."""
    return pair[0] if language_of(request.headers) == "zh" else pair[1]


@contextmanager
def below_home(path: str) -> Iterator[str]:
    """The name under home that a ``dataset_path`` means; one leading slash is the home folder, as in platform-v1.

    Raises:
        Invalid: nothing of that name is there, and the caller had written an absolute path.
    """
    try:
        yield path[1:] if path.startswith("/") else path
    except NotFound as problem:
        field = _field(problem)
        if path.startswith("/") and field in ("dataset_path", "path"):
            parse_name(path, field)  # it says that a path below home is wanted
        raise


def required(field: str) -> Invalid:
    """What says that a field is missing."""
    return Invalid(f"缺少字段 {field}", f"the field {field} is missing", field=field, reason="required")


def one_of(first: str, given: Any, second: str, also: Any) -> Any:
    """The value of a field that has two names.

    Raises:
        Invalid: both are given and differ.
    """
    if given is not None and also is not None and given != also:
        raise Invalid(
            f"{first} 与 {second} 是同一字段的两个名称，取值不同",
            f"{first} and {second} are two names of one field, and differ",
            field=first,
        )
    return also if given is None else given
