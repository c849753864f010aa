"""What an upstream's errors mean, before the first token and in the middle of an answer.

OpenRouter (docs: api_reference/errors-and-debugging) answers with ``{"error": {"code", "message", "metadata"}}``, its
newer availability errors with ``{"error": {"message", "error_type", "http_status", …}}``; Ollama (server/routes.go)
with ``{"error": "text"}``; others with anything. The HTTP status is believed first, then what the body says.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from string import ascii_letters, digits
from typing import Any

import msgspec
import structlog

from tunesmith.inference.engines.answer import Label
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem, TimedOut, TooMany, Unavailable

_log = structlog.get_logger(__name__)
_LONGEST = 500  # characters of the upstream's own words
# A token (RFC 9110, 11.2) is quoted whole or not at all: half of a key would not be known as one.
_OF_TOKENS = f"{ascii_letters}{digits}-._~+/="
_BY_STATUS: Mapping[int, type[Problem]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    408: TimedOut,
    409: Invalid,
    413: Invalid,
    422: Invalid,
    429: TooMany,
    504: TimedOut,
    524: TimedOut,
}
_BY_TYPE: Mapping[str, int] = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 402,
    "provider_overloaded": 503,
    "provider_unavailable": 503,
    "timeout": 504,
    "context_length_exceeded": 400,
    "invalid_request": 400,
    "invalid_request_error": 400,
}
_OPERATORS = frozenset({401, 402, 407})  # our key or our credit: not the caller's business


def refused(label: Label, status: int, body: bytes, headers: Mapping[str, str]) -> Problem:
    """What an answer other than 200 means; names of its headers in lower case."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        parsed = None  # a proxy's page: nothing to quote
    # vLLM of last year has its fields at the top
    error = parsed.get("error") or parsed.get("detail") or parsed if isinstance(parsed, dict) else None
    return _problem(label, status, _words(error), _retry_after(headers.get("retry-after", "")) or _wait_of(error))


def stated(label: Label, error: Any) -> Problem:
    """What an error inside an answer of status 200 means; its own code is kept."""
    return _problem(label, _code(error), _words(error), _wait_of(error))


def _problem(label: Label, status: int, words: str, retry_after: float | None) -> Problem:
    if status in _OPERATORS:
        # what they say may quote the key, and the caller can do nothing about it
        _log.warning("an upstream refuses our key or credit", upstream=label.en, status=status)
        return Unavailable(
            f"{label.zh}不接受配置的密钥或余额不足，请检查服务配置",
            f"{label.en} does not accept the configured key, or its credit is used up: check the configuration",
            upstream_status=status,
            operator=True,
        )
    details: dict[str, Any] = {"upstream_status": status}
    if retry_after is not None:
        details["retry_after"] = retry_after
    said = f"{status} {words}".strip()
    kind = _BY_STATUS.get(status, Invalid if 400 <= status < 499 else Unavailable)
    return kind(f"{label.zh.strip()} 请求失败: {said}", f"{label.en} refused the request: {said}", **details)


def _code(error: Any) -> int:
    """The status an error value of a body states."""
    if not isinstance(error, dict):
        return 500
    metadata = error.get("metadata")
    typed = metadata.get("error_type") if isinstance(metadata, dict) else None
    for found in (error.get("code"), error.get("http_status"), error.get("status")):
        if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) == 3:
            found = int(found)
        if isinstance(found, int) and 400 <= found <= 599:
            return found
    for found in (error.get("code"), error.get("error_type"), typed, error.get("type")):
        if isinstance(found, str) and found in _BY_TYPE:
            return _BY_TYPE[found]
    return 500


def _words(error: Any) -> str:
    """The upstream's own words, on one line."""
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str):
        return ""
    text = UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip(_OF_TOKENS).rstrip()


def _wait_of(error: Any) -> float | None:
    """Seconds after which OpenRouter's availability errors suggest to ask again."""
    availability = error.get("availability") if isinstance(error, dict) else None
    wait = availability.get("retry_after") if isinstance(availability, dict) else None
    return _sensible(wait) if isinstance(wait, int | float) else None


def _retry_after(text: str) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    try:
        return _sensible(float(text))
    except ValueError:
        pass
    try:
        return _sensible((parsedate_to_datetime(text) - utc_now()).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _sensible(seconds: float) -> float | None:
    return float(seconds) if 0 < seconds < 86_400 else None  # false for NaN
