"""What a row reports while it runs, and where its reader waits for it. Nothing here needs torch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from tunesmith.inference.engine import FinishReason, TokenLogprob
from tunesmith.kernel.problems import Problem

_BEHIND = 256  # tokens: some seconds of a fast row


# made for every row of every step: a dataclass takes three times as long
class Text(msgspec.Struct, frozen=True, gc=False):
    """More text, and the log-probabilities of the tokens that came since the last; one of both at least.

    Attributes:
        tokens: about how many have made it.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """The row is over. ``first_token_s`` and ``seconds`` count from when it was asked, waiting included."""

    finish: FinishReason
    completion_tokens: int
    first_token_s: float
    seconds: float
    logprobs: tuple[float, ...] = ()  # of each prompt token but the first, when asked for
    cached_tokens: int = 0  # prompt tokens that were not computed for this row


@dataclass(frozen=True, slots=True)
class Failed:
    """The row is over because of ``problem``."""

    problem: Problem


RowEvent = Text | Ended | Failed


class Mailbox:
    """Where a row's events wait for the coroutine that reads them. Belongs to the event loop.

    Args:
        on_behind: told True when more waits than a reader who keeps up would leave, and False when it is taken.
    """

    def __init__(self, on_behind: Callable[[bool], None] = lambda behind: None) -> None:
        self._events: list[RowEvent] = []
        self._tokens = 0
        self._filled = asyncio.Event()
        self._on_behind, self._behind = on_behind, False

    def put(self, events: Sequence[RowEvent]) -> None:
        """At least one."""
        self._events += events
        self._tokens += sum(event.tokens if type(event) is Text else 1 for event in events)
        self._filled.set()
        if self._tokens >= _BEHIND and not self._behind:
            self._behind = True
            self._on_behind(True)

    async def take(self) -> list[RowEvent]:
        """All events there are; waits for the first."""
        await self._filled.wait()
        self._filled.clear()
        events, self._events, self._tokens = self._events, [], 0
        if self._behind:
            self._behind = False
            self._on_behind(False)
        return events


async def collect(mailbox: Mailbox) -> tuple[Text, Ended]:
    """Everything one row says.

    Raises:
        Problem: the row failed.
    """
    texts: list[Text] = []
    while True:
        for event in await mailbox.take():
            if isinstance(event, Failed):
                raise event.problem
            if isinstance(event, Ended):
                return joined(texts), event
            texts.append(event)


async def collect_all(mail: Sequence[Mailbox]) -> list[tuple[Text, Ended]]:
    """Everything some rows say, all read at once: a row that is read only after others would wait for them.

    Raises:
        Problem: one of them failed.
    """
    if len(mail) == 1:
        return [await collect(mail[0])]
    reading = [asyncio.ensure_future(collect(mailbox)) for mailbox in mail]
    try:
        return await asyncio.gather(*reading)
    finally:
        for task in reading:
            task.cancel()


def joined(texts: Sequence[Text]) -> Text:
    """Pieces that came one after the other, as one."""
    told = tuple(one for piece in texts for one in piece.logprobs)
    return Text("".join(piece.text for piece in texts), told, sum(piece.tokens for piece in texts))
