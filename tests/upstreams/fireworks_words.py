"""Words of the Fireworks stand-in: states, errors as gRPC's gateway writes them, pages, names."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

FINAL = frozenset(f"JOB_STATE_{word}" for word in ("COMPLETED", "EARLY_STOPPED", "FAILED", "CANCELLED", "EXPIRED"))
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}
_SAID = {
    401: "The API key you provided is invalid.",
    402: "Account is suspended: credits are depleted.",
    403: "",  # as Fireworks answers an account that may not
    404: "not found",
    409: "already exists",
    429: "rate limit exceeded",
    500: "internal error",
    503: "service unavailable",
}
_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Refused(Exception):
    """A request the stand-in refuses.

    Args:
        code: gRPC's, where it is not the usual one of the status.
    """

    def __init__(self, status: int, message: str | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = _SAID.get(status, "") if message is None else message
        self.code = _CODES.get(status, 2) if code is None else code

    def answer(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """It as an answer."""
        body = {"code": self.code, "message": self.message, "details": []}
        return web.json_response(body, status=self.status, headers=headers)


def precondition(message: str) -> Refused:
    """The thing is in the wrong state (FAILED_PRECONDITION)."""
    return Refused(400, message, code=9)


def checked_id(text: str, what: str) -> str:
    """An id that a client chose.

    Raises:
        Refused: it does not begin with a letter, or has what no id has.
    """
    if not _ID.fullmatch(text):
        raise Refused(400, f"invalid {what} id {text!r}: must start with a letter and contain only a-z, 0-9 and -")
    return text


def job_word(word: str) -> str:
    return word if word.startswith("JOB_") else f"JOB_STATE_{word}"


def status_of(code: str = "OK", message: str = "") -> dict[str, str]:
    return {"code": code, "message": message}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def page(request: web.Request, name: str, entries: Sequence[Mapping[str, Any]], most: int | None) -> web.Response:
    """One page of a list, ordered by name; the token is where the next begins."""
    query = request.query
    size = min(int(query.get("pageSize") or 50), 200, most or 200)
    start = int(query.get("pageToken") or 0)
    ordered = sorted(entries, key=lambda entry: str(entry["name"]))
    following = start + size
    return web.json_response(
        {
            name: ordered[start:following],
            "nextPageToken": str(following) if following < len(ordered) else "",
            "totalSize": len(ordered),
        }
    )


async def body_of(request: web.Request, known: frozenset[str], required: Sequence[str] = ()) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        Refused: it is none, has a field that the API does not know, or lacks one.
    """
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError:
        raise Refused(400, "request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "request body is not a JSON object")
    if unknown := body.keys() - known:
        raise Refused(400, f"unknown field {min(unknown)!r}")
    for field in required:
        if not body.get(field):
            raise Refused(400, f"{field} is required")
    return body


def safetensors() -> bytes:
    """A file of one tensor of one number."""
    header = json.dumps({"lora_A": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)
