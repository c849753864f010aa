"""What comes in on the OpenAI wire, with OpenAI's defaults, and its errors."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunesmith.datasets.example import Message
from tunesmith.http.errors import renamed
from tunesmith.inference.chat import MAX_MESSAGES, MAX_PROMPTS, MAX_TOP_LOGPROBS
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.problems import Invalid, NotFound, Problem, TooMany, Unauthenticated, Unsupported

MAX_CHOICES = 128
_CHAT_TOKENS, _TEXT_TOKENS = 4096, 16  # most tokens where nothing is said; an engine ends sooner where the context does
_ANY_OBJECT = '{"type":"object"}'

Number = Annotated[float, Field(allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Shares = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
Stops = Annotated[list[str], Field(max_length=16, fail_fast=True)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(_listed)  # where the wire takes a string or a list of them

# What would change the answer and cannot be done: refused, unless it asks for nothing (null, or one of these values).
# The second block is vLLM's.
_UNSERVED: Mapping[str, Sequence[object]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "best_of": (),
    "echo": (False,),
    "suffix": ("",),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "prompt_logprobs": (),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "use_beam_search": (False,),
}


class Body(BaseModel):
    """Strict: "5" is no number."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class StreamOptions(Body):
    include_usage: bool | None = None


class Generation(Body):
    """What both calls carry; ``null`` is the same as nothing. ``model`` left out is the current model.

    The second block is what other servers of this wire know beside OpenAI's, sent as ``extra_body``.
    """

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Seed | None = None
    stop: Annotated[Stops | None, OneOrMore] = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None

    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream tells what it used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _sampling(self, most: int, logprobs: int | None, schema: str | None = None) -> Sampling:
        self._require_served()
        return Sampling(
            max_new_tokens=most,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),  # -1 is vLLM's word for all
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            schema=schema,
            top_logprobs=logprobs,
        )

    def _require_served(self) -> None:
        for name, value in (self.model_extra or {}).items():
            nothing = _UNSERVED.get(name)
            if nothing is None or value is None or value in nothing:
                continue
            if name == "best_of" and value == self.choices:  # the best of all that are answered is all of them
                continue
            raise _unserved(name)


class Turn(Body):
    """One message; what else it may carry (``name``, ``refusal``, ``annotations``) is not shown to a model."""

    role: str
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None

    def message(self, at: str) -> Message:
        """The message; ``at`` is where it stands in the body."""
        role = {"developer": "system"}.get(self.role, self.role)
        for field in ("tool_calls", "function_call"):
            if getattr(self, field):
                raise _unserved(f"{at}.{field}")
        if role in ("tool", "function"):
            raise _unserved(f"{at}.role", self.role)
        if role not in ("system", "user", "assistant"):
            raise Invalid(
                f"{at}.role 应为 system、developer、user 或 assistant",
                f"{at}.role must be system, developer, user or assistant",
                field=f"{at}.role",
                reason="choice",
            )
        return Message.of(role, self._text(f"{at}.content"))

    def _text(self, at: str) -> str:
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            raise Invalid(f"缺少字段 {at}", f"the field {at} is missing", field=at, reason="required")
        if not isinstance(self.content, list):
            raise Invalid(
                f"{at} 应为字符串或内容片段的数组",
                f"{at} must be a string or an array of content parts",
                field=at,
                reason="type",
            )
        return "".join(_text_of(part, f"{at}[{i}]") for i, part in enumerate(self.content))


