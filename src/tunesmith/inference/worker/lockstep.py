"""The usual steps: the same rows as in the step before, one token each, and nothing else.

What such a step holds differs from the one before in a token and a position a row. So it is made once, and then moved on in
place: for a small model, finding the same anew would take a tenth as long as computing it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.measures import Measures
from tunesmith.inference.worker.packing import Share, Wanted, may_guess
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.sampling import Picker, pick
from tunesmith.inference.worker.step import Predictions, Step


class Lockstep:
    """Rows that go on together, from a step that held one token of each on. Made by ``lockstep``.

    Attributes:
        step: the next one; see ``Step.lasting``.
        shares, wanted: what it holds and whose its predictions are, in one order.
        watched: the rows whose text has to be made with every token.
    """

    def __init__(
        self, cache: Cache, step: Step, shares: Sequence[Share], wanted: Sequence[Wanted], measures: Measures
    ) -> None:
        self.shares, self.wanted = shares, wanted
        self._cache, self._moves = cache, cache.moves
        rows = [share.row for share in shares]
        leases = [lease for lease, _ in step.decoding]
        tokens, positions = array("i", [row.tokens[-1] for row in rows]), array("i", [lease.length for lease in leases])
        self.step = replace(step, tokens=tokens, positions=positions, lasting={})
        self._positions_N = np.frombuffer(positions, dtype=np.int32)
        self._each = [(lease, row.tokens.append) for lease, row in zip(leases, rows, strict=True)]
        self._pickers = [_picker(row) for row in rows]
        self._plain = all(picker.plain for picker in self._pickers)
        self._counted = measures.together(rows)
        self.watched = [row for row in rows if not (row.patient and row.heard)]
        # how often none can reach the end of its budget or of its arena
        self._left = min(
            min(row.budget - len(row.tokens) - 1, lease.arena.capacity - lease.length)
            for lease, row in zip(leases, rows, strict=True)
        )

    @property
    def holds(self) -> bool:
        """The next step is still this one: no row has come, gone or moved, and none is about to."""
        return self._left > 0 and self._moves == self._cache.moves

    def draw(self, predicted: Predictions) -> Sequence[int | None]:
        """Each row's next token; see ``pick``."""
        if self._plain and predicted.likeliest is not None:
            return predicted.likeliest
        return pick(predicted.logits, self._pickers, predicted.likeliest)

    def advance(self, drawn: Sequence[int], now: float) -> None:
        """Give each row its token; none ends by it. ``now`` is a reading of ``time.monotonic``."""
        for (lease, take), token in zip(self._each, drawn, strict=True):
            lease.length += 1
            take(token)
        self.step.tokens[:] = array("i", drawn)  # type: ignore[index]
        self._positions_N += 1
        self._left -= 1
        self._counted.moved(now)


def lockstep(
    cache: Cache,
    running: Sequence[Row],
    step: Step,
    shares: Sequence[Share],
    wanted: Sequence[Wanted],
    measures: Measures,
) -> Lockstep | None:
    """How the rows of ``step`` go on, which has just been taken; None where the next one may hold something else.

    Args:
        running: those that the next one may hold.
    """
    if step.chunks or not len(step.tokens) == len(step.keep) == len(wanted) == len(running) or not running:
        return None
    if may_guess(running) or any(
        row.score or row.leader is not None or row.left != 1 or not row.tokens for row in running
    ):
        return None
    found = Lockstep(cache, step, shares, wanted, measures)
    return found if found.holds else None


def _picker(row: Row) -> Picker:
    assert row.picker is not None
    return row.picker
