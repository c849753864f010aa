"""What every path of the platform-v1 document shares: its error body, times, names and base shapes."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tunesmith.http import request_id
from tunesmith.http.errors import language_of, renamed
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.problems import Problem

Number = Annotated[float, Field(allow_inf_nan=False)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON knows numbers only: some clients write 8.0 for 8, and JSON Schema calls that an integer
WHOLE = BeforeValidator(_whole)  # stands last, so that ranges are of the integer


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("missing", "must not be empty")
    return text


# described, and checked by the validator alone: what is missing, empty or blank is told in the same words
Filled = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"}), AfterValidator(_not_blank)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Body(BaseModel):
    """Strict: "5" is no number. ``model_`` names are the document's own."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class Answer(BaseModel):
    """What the server says, every field of it always; documented in the OpenAPI description."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_serialization_defaults_required=True)


Code = Literal[
    "INVALID_REQUEST",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "NOT_FOUND",
    "CONFLICT",
    "TOO_MANY_REQUESTS",
    "INTERNAL_ERROR",
    "SERVICE_UNAVAILABLE",
]
_CODES: dict[int, Code] = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


class ErrorPart(Answer):
    code: Code
    message: str
    details: dict[str, Any]


class ErrorAnswer(Answer):
    """Every failure; ``request_id`` stands in the server's log too."""

    error: ErrorPart
    timestamp: Time
    request_id: str


_NAMES = {
    "dataset": "dataset_path",
    "output": "config.output_dir",
    "epochs": "config.num_epochs",
    "batch_size": "config.batch_size",
    "learning_rate": "config.learning_rate",
    "quantization": "config.quantization",
    "rank": "lora_config.r",
    "alpha": "lora_config.lora_alpha",
    "dropout": "lora_config.lora_dropout",
    "max_tokens": "max_length",
    "max_new_tokens": "max_length",
}


def error(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    """The document's error body; statuses it does not list (405, 413) carry INVALID_REQUEST."""
    details = dict(problem.details) if problem else {}
    if details.get("reason") == "required" and problem:
        field = details.get("field")
        message = f"参数'{field}'不能为空" if message == problem.zh else f"the parameter '{field}' must not be empty"
    message = renamed(message, problem, _NAMES)
    if details.get("field") in _NAMES:
        details["field"] = _NAMES[details["field"]]
    return {
        "error": {"code": _CODES.get(status, "INVALID_REQUEST"), "message": message, "details": details},
        "timestamp": now(),
        "request_id": request_id.current(),
    }


def time(moment: datetime) -> str:
    """UTC, as the document writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> str:
    return time(utc_now())


def name_under_home(path: str) -> str:
    """A path as the document writes them (``/data/processed/sample``, ``./models/my_model``) as a name under home.

    One leading slash means the home folder, as the root does to a process in a chroot; everything else a path could do
    is refused where names are parsed.
    """
    return path[1:] if path.startswith("/") else path


def megabytes(size: int) -> float:
    return round(size / 1e6, 2)


def say(request: Request, zh: str, en: str) -> str:
    """The message in the client's language."""
    return zh if language_of(request.headers) == "zh" else en
