"""The worker's HTTP shapes: a subset of OpenAI's, with vLLM's additions."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import msgspec

from tunesmith.inference.engine import FinishReason, Sampling, TokenLogprob
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
MAX_CHOICES = 128
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 1000
_MAX_TOP_LOGPROBS = 20
_MAX_SCHEMA = 128 << 10  # bytes
_ANY_OBJECT = '{"type":"object"}'
_PLACE = re.compile(r"at `\$\.([a-z_]+)")  # where msgspec says a value is wrong
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


class SchemaFormat(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw()
    name: str = ""
    strict: bool | None = None  # what is asked for is always kept


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    def schema(self) -> str | None:
        """JSON text of the schema asked for; None for none.

        Raises:
            Invalid: none is given where one is asked for, or it is too large.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return _ANY_OBJECT
        raw = bytes(self.json_schema.schema) if self.json_schema is not None else b""
        text = raw.decode(errors="replace")  # whoever reads it as a schema will refuse it
        _require(bool(text), "response_format.json_schema.schema", " JSON schema", "a JSON schema")
        _require(len(raw) <= _MAX_SCHEMA, "response_format", f"最多 {_MAX_SCHEMA} 字节", f"at most {_MAX_SCHEMA} bytes")
        return text


class SamplingFields(msgspec.Struct):
    """What every generating request may carry; absent values are OpenAI's defaults.

    ``user`` groups the rows of a call, for taking turns; ``cache_salt`` says whose they are: what is kept of a prompt
    serves the same owner alone.
    """

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
    best_of: int | None = None
    user: str | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: ResponseFormat | None = None
    cache_salt: str | None = None

    @property
    def most_likely(self) -> int | None:
        """How many of the likeliest tokens are to be told in each place; None where nothing is to be told."""
        return None

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
        _require(1e-6 <= top_p <= 1, "top_p", "大于 0 且不超过 1", "above 0 and at most 1")
        _require(0 <= top_k < 1 << 31, "top_k", "非负整数", "an integer of at least 0")
        _require(0.01 <= penalty <= 100, "repetition_penalty", "0.01 ~ 100", "0.01 to 100")
        _require(least_tokens <= most < 1 << 31, "max_tokens", f"至少 {least_tokens}", f"at least {least_tokens}")
        fits = len(stop) <= _MAX_STOPS and all(0 < len(text) <= _MAX_STOP_LENGTH for text in stop)
        _require(fits, "stop", f"最多 {_MAX_STOPS} 个非空字符串", f"at most {_MAX_STOPS} strings, none empty")
        return Sampling(
            most,
            temperature,
            top_p,
            top_k,
            penalty,
            self.seed,
            tuple(stop),
            min_p=_within(self.min_p, "min_p", 0, 1),
            presence_penalty=_within(self.presence_penalty, "presence_penalty", -2, 2),
            frequency_penalty=_within(self.frequency_penalty, "frequency_penalty", -2, 2),
            schema=self.response_format.schema() if self.response_format is not None else None,
            top_logprobs=self.most_likely,
        )

    def choices(self, sampling: Sampling) -> list[Sampling]:
        """The settings of each answer to one prompt; with a seed the k-th is drawn with ``seed + k``.

        Raises:
            Invalid: more are asked for than there may be, or the best of several.
        """
        n = 1 if self.n is None else self.n
        _require(1 <= n <= MAX_CHOICES, "n", f" 1 ~ {MAX_CHOICES}", f"1 to {MAX_CHOICES}")
        _require(self.best_of in (None, n), "best_of", " n（不支持挑选）", "n: answers are not ranked")
        seed = sampling.seed
        if seed is None:
            return [sampling] * n
        step = 1 if seed >= 0 else -1  # away from zero: the generator takes a seed by its magnitude
        # within 63 bits; the first keeps the seed as it is
        return [sampling, *(replace(sampling, seed=(seed + k * step) % (step << 63)) for k in range(1, n))]


class ChatBody(SamplingFields, kw_only=True):
    messages: list[ChatMessage]
    add_generation_prompt: bool = True
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def most_likely(self) -> int | None:
        _require(
            self.top_logprobs is None or bool(self.logprobs), "logprobs", " true", "true where top_logprobs is given"
        )
        return _most_likely(self.top_logprobs or 0, "top_logprobs") if self.logprobs else None


class CompletionBody(SamplingFields, kw_only=True):
    prompt: Any
    prompt_logprobs: int | None = None
    logprobs: int | None = None

    @property
    def most_likely(self) -> int | None:
        return None if self.logprobs is None else _most_likely(self.logprobs, "logprobs")

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
    """``delta`` in chat, ``text`` in raw completion; ``logprobs`` where they are asked for."""

    index: int = 0
    delta: ChatDelta | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    finish_reason: FinishReason | None = None


class PromptTokensDetails(msgspec.Struct):
    """``cached_tokens`` of the prompts were known from earlier ones."""

    cached_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


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
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        place = _PLACE.search(str(error))
        field = {"field": place[1]} if place else {}
        raise Invalid(f"请求格式错误：{error}", f"the request is malformed: {error}", **field) from error


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities as chat tells them."""

    def share(token: TokenLogprob) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    return {"content": [share(token) | {"top_logprobs": [share(one) for one in token.top]} for token in tokens]}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Log-probabilities as raw completion tells them; the likeliest in each place together with the one drawn.

    Args:
        offset: characters of the text before the first of ``tokens``.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_by_text((*token.top, token)) for token in tokens],
        "text_offset": offsets,
    }


def usage(prompt_tokens: int, ended: Sequence[Ended], draws: int) -> Usage:
    """Tokens of all rows of a request together; each ``draws`` rows answer one prompt, which counts once."""
    completion = sum(end.completion_tokens for end in ended)
    known = [end.cached_tokens for end in ended]
    cached = sum(min(known[i : i + draws]) for i in range(0, len(known), draws))
    return Usage(prompt_tokens, completion, prompt_tokens + completion, PromptTokensDetails(cached))


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
        "details": {key: value for key, value in problem.details.items() if isinstance(value, int)},
    }
    return status, msgspec.json.encode({"error": body})


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _require(right: bool, field: str, zh: str, en: str) -> None:
    if not right:
        raise Invalid(f"{field} 应为{zh}", f"{field} must be {en}", field=field)


def _by_text(tokens: Sequence[TokenLogprob]) -> dict[str, float]:
    """Several may look alike, as halves of characters do: the likeliest of them counts."""
    found: dict[str, float] = {}
    for token in sorted(tokens, key=lambda token: -token.logprob):
        found.setdefault(token.text, token.logprob)
    return found


def _within(value: float | None, field: str, low: float, high: float) -> float:
    found = 0.0 if value is None else value
    _require(low <= found <= high, field, f" {low} ~ {high}", f"{low} to {high}")
    return found


def _most_likely(count: int, field: str) -> int:
    _require(0 <= count <= _MAX_TOP_LOGPROBS, field, f" 0 ~ {_MAX_TOP_LOGPROBS}", f"0 to {_MAX_TOP_LOGPROBS}")
    return count
