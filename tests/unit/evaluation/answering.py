"""An engine for these tests: answers from a table, fails when told to, and counts its calls."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from tunesmith.inference.engine import Delta, Done, Event, FinishReason, Reference, Request, Score
from tunesmith.kernel.problems import Unavailable


class AnsweringEngine:
    """Implements the Engine port.

    Args:
        tuned, base: answer by the content of the last message; a model with an adapter uses ``tuned``.
        fail_after: raise ``problem`` once so many rows have ended.
        hold: an event waited for before the first row ends.
        score: what every reference gets with and without adapter.
    """

    def __init__(
        self,
        tuned: Mapping[str, str],
        base: Mapping[str, str] | None = None,
        *,
        fail_after: int | None = None,
        problem: Exception | None = None,
        hold: asyncio.Event | None = None,
        finish: FinishReason = "stop",
        score: tuple[Score, Score] = (Score(-2.0, 4), Score(-8.0, 4)),
    ) -> None:
        self._tuned, self._base = tuned, base or {}
        self._fail_after, self._hold, self._finish, self._score = fail_after, hold, finish, score
        self._problem = problem or Unavailable("引擎崩溃", "the engine crashed")
        self.generated: list[list[Request]] = []
        self.scored: list[list[Reference]] = []
        self.asked = asyncio.Event()
        self.closed = 0
        self.active = self.most_active = 0

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        self.generated.append(list(requests))
        self.asked.set()
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self._hold is not None:
                await self._hold.wait()
            # last row first: callers must go by the row, not by the order
            for ended, row in enumerate(reversed(range(len(requests)))):
                if ended == self._fail_after:
                    raise self._problem
                await asyncio.sleep(0)
                text = self._answer(requests[row])
                for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                    if half:
                        yield Delta(row, half)
                yield Done(row, self._finish, 5, len(text), 0.1, 0.2)
        finally:
            self.active -= 1
            self.closed += 1

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        self.scored.append(list(references))
        return [self._score[reference.model.adapter is None] for reference in references]

    def _answer(self, request: Request) -> str:
        assert not isinstance(request.prompt, str)
        table = self._base if request.model.adapter is None else self._tuned
        return table.get(request.prompt[-1].content, "I do not know.")
