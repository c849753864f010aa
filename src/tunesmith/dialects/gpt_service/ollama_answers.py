"""What the paths under ``/ollama`` answer, as OpenAPI tells it."""

from typing import Literal

from typing_extensions import TypedDict


class OllamaModel(TypedDict):
    """``size`` in bytes; ``loaded``: it is in Ollama's memory."""

    name: str
    size: int | None
    modified_at: str | None
    loaded: bool


class OllamaModels(TypedDict):
    models: list[OllamaModel]
    total_count: int


class OllamaRunning(TypedDict):
    """``size`` and ``size_vram`` in bytes; ``context_length`` in tokens."""

    name: str
    size: int
    size_vram: int
    expires_at: str | None
    context_length: int | None


class OllamaRequests(TypedDict):
    total: int
    failed: int
    canceled: int
    in_flight: int


class OllamaTokens(TypedDict):
    prompt: int
    generated: int


class OllamaStatistics(TypedDict):
    """What Ollama has, and what was asked of it since this server started; ``total_size`` in bytes."""

    status: Literal["running"]
    version: str
    model_count: int
    total_size: int
    running_models: list[OllamaRunning]
    requests: OllamaRequests
    tokens: OllamaTokens
    tokens_per_second: float | None


PullStatus = Literal["pulling", "success", "failed", "canceled"]


class OllamaPull(TypedDict):
    """``completed`` and ``total`` in bytes, ``progress`` in percent; ``detail`` is what Ollama says, or why it failed; times in
    UTC without zone."""

    pull_id: str
    model_name: str
    status: PullStatus
    detail: str
    completed: int
    total: int
    progress: float
    created_at: str
    completed_at: str | None


class OllamaPulls(TypedDict):
    pulls: list[OllamaPull]


class OllamaPullEvent(OllamaPull):
    """One event of a pull that is followed; the last is ``done``."""

    done: bool


class OllamaPullFailed(TypedDict):
    """The last event of a pull that failed."""

    error: str
    status: Literal["failed"]
    done: Literal[True]
