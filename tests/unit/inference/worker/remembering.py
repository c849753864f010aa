"""A model for tests of the scheduler that is quick, and that any wrong byte of the cache makes say something else.

Its keys are the tokens themselves and who wears what; the next token is a sum over all it finds in the cache of its row.
So ``said`` can tell ahead, without cache or batch, what a row must say.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.cache import Cache, LayerShape, Lease
from tunesmith.inference.worker.events import Ended, Failed, RowEvent, Text
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler
from tunesmith.inference.worker.step import Predictions, Step

VOCABULARY = 97
END = 96
LETTERS = "".join(chr(0x4E00 + token) for token in range(VOCABULARY))


def adapter(version: int) -> AdapterWeights:
    """A version of an adapter; all have one name."""
    return AdapterWeights("town", Path("/"), version, {})


def said(row: Row) -> list[int]:
    """What ``row`` must say, were it alone."""
    seen = [_key(token, row.adapter) for token in row.prompt]
    tokens: list[int] = []
    while len(tokens) < row.sampling.max_new_tokens and END not in tokens:
        tokens.append(_next(seen))
        seen.append(_key(tokens[-1], row.adapter))
    return tokens


def talkative(count: int, least: int, length: int = 20) -> list[list[int]]:
    """Prompts that are answered with at least so many tokens."""
    found: list[list[int]] = []
    for n in range(10_000):
        prompt = [n % END, n // END, *((7 * n + i * i) % END for i in range(length))]
        if len(found) < count and len(said(Row(prompt, Sampling(least, 0.0, 1.0, 0, 1.0)))) == least:
            found.append(prompt)
    return found


def decode(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens if token != END)


def _key(token: int, worn: AdapterWeights | None) -> int:
    return token + 100 * (worn.rank if worn is not None else 0)


def _next(seen: Sequence[int]) -> int:
    return sum((7 + place) * key for place, key in enumerate(seen, 1)) % VOCABULARY


class Remembering:
    """See above. ``computed`` counts the tokens of all steps, ``steps`` them.

    Attributes:
        before: called with every step before it is computed; it may raise.
        spoilt: adapters whose logits are not finite.
    """

    def __init__(self, *, limit: int = 1 << 20, context: int = 2048) -> None:
        self.cache = Cache([LayerShape(1, 1, 1)], context, limit=limit)
        self.context, self.vocabulary, self.device = context, VOCABULARY, torch.device("cpu")
        self.before: Callable[[Step], None] = lambda step: None
        self.spoilt: set[AdapterWeights] = set()
        self.computed = self.steps = 0

    def forward(self, step: Step) -> Predictions:
        self.before(step)
        self.computed += len(step.tokens)
        self.steps += 1
        wears = {at: piece.adapter for piece in step.segments for at in range(piece.begin, piece.end)}
        places: dict[int, tuple[Lease, int]] = {}
        for lease, at in step.decoding:
            places[at] = (lease, lease.length)
        for chunk in step.chunks:
            places |= {at: (chunk.lease, chunk.start + at - chunk.begin) for at in range(chunk.begin, chunk.end)}
        assert sorted(places) == list(range(len(step.tokens)))
        assert [places[at][1] for at in range(len(step.tokens))] == list(step.positions)
        keys = torch.tensor([float(_key(token, wears.get(at))) for at, token in enumerate(step.tokens)])
        written = [(lease, at, at + 1, lease.length) for lease, at in step.decoding]
        written += [(chunk.lease, chunk.begin, chunk.end, chunk.start) for chunk in step.chunks]
        for lease, begin, end, start in written:
            for tensor in (lease.arena.keys[0], lease.arena.values[0]):
                tensor[lease.slot, 0, start : start + end - begin, 0] = keys[begin:end]
        logits = torch.zeros(len(step.keep), VOCABULARY)
        for row, at in enumerate(step.keep):
            lease, position = places[at]
            seen = lease.arena.keys[0][lease.slot, 0, : position + 1, 0]
            assert torch.equal(seen, lease.arena.values[0][lease.slot, 0, : position + 1, 0])
            logits[row, _next([int(key) for key in seen.tolist()])] = 9.0
            if wears.get(at) in self.spoilt:
                logits[row] = torch.nan
        if step.logits:
            return Predictions(logits)
        likeliest = [
            None if wears.get(at) in self.spoilt else int(logits[row].argmax()) for row, at in enumerate(step.keep)
        ]
        return Predictions(logits[:0], likeliest)


class Stepped:
    """A scheduler over the remembering model, stepped by hand, and everything its rows reported."""

    def __init__(self, *, max_rows: int = 16, limit: int = 1 << 20) -> None:
        self.model = Remembering(limit=limit)
        self.events: list[tuple[Row, RowEvent]] = []
        self.scheduler = Scheduler(self.model, decode, frozenset([END]), max_rows=max_rows, deliver=self.events.extend)

    def row(self, prompt: Sequence[int], worn: AdapterWeights | None = None, *, tokens: int = 8, **more: object) -> Row:
        row = Row(list(prompt), Sampling(tokens, 0.0, 1.0, 0, 1.0), worn, **more)  # type: ignore[arg-type]
        self.scheduler.check(row)
        self.scheduler.add(row)
        return row

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.scheduler.step()

    def finish(self) -> None:
        for _ in range(20_000):
            if self.scheduler.idle:
                return
            self.scheduler.step()
        raise AssertionError("rows are stuck")

    def text(self, row: Row) -> str:
        return "".join(event.text for owner, event in self.events if owner is row and isinstance(event, Text))

    def end(self, row: Row) -> Ended:
        (end,) = [event for owner, event in self.events if owner is row and isinstance(event, Ended | Failed)]
        assert isinstance(end, Ended), end.problem
        return end

    def problem(self, row: Row) -> str:
        (failed,) = [event for owner, event in self.events if owner is row and isinstance(event, Ended | Failed)]
        assert isinstance(failed, Failed)
        return failed.problem.en

    def spoke_truly(self, *rows: Row) -> bool:
        """Each has said just what it must, and its end has said so."""
        return all(
            row.tokens == said(row)
            and self.text(row) == decode(row.tokens)
            and self.end(row).completion_tokens == len(row.tokens)
            for row in rows
        )

    @property
    def empty(self) -> bool:
        """No row holds anything any more."""
        return self.model.cache.allocated == 0 and self.scheduler._reserved == 0 and self.scheduler.running == 0
