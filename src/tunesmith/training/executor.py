"""The training port: this machine, a Ray cluster and hosted providers all look like this."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tunesmith.training.run import Progress, Run, State


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing a recipe may set at this executor; ``choices`` empty means any value in [minimum, maximum]."""

    name: str
    kind: str
    default: object
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    description_zh: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What an executor knows of a run now.

    Attributes:
        error: why it failed, in English; ``error_zh`` the same in Chinese.
    """

    state: State
    progress: Progress = field(default_factory=Progress)
    error: str | None = None
    error_zh: str | None = None


class Executor(Protocol):
    """Runs recipes somewhere. Every verb may be repeated after a crash without harm."""

    name: str

    def parameters(self) -> Sequence[Parameter]:
        """What a recipe may set here."""
        ...

    async def base_models(self) -> Sequence[str]:
        """Names of the base models this executor can tune now."""
        ...

    async def submit(self, run: Run) -> str:
        """Start the run and give back a handle to find it by. Idempotent per ``run.id``.

        Raises:
            Invalid: the executor cannot accept this recipe; the run will fail with this message.
            Unavailable: it is not answering; the run stays queued and is tried again.
        """
        ...

    async def poll(self, run: Run) -> Report:
        """Where the run with ``run.handle`` stands.

        Raises:
            Unavailable: unknown for now; the record is left as it is.
        """
        ...

    async def cancel(self, run: Run) -> None:
        """Ask the run to stop; poll tells when it has. Stopping twice is fine, and so is a run that was never
        submitted or whose handle was lost (``handle`` None)."""
        ...
