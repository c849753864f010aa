"""The OpenAI wire as a client sees it: what is sent, what comes back, and what its errors mean."""

import math
from typing import Any

import msgspec

from tunesmith.inference.engine import FinishReason, Request, Sampling
from tunesmith.kernel.problems import (
    Conflict,
    Invalid,
    NotFound,
    Problem,
    TooMany,
    Unavailable,
    Unsupported,
)

DONE = b"[DONE]"
_BY_STATUS: dict[int, type[Problem]] = {
    400: Invalid,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    422: Invalid,
    429: TooMany,
    501: Unsupported,
}
_BY_NAME: dict[str, type[Problem]] = {
    kind.__name__: kind for kind in (Conflict, Invalid, NotFound, TooMany, Unavailable, Unsupported)
}
_FINISH: dict[str, FinishReason] = {"length": "length", "max_tokens": "length"}


class Delta(msgspec.Struct):
    """``reasoning`` is OpenRouter's name, ``reasoning_content`` that of vLLM and DeepSeek."""

    content: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    message: Delta | None = None  # where the server does not stream
    text: str | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None  # US dollars; OpenRouter says it


class Timings(msgspec.Struct):
    """Of the built-in engine only; llama.cpp's server sends others under the same name."""

    first_token_s: float | None = None
    seconds: float | None = None


class Chunk(msgspec.Struct):
    """One frame of a stream; a frame that only reports an error has just ``error``."""

    choices: list[Choice] = []
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None
    model: str | None = None


class Tokenized(msgspec.Struct):
    tokens: list[int]
    max_model_len: int
    end_tokens: list[int] = []


class PromptToken(msgspec.Struct):
    logprob: float


class ScoredChoice(msgspec.Struct):
    index: int = 0
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class Scored(msgspec.Struct):
    choices: list[ScoredChoice]


def check_sampling(sampling: Sampling) -> None:
    """Refuse numbers no engine can sample with, before JSON turns NaN into null.

    Raises:
        Invalid: the field is named.
    """
    for field, right in (
        ("temperature", math.isfinite(sampling.temperature) and sampling.temperature >= 0),
        ("top_p", 0 < sampling.top_p <= 1),
        ("top_k", sampling.top_k >= 0),
        ("repetition_penalty", math.isfinite(sampling.repetition_penalty) and sampling.repetition_penalty > 0),
        ("max_new_tokens", sampling.max_new_tokens >= 1),
        ("stop", all(sampling.stop)),
    ):
        if not right:
            value = getattr(sampling, field)
            raise Invalid(f"{field} 的取值无效：{value}", f"{field} cannot be {value}", field=field)


def completion_body(request: Request, model: str, *, group: str, whole: bool) -> bytes:
    """The body that asks for a stream.

    Args:
        group: which caller this row belongs to.
        whole: send every setting (the built-in engine); other engines get only those that differ from their neutral
            value, because not all know the names that OpenAI lacks.

    Raises:
        Invalid: a text is no valid Unicode.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if isinstance(request.prompt, str):
        body["prompt"] = request.prompt
    else:
        body["messages"] = [message.as_dict() for message in request.prompt]
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if whole:
        body["user"] = group
    return encode(body)


def encode(body: dict[str, Any]) -> bytes:
    """JSON of ``body``.

    Raises:
        Invalid: a text in it is no valid Unicode, or a number is too large.
    """
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, OverflowError) as error:
        raise Invalid("请求含有无效的字符", "the request holds characters that are no valid Unicode") from error


def finish(reason: str) -> FinishReason:
    """Our word for an engine's."""
    return _FINISH.get(reason, "stop")


def problem(status: int, body: bytes) -> Problem:
    """What an error answer means."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        parsed = body.decode("utf-8", "replace").strip()[:300]
    error = parsed.get("error") or parsed.get("detail") or parsed if isinstance(parsed, dict) else parsed
    return stated(error, _BY_STATUS.get(status, Unavailable), f"HTTP {status}")


def stated(error: Any, otherwise: type[Problem] = Unavailable, fallback: str = "error") -> Problem:
    """The problem an error value of a body states.

    Args:
        otherwise: what it is when the body does not say.
    """
    fields = error if isinstance(error, dict) else {"message": error}
    english = str(fields.get("message") or fallback)[:1000]
    chinese = fields.get("message_zh")
    kind = _BY_NAME.get(str(fields.get("type")), otherwise)
    details = {"field": fields["param"]} if isinstance(fields.get("param"), str) else {}
    if isinstance(chinese, str) and chinese:
        return kind(chinese, english, **details)
    return kind(f"推理引擎返回错误：{english}", f"the engine says: {english}", **details)


decode_chunk = msgspec.json.Decoder(Chunk).decode  # one frame; raises msgspec's errors and UnicodeDecodeError
