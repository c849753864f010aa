"""What a row reports while it runs, and where its reader waits for it. Nothing here needs torch."""

import asyncio
from dataclasses import dataclass

from tunesmith.inference.engine import FinishReason
from tunesmith.kernel.problems import Problem


@dataclass(frozen=True, slots=True)
class Text:
    """More text; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The row is over. ``first_token_s`` and ``seconds`` count from when it was asked, waiting included."""

    finish: FinishReason
    completion_tokens: int
    first_token_s: float
    seconds: float
    logprobs: tuple[float, ...] = ()  # of each prompt token but the first, when asked for


@dataclass(frozen=True, slots=True)
class Failed:
    """The row is over because of ``problem``."""

    problem: Problem


RowEvent = Text | Ended | Failed


class Mailbox:
    """Where a row's events wait for the coroutine that reads them. Belongs to the event loop."""

    def __init__(self) -> None:
        self._events: list[RowEvent] = []
        self._filled = asyncio.Event()

    def put(self, event: RowEvent) -> None:
        self._events.append(event)
        self._filled.set()

    async def take(self) -> list[RowEvent]:
        """All events there are; waits for the first."""
        await self._filled.wait()
        self._filled.clear()
        events, self._events = self._events, []
        return events


async def collect(mailbox: Mailbox) -> tuple[str, Ended]:
    """Everything one row says.

    Raises:
        Problem: the row failed.
    """
    text: list[str] = []
    while True:
        for event in await mailbox.take():
            if isinstance(event, Failed):
                raise event.problem
            if isinstance(event, Ended):
                return "".join(text), event
            text.append(event.text)
