"""What the paths of models and generation answer, as OpenAPI tells it."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

Success = Literal["success"]


class About(TypedDict):
    """``endpoints``: where each of the service's paths is, by its name."""

    service: str
    version: str
    description: str
    environment: str
    endpoints: dict[str, str]


class Health(TypedDict):
    """``ollama_proxy`` says whether an Ollama server is configured."""

    status: Literal["healthy"]
    service: Literal["gpt-service"]
    model_manager: bool
    ollama_proxy: bool
    trainer: bool
    evaluator: bool


class ServedModel(TypedDict):
    """A model that can be asked. ``device``: where its engine runs (cpu, cuda:0), or the provider of a hosted one;
    ``version``: what an alias or a version's name led to."""

    name: str
    type: Literal["local", "hosted"]
    device: str
    lora_adapter: str | None
    is_current: bool
    version: NotRequired[str]


class ServedModelFacts(ServedModel):
    """With its base model; ``context_length`` in tokens, ``size_mb`` in millions of bytes, null of a hosted one."""

    base_model: str
    architecture: str | None
    context_length: int | None
    size_mb: float | None


class ServedModelList(TypedDict):
    models: list[ServedModel]
    current_model: str
    total_count: int


class ModelLoaded(TypedDict):
    status: Success
    message: str
    model: ServedModel


class ModelUnloaded(TypedDict):
    status: Success
    message: str
    model_name: str


class ModelSwitched(TypedDict):
    status: Success
    message: str
    current_model: str
    model: ServedModel


class Speaker(TypedDict):
    """Which model speaks: the name asked for, and where that led to a version, which one."""

    model_name: str
    model_version: NotRequired[str]


class Generated(Speaker):
    """An answer; ``tokens_generated`` counts its tokens."""

    text: str
    tokens_generated: int


class AssistantTurn(TypedDict):
    role: Literal["assistant"]
    content: str


class Chatted(Generated):
    """``message`` is the turn to append to ``messages``; ``response`` and ``text`` are its text."""

    message: AssistantTurn
    response: str


class BatchRow(Generated):
    prompt: str


class BatchAnswers(Speaker):
    """In the order of the prompts."""

    results: list[BatchRow]
    total_count: int


class GenerationEvent(TypedDict):
    """One event of a stream, which ends with ``[DONE]``: text; or ``done``, with the totals of the answer, or with an
    ``error``."""

    done: bool
    text: NotRequired[str]
    model_name: NotRequired[str]
    model_version: NotRequired[str]
    tokens_generated: NotRequired[int]
    finish_reason: NotRequired[Literal["stop", "length", "canceled"]]
    error: NotRequired[str]
