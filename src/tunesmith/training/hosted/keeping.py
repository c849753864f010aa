"""What of a provider's answers may be kept and shown: no secrets, no addresses that open something, and never too much."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.training.hosted.provider import JobEvent

MASK = "***"
_CUT = "…"
_LONGEST = 2000  # characters of a provider's own words
_MOST = 65_536  # characters of one answer
_DEEPEST, _WIDEST = 12, 500
_MOST_EVENTS, _LONGEST_EVENT, _LONGEST_WORD = 500, 1000, 80
_SECRET = re.compile(
    r"signed_?ur[il]|api_?(key|token)|secret|password|credential|authorization"
    r"|^token$|(access|refresh|auth|bearer|session|hf|hub)_?token$|(wandb|access|private)_?key$",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(https?://[^\s\"'<>?]+\?)[^\s\"'<>]+", re.IGNORECASE)
_SIGNED = re.compile(
    r"[?&](x-(goog|amz)-[a-z-]+|signature|sig|[a-z_]*token|credential|awsaccesskeyid|googleaccessid|policy)=",
    re.IGNORECASE,
)


def plain(text: str, longest: int = _LONGEST) -> str:
    """A provider's words on one line, without what signs an address."""
    return UNPRINTABLE.sub(" ", unsigned(text[: 4 * longest])).strip()[:longest]


def unsigned(text: str) -> str:
    """The text; addresses in it that are signed lose what signs them."""
    return _QUERY.sub(lambda found: found[1] + MASK if _SIGNED.search(found[0]) else found[0], text)


def struck(value: Any, key: str | None = None) -> Any:
    """A JSON value without secrets; what is too deep, too wide or too long is cut.

    Args:
        key: struck out wherever it is quoted.
    """
    left = _MOST

    def text(told: str) -> str:
        nonlocal left
        told = told[: max(0, left)] + (_CUT if len(told) > left else "")
        left -= len(told)
        return unsigned(told.replace(key, MASK) if key else told)

    def within(each: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if isinstance(each, str):
            return text(each)
        if isinstance(each, int) and abs(each) >> 64:
            return _CUT
        if not isinstance(each, dict | list):
            return each
        if depth > _DEEPEST or left <= 0:
            return _CUT
        if isinstance(each, list):
            kept = [within(one, depth + 1) for one in each[:_WIDEST] if left > 0]
            return kept if len(kept) == len(each) else [*kept, _CUT]
        found: dict[str, Any] = {}
        for name, one in each.items():
            if left <= 0 or len(found) == _WIDEST:
                found[_CUT] = _CUT
                break
            hidden = _SECRET.search(str(name)) is not None and one not in (None, "", False)
            found[text(str(name))] = MASK if hidden else within(one, depth + 1)
        return found

    return within(value, 0)


def events_kept(events: Iterable[JobEvent]) -> tuple[JobEvent, ...]:
    """The last events, each with as many words as are read."""
    return tuple(
        replace(
            event,
            kind=plain(event.kind, _LONGEST_WORD),
            message=plain(event.message, _LONGEST_EVENT),
            level=plain(event.level, _LONGEST_WORD),
        )
        for event in tuple(events)[-_MOST_EVENTS:]
    )
