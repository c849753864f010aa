"""An Ollama server beside its answers: what it has, what it holds in memory, what it fetches. Values and the port."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunesmith.inference.model_ids import Listed


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        status: Ollama's own words.
        completed_bytes, total_bytes: over all layers seen so far; 0 until the first is known.
    """

    status: str
    completed_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model in Ollama's memory.

    Attributes:
        size_bytes: in all; ``vram_bytes`` of them on a GPU.
        expires_at: when Ollama lets it go, as Ollama writes it.
        context_length: tokens it was loaded for.
    """

    name: str
    size_bytes: int
    vram_bytes: int
    expires_at: str | None = None
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class OllamaTotals:
    """What was asked of Ollama since this server started.

    Attributes:
        requests: answers asked for; each counts once, as in flight, failed, canceled or else ended well.
        prompt_tokens, completion_tokens: of those that ended well.
        eval_seconds: Ollama spent on writing ``completion_tokens``.
    """

    requests: int = 0
    failures: int = 0
    canceled: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    eval_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Of a single answer, on average; None before the first."""
        return self.completion_tokens / self.eval_seconds if self.eval_seconds else None


@dataclass(frozen=True, slots=True)
class OllamaStats:
    """An Ollama server as it is now.

    Attributes:
        models: see ``OllamaServer.models``.
    """

    version: str
    models: Sequence[Listed]
    running: Sequence[RunningModel]
    totals: OllamaTotals


class OllamaServer(Protocol):
    """An Ollama server, beside generating with it.

    Every call raises the server's Problem: Unavailable where it does not answer (TimedOut where it takes too long).
    """

    @property
    def totals(self) -> OllamaTotals:
        """Counts in memory; asks nobody."""
        ...

    async def models(self) -> list[Listed]:
        """The models on that machine that can chat, newest first."""
        ...

    async def version(self) -> str:
        """Of the server."""
        ...

    async def running(self) -> list[RunningModel]:
        """What is in memory."""
        ...

    async def stats(self) -> OllamaStats:
        """All of these together."""
        ...

    def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Fetch a model. Ending without an exception is success; closing it hangs up, and Ollama keeps the parts.

        Raises:
            NotFound: there is no such model to fetch.
            Invalid: Ollama takes this for no name.
            Unavailable: the connection broke, or Ollama could not do it; it said so itself where ``details`` has
                ``upstream_status``.
        """
        ...
