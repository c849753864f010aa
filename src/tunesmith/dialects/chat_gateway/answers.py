"""What the chat-gateway dialect answers, as OpenAPI tells it. Times in ISO 8601."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from tunesmith.inference.conversations import State
from tunesmith.inference.gateway import Answerer, Service


class OfferedModel(TypedDict):
    """What is not known of a model is left out. ``context_length`` in tokens, prices in US dollars per million tokens;
    ``loaded``: it is in memory."""

    id: str
    name: str
    context_length: NotRequired[int]
    prompt_usd_per_million: NotRequired[float]
    completion_usd_per_million: NotRequired[float]
    size_bytes: NotRequired[int]
    modified: NotRequired[str]
    loaded: NotRequired[Literal[True]]


class OfferingService(TypedDict):
    """Where it is not ``available``, ``reason`` says why."""

    service: Service
    answered_by: Answerer
    available: bool
    reason: str | None
    default_model: str | None
    models: list[OfferedModel]


class Offers(TypedDict):
    services: list[OfferingService]


class SpentOnModel(TypedDict):
    """``service``: who answered."""

    service: str
    model: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class SpendingShown(TypedDict):
    models: list[SpentOnModel]
    total_cost_usd: float


class ConversationShown(TypedDict):
    conversation_id: str
    turns: int
    created_at: str
    updated_at: str


class ConversationList(TypedDict):
    conversations: list[ConversationShown]


class TurnShown(TypedDict):
    """A question, ``message``, and its answer as far as it came."""

    number: int
    message: str
    context: str | None
    response: str
    state: State
    service: str | None
    model: str | None
    created_at: str
    ended_at: str | None


class TranscriptShown(ConversationShown):
    messages: list[TurnShown]


class ConversationDeleted(TypedDict):
    conversation_id: str
    deleted: Literal[True]


class KeyShown(TypedDict):
    """What may be told of a provider's key; never the key. ``opens``: the secret of this server opens it."""

    provider: str
    source: Literal["environment", "stored"]
    set_by: str | None
    set_at: str | None
    hint: str | None
    opens: bool


class KeyList(TypedDict):
    keys: list[KeyShown]


class KeyForgotten(TypedDict):
    """``deleted`` is false where none was stored."""

    provider: str
    deleted: bool


class AnswerPiece(TypedDict):
    content: str


class AnswerUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    cost_usd: NotRequired[float]


class AnswerChunk(TypedDict):
    """A piece of the answer; the empty last one is ``done`` and tells the whole."""

    message: AnswerPiece
    chunk: int
    done: bool
    fullResponse: NotRequired[str]
    model: NotRequired[str]
    service: NotRequired[Service]
    usage: NotRequired[AnswerUsage]


class ErrorChunk(TypedDict):
    """What went wrong; nothing follows."""

    error: Literal[True]
    code: int
    message: str
    details: NotRequired[str]