def _text_of(part: Any, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != "text":
        raise _unserved(f"{at}.type", kind)
    text = part.get("text") if kind else None
    if not isinstance(text, str):
        raise Invalid(
            f'{at} 应为 {{"type": "text", "text": 字符串}}',
            f'{at} must be {{"type": "text", "text": a string}}',
            field=at,
            reason="type",
        )
    return text


class JsonSchema(Body):
    """``strict`` or not, an answer satisfies it."""

    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_text(self) -> str | None:
        """JSON text of the schema an answer has to satisfy."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return _ANY_OBJECT
        if self.json_schema is None or self.json_schema.schema_ is None:
            at = "response_format.json_schema" + (".schema" if self.json_schema else "")
            raise Invalid(f"缺少字段 {at}", f"the field {at} is missing", field=at, reason="required")
        try:
            return json.dumps(self.json_schema.schema_, allow_nan=False)
        except (ValueError, RecursionError) as error:  # NaN, which Python's reader lets in
            raise Invalid(
                "response_format.json_schema.schema 不是有效的 JSON",
                "response_format.json_schema.schema is not valid JSON",
                field="response_format.json_schema.schema",
            ) from error


class ChatBody(Generation):
    """The body of ``/chat/completions``."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Shares | None = None
    response_format: ResponseFormat | None = None

    def prompts(self) -> list[list[Message]]:
        """The one conversation.

        Raises:
            Invalid, Unsupported: a message is none that a model can be shown; the place is named.
        """
        return [[turn.message(f"messages[{i}]") for i, turn in enumerate(self.messages)]]

    def sampling(self) -> Sampling:
        """How to draw.

        Raises:
            Invalid, Unsupported: a field cannot be obeyed; it is named.
        """
        if self.top_logprobs is not None and not self.logprobs:
            raise Invalid(
                "top_logprobs 需要 logprobs 为 true", "top_logprobs needs logprobs to be true", field="top_logprobs"
            )
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        shares = self.top_logprobs or 0 if self.logprobs else None
        schema = self.response_format.schema_text() if self.response_format else None
        return self._sampling(_CHAT_TOKENS if most is None else most, shares, schema)


class TextBody(Generation):
    """The body of ``/completions``."""

    prompt: Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), OneOrMore]
    logprobs: Shares | None = None

    def prompts(self) -> list[str]:
        """The texts to continue."""
        return self.prompt

    def sampling(self) -> Sampling:
        """How to draw.

        Raises:
            Invalid, Unsupported: a field cannot be obeyed; it is named.
        """
        return self._sampling(_TEXT_TOKENS if self.max_tokens is None else self.max_tokens, self.logprobs)


def _unserved(field: str, value: str | None = None) -> Unsupported:
    shown = field if value is None else f"{field} {ascii(value)[:64]}"
    return Unsupported(
        f"不支持 {shown}：请去掉它再试", f"{shown} is not supported: leave it out", field=field,
        code="unsupported_parameter" if value is None else "unsupported_value",
    )  # fmt: skip


_NAMES = {
    "max_new_tokens": "max_tokens",
    "num_return_sequences": "n",
    "prompts": "prompt",
    "schema": "response_format",
    "lora_adapter": "model",
    "base_model": "model",
    "model_name": "model",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_value",
    404: "unknown_url",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    500: "internal_error",
    503: "service_unavailable",
    504: "timeout",
}
_REASONS = {
    "required": "missing_required_parameter",
    "type": "invalid_type",
    "range": "invalid_value",
    "choice": "invalid_value",
    "format": "invalid_value",
}
_KINDS: Sequence[tuple[type[Problem], str]] = (
    (NotFound, "model_not_found"),
    (Unauthenticated, "invalid_api_key"),
    (TooMany, "rate_limit_exceeded"),
)


def error(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    """The wire's error body; ``param`` is the field at fault, ``code`` a word for programs, each null where unknown."""
    details = problem.details if problem else {}
    code = _code(status, problem)
    field = str(details.get("field", "")) or ("model" if code == "model_not_found" else "")
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    param = None if field in ("", "body") else _NAMES.get(field, field)
    return {"error": {"message": renamed(message, problem, _NAMES), "type": kind, "param": param, "code": code}}


def _code(status: int, problem: Problem | None) -> str | None:
    if problem is None:
        return _CODES.get(status)
    if "code" in problem.details:
        return str(problem.details["code"])
    if "context_length" in problem.details:
        return "context_length_exceeded"
    of_kind = next((code for kind, code in _KINDS if isinstance(problem, kind)), None)
    return of_kind or _REASONS.get(str(problem.details.get("reason"))) or _CODES.get(status)
