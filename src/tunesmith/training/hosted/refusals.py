"""What a provider's answer means that is no success: a Problem with the provider's own words and the raw answer."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, TimedOut, Unavailable
from tunesmith.training.hosted.keeping import struck

_LONGEST = 1000  # characters of the provider's own words
_LONGEST_RAW = 1 << 14
_BY_STATUS: Mapping[int, type[Problem]] = {
    401: Forbidden,
    402: Forbidden,
    403: Forbidden,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    425: Unavailable,
    429: Unavailable,
    504: TimedOut,
    524: TimedOut,
}
_MEANING: Mapping[int, tuple[str, str]] = {
    402: ("余额不足", "its credit is used up"),
    403: ("不允许此操作", "this is not allowed"),
    404: ("没有找到", "there is no such thing"),
    429: ("请求过多，请稍后重试", "too many requests; ask again later"),
}


def refused(
    label: str, variable: str, status: int, body: bytes, headers: Mapping[str, str], key: str | None
) -> Problem:
    """What an answer other than 2xx means.

    Args:
        variable: the environment variable of the key, which a 401 speaks of.
        key: struck out wherever it is quoted; so are signed addresses.

    Returns:
        Unavailable for what may pass; ``details`` has ``upstream_status``, ``raw`` and, where told, ``retry_after``
        in seconds.
    """
    raw = struck(_parsed(body), key)
    words = _words(raw)
    zh, en = _meaning(status, variable)
    said_zh, said_en = (
        (words or zh, words or en) if status != 401 else (f"{zh} {words}".strip(), f"{en} {words}".strip())
    )
    details: dict[str, Any] = {"upstream_status": status, "raw": raw}
    retry_after = seconds(headers.get("Retry-After", ""))
    if retry_after is not None:
        details["retry_after"] = retry_after
    kind = _BY_STATUS.get(status, Invalid if 400 <= status < 500 else Unavailable)
    return kind(
        f"{label} 拒绝了请求（{status}）：{said_zh}", f"{label} refused the request ({status}): {said_en}", **details
    )


def without_key(label: str, variable: str) -> Forbidden:
    """There is no key: the provider is not asked."""
    return Forbidden(
        f"没有 {label} 的密钥，请设置环境变量 {variable}，或由管理员保存密钥",
        f"there is no key for {label}: set {variable}, or let an admin store one",
        field=variable,
    )


def seconds(text: str) -> float | None:
    """Seconds to wait, from either form of Retry-After (RFC 9110, 10.2.3); None for nothing sensible."""
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(text) - utc_now()).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return wait_s if 0 < wait_s < 86_400 else None  # false for NaN


def _meaning(status: int, variable: str) -> tuple[str, str]:
    if status == 401:
        return f"密钥不被接受，请检查 {variable}。", f"the key is not accepted, check {variable}."
    if status >= 500:
        return "服务暂时不可用，请稍后重试", "the service is not available now; ask again later"
    return _MEANING.get(status, ("没有说明原因", "it does not say why"))


def _parsed(body: bytes) -> Any:
    try:
        if len(body) <= _LONGEST_RAW:
            return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return UNPRINTABLE.sub(" ", body[:_LONGEST_RAW].decode(errors="replace"))


def _words(raw: Any) -> str:
    """The provider's own words on one line: ``{"error": {"message"}}``, ``{"message"}``, ``{"detail"}``, or text."""
    for _ in range(3):
        if not isinstance(raw, dict):
            break
        raw = next((raw[name] for name in ("error", "message", "detail", "title") if raw.get(name)), None)
    if isinstance(raw, list):  # FastAPI's
        raw = "; ".join(str(each.get("msg", "")) for each in raw if isinstance(each, dict))
    if not isinstance(raw, str) or raw.lstrip().startswith("<"):
        return ""  # a proxy's page: nothing to quote
    return UNPRINTABLE.sub(" ", raw).strip()[:_LONGEST]
