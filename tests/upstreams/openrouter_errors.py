"""How OpenRouter says that it cannot: before the first token, in both shapes there are, and in the middle."""

from typing import Any

from aiohttp import web

RETRY_AFTER_S = 7
MESSAGES = {
    400: "Provider returned error",
    401: "User not found.",
    402: "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
    403: "Your input was flagged",
    404: "No endpoints found for this model.",
    408: "Request timed out",
    413: "Payload too large",
    422: "Unprocessable",
    429: "Rate limit exceeded: free-models-per-min",
    500: "Internal Server Error",
    502: "Provider returned error",
    503: "No instances available",
    504: "Upstream idle timeout exceeded",
    529: "Provider is overloaded",
}
_TYPES = {429: "rate_limit_exceeded", 502: "provider_unavailable", 503: "provider_unavailable", 504: "timeout"}


def refusal(status: int, message: str | None = None, *, new: bool = False) -> web.Response:
    """An error instead of a stream; ``new`` is the shape without a code that tells of availability."""
    said = message or MESSAGES.get(status, "Unknown error")
    error = _availability(status, said) if new else _classic(status, said)
    headers = {"X-Generation-Id": "gen-refused"}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 429:
        headers |= {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225600000"}
    body = {"error": error} if new else {"error": error, "user_id": "user_1"}
    return web.json_response(body, status=status, headers=headers)


def interruption(code: int | str, chunk: dict[str, Any], *, empty: bool = False) -> dict[str, Any]:
    """The chunk that ends a stream: ``chunk`` with an error; ``empty`` leaves out the choice that says so."""
    said = "Provider disconnected unexpectedly"
    error = {"code": code, "message": said, "metadata": {"error_type": "provider_unavailable"}}
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": "error"}
    return {**chunk, "error": error, "choices": [] if empty else [choice]}


def _classic(status: int, message: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"provider_name": "Nobody", "error_type": _TYPES.get(status, "unmapped")}
    if status == 403:
        metadata |= {"reasons": ["violence"], "flagged_input": "how to ...", "model_slug": "nobody/moderated"}
    return {"code": status, "message": message, "metadata": metadata}


def _availability(status: int, message: str) -> dict[str, Any]:
    availability = {
        "code": "temporarily_unavailable",
        "retryable": True,
        "retry_after": RETRY_AFTER_S,
        "fallback_models": ["mistralai/mistral-7b-instruct"],
    }
    kind = _TYPES.get(status, "unmapped")
    return {"message": message, "error_type": kind, "http_status": status, "availability": availability}
