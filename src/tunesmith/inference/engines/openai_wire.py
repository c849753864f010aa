"""The OpenAI wire as a client sees it: what is sent, what comes back, and what its errors mean."""

import math
from typing import Any

import msgspec

from tunesmith.inference.engine import FinishReason, Request, Sampling, TokenLogprob
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
MAX_TOP_LOGPROBS = 20
MAX_SCHEMA = 128 << 10  # characters of a JSON schema
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
_COUNTS = ("prompt_tokens", "context_length")
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
    logprobs: Any = None


class Share(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[Share] | None" = None


class Shares(msgspec.Struct):
    """``content`` in chat (of some servers in raw completion, too), the others in raw completion."""

    content: list[Share] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


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
        ("min_p", 0 <= sampling.min_p <= 1),
        ("presence_penalty", -2 <= sampling.presence_penalty <= 2),
        ("frequency_penalty", -2 <= sampling.frequency_penalty <= 2),
        ("top_logprobs", sampling.top_logprobs is None or 0 <= sampling.top_logprobs <= MAX_TOP_LOGPROBS),
        ("schema", sampling.schema is None or _is_json(sampling.schema)),
    ):
        if not right:
            value = str(getattr(sampling, field))[:100]
            raise Invalid(f"{field} 的取值无效：{value}", f"{field} cannot be {value}", field=field)


def completion_body(request: Request, model: str, *, group: str, whole: bool) -> bytes:
    """The body that asks for a stream.

    Args:
        group: which caller this row belongs to.
        whole: send every setting (the built-in engine, vLLM); other engines get only those that differ from their neutral
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
    for name in ("min_p", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            body[name] = getattr(sampling, name)
    if sampling.schema is not None:
        schema = {"name": "answer", "schema": msgspec.Raw(sampling.schema.encode()), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if sampling.top_logprobs is not None:
        raw = isinstance(request.prompt, str)
        body |= (
            {"logprobs": sampling.top_logprobs} if raw else {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        )
    if whole:
        if group:
            body["user"] = group
        if request.owner:
            body["cache_salt"] = request.owner
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


def token_logprobs(found: Any, top: int) -> list[TokenLogprob]:
    """The log-probabilities a choice tells, in either shape.

    Args:
        top: how many of the likeliest tokens were asked for in each place.

    Raises:
        msgspec.ValidationError: they are of neither shape.
    """
    shares = msgspec.convert(found, Shares)
    if shares.content is not None:
        return [_token(share, top) for share in shares.content]
    tokens, own = shares.tokens or [], shares.token_logprobs or []
    likeliest = shares.top_logprobs or [None] * len(tokens)
    told = []
    for text, share, others in zip(tokens, own, likeliest, strict=False):
        ranked = sorted((others or {}).items(), key=lambda pair: -pair[1])[:top]
        told.append(TokenLogprob(text, share or 0.0, top=tuple(TokenLogprob(*pair) for pair in ranked)))
    return told


def _token(share: Share, top: int = 0) -> TokenLogprob:
    raw = bytes(byte & 0xFF for byte in share.bytes or ())
    return TokenLogprob(share.token, share.logprob, raw, tuple(_token(one) for one in (share.top_logprobs or [])[:top]))


def _is_json(text: str) -> bool:
    if len(text) > MAX_SCHEMA:
        return False
    try:
        return isinstance(msgspec.json.decode(text), dict | bool)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


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
    details: dict[str, Any] = {"field": fields["param"]} if isinstance(fields.get("param"), str) else {}
    told = fields.get("details")
    if isinstance(told, dict):  # the built-in engine's: how many tokens there were and how many fit
        details |= {key: told[key] for key in _COUNTS if isinstance(told.get(key), int)}
    if isinstance(chinese, str) and chinese:
        return kind(chinese, english, **details)
    return kind(f"推理引擎返回错误：{english}", f"the engine says: {english}", **details)


decode_chunk = msgspec.json.Decoder(Chunk).decode  # one frame; raises msgspec's errors and UnicodeDecodeError
