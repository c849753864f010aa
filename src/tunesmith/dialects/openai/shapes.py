"""What goes out on the OpenAI wire, as OpenAPI tells it: the wire's own shapes, as far as this server fills them."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

Finish = Literal["stop", "length"]


class ModelCard(TypedDict):
    """A name that can be asked. ``created`` in seconds since 1970; ``root``: what answers by that name; ``parent``: the base
    of an adapter; ``max_model_len``: tokens of its context; null where it is not known."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["tunesmith"]
    root: str
    parent: str | None
    max_model_len: int | None


class ModelCards(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


class ModelDeleted(TypedDict):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class PromptDetails(TypedDict):
    cached_tokens: None
    audio_tokens: int


class CompletionDetails(TypedDict):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class LikelyToken(TypedDict):
    """``bytes``: its UTF-8, null where it has none."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(TypedDict):
    content: list[ChosenToken]
    refusal: None


class TextLogprobs(TypedDict):
    """``text_offset`` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class Headed(TypedDict):
    """What every part of one answer repeats; ``created`` in seconds since 1970."""

    id: str
    created: int
    model: str
    service_tier: None
    system_fingerprint: None


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[str]


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(Headed):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextCompletion(Headed):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class ChatDelta(TypedDict):
    """The first of a choice has the role, the last of it nothing."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatCompletionChunk(Headed):
    """One event of a stream, which ends with ``[DONE]``; the last has ``usage`` where it was asked for, and no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class TextChunkChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class TextCompletionChunk(Headed):
    """One event of a stream, as ``ChatCompletionChunk``."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: NotRequired[Usage | None]


class FailureTold(TypedDict):
    """``param`` is the field at fault, ``code`` a word for programs, each null where unknown."""

    message: str
    type: str
    param: str | None
    code: str | None


class StreamFailed(TypedDict):
    """What went wrong in a stream; nothing follows."""

    error: FailureTold
