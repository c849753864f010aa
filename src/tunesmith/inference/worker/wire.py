"""The worker's HTTP shapes: a subset of OpenAI's, with vLLM's additions."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from tunesmith.inference.engine import FinishReason, Sampling
from tunesmith.inference.worker.events import Ended
from tunesmith.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

MAX_PROMPTS = 1024
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 1000
_STATUS: dict[type[Problem], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooMany: 429,
    Unsupported: 501,
    Unavailable: 503,
}


class ChatMessage(msgspec.Struct):
    role: str
    content: str


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class SamplingFields(msgspec.Struct):
    """What every generating request may carry; absent values are OpenAI's defaults."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    n: int | None = None
    user: str | None = None

    def sampling(self, default_tokens: int, least_tokens: int = 1) -> Sampling:
        """The domain value.

        Raises:
            Invalid: a value is out of range; the field is named.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        most = default_tokens if self.max_tokens is None else self.max_tokens
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        top_k = 0 if self.top_k in (None, -1) else self.top_k or 0
        penalty = 1.0 if self.repetition_penalty is None else self.repetition_penalty
        _require(math.isfinite(temperature) and 0 <= temperature <= 100, "temperature", "0 ~ 100", "0 to 100")
        _require(0 < top_p <= 1, "top_p", "大于 0 且不超过 1", "above 0 and at most 1")
        _require(0 <= top_k < 1 << 31, "top_k", "非负整数", "an integer of at least 0")
        _require(0 < penalty <= 100, "repetition_penalty", "大于 0 且不超过 100", "above 0 and at most 100")
        _require(least_tokens <= most < 1 << 31, "max_tokens", f"至少 {least_tokens}", f"at least {least_tokens}")
        _require(self.n in (None, 1), "n", "1", "1")
        fits = len(stop) <= _MAX_STOPS and all(0 < len(text) <= _MAX_STOP_LENGTH for text in stop)
        _require(fits, "stop", f"最多 {_MAX_STOPS} 个非空字符串", f"at most {_MAX_STOPS} strings, none empty")
        return Sampling(most, temperature, top_p, top_k, penalty, self.seed, tuple(stop))


class ChatBody(SamplingFields, kw_only=True):
    messages: list[ChatMessage]
    add_generation_prompt: bool = True


class CompletionBody(SamplingFields, kw_only=True):
    prompt: Any
    prompt_logprobs: int | None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """One or more prompts, each text or token ids.

        Raises:
            Invalid: it is neither, or too many.
        """
        many = self.prompt if isinstance(self.prompt, list) and not _is_ids(self.prompt) else [self.prompt]
        right = 0 < len(many) <= MAX_PROMPTS and all(isinstance(one, str) or _is_ids(one) for one in many)
        _require(right, "prompt", "文本、token 列表或它们的列表", "text, a list of token ids, or a list of either")
        return many


class TokenizeBody(msgspec.Struct):
    model: str | None = None
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True


class LoadBody(msgspec.Struct):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadBody(msgspec.Struct):
    lora_name: str


class ChatDelta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class StreamChoice(msgspec.Struct):
    """``delta`` in chat, ``text`` in raw completion."""

    index: int = 0
    delta: ChatDelta | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    finish_reason: FinishReason | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(msgspec.Struct):
    """Seconds since the request came, waiting included."""

    first_token_s: float
    seconds: float


class Chunk(msgspec.Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[StreamChoice] | msgspec.UnsetType = msgspec.UNSET
    usage: Usage | None = None
    timings: Timings | None = None


Body = TypeVar("Body")


def parse(raw: bytes, shape: type[Body]) -> Body:
    """The request body.

    Raises:
        Invalid: no JSON, or not of that shape; the place is named.
    """
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid(f"请求格式错误：{error}", f"the request is malformed: {error}") from error


def usage(prompt_tokens: int, ended: Sequence[Ended]) -> Usage:
    """Tokens of all rows of a request together."""
    completion = sum(end.completion_tokens for end in ended)
    return Usage(prompt_tokens, completion, prompt_tokens + completion)


def timings(ended: Sequence[Ended]) -> Timings:
    """Of the slowest row of a request."""
    return Timings(max(end.first_token_s for end in ended), max(end.seconds for end in ended))


def error(problem: Problem) -> tuple[int, bytes]:
    """HTTP status and body of a problem."""
    status = next((code for kind, code in _STATUS.items() if isinstance(problem, kind)), 500)
    body = {
        "message": problem.en,
        "message_zh": problem.zh,
        "type": type(problem).__name__,
        "param": problem.details.get("field"),
        "code": status,
    }
    return status, msgspec.json.encode({"error": body})


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _require(right: bool, field: str, zh: str, en: str) -> None:
    if not right:
        raise Invalid(f"{field} 应为{zh}", f"{field} must be {en}", field=field)
