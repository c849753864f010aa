"""What rows have to report: text, made of what they have said when somebody waits for it, and how they end.

Making text of a token takes as long for a small model as its share of a step. It is made of all that a row has said since
the last time, some thirty times a second; where it decides how the row goes on (stop strings, grammars), or each token is
told by itself, with every token.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from tunesmith.inference.engine import FinishReason
from tunesmith.inference.worker.events import Ended, Failed, RowEvent
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.text import Detokenizer, StopStrings, Transcript
from tunesmith.kernel.problems import Problem

_ALONE = 1 << 14  # tokens whose own text is remembered: those that most text is made of


class Telling:
    """Gathers what the rows of one scheduler report.

    Args:
        decode, joins: see ``Detokenizer``.
        ends: token ids that end a completion, and have no text.
        deliver: called with all that rows have to report, in order; hardly more than once a step.
        pace_s: how long text may wait that nothing but its reader waits for, once ``Row.heard`` is set.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        deliver: Callable[[list[tuple[Row, RowEvent]]], None],
        *,
        ends: frozenset[int],
        joins: bool,
        pace_s: float,
    ) -> None:
        self._decode, self._joins, self._ends = decode, joins, ends
        self._deliver, self._pace = deliver, pace_s
        self._alone = lru_cache(_ALONE)(lambda token: decode([token]))
        self._events: list[tuple[Row, RowEvent]] = []
        self._stepped = self._told = 0.0  # when the last step ended, and when text was made of all that rows had said

    def begin(self, row: Row) -> None:
        """Before its first token."""
        before = row.prompt[-4:] if row.raw else ()
        detokenizer = Detokenizer(self._decode, before, self._alone, joins=self._joins)
        row.text = Transcript(detokenizer, StopStrings(row.sampling.stop), row.spell)
        row.patient = row.text.patient and row.grammar is None

    def said(self, row: Row) -> bool:
        """It has one more token; whether that ends it, as far as its text decides."""
        return not (row.patient and row.heard) and self._tell(row)

    def stepped(self, rows: Iterable[Row], now: float) -> None:
        """A step of ``rows`` is over, at ``now``, a reading of ``time.monotonic``."""
        # it is time, or would be before another step is over
        if now + (now - self._stepped) - self._told >= self._pace:
            self.tell(rows, now)
        self._stepped = now

    def tell(self, rows: Iterable[Row], now: float) -> None:
        """Make text of all that they have said."""
        for row in rows:
            self._tell(row)
        self._told = now

    def finish(self, row: Row, finish: FinishReason) -> None:
        """It is over."""
        self._tell(row)
        assert row.text is not None
        rest = row.text.finish()
        if rest is not None:
            self._events.append((row, rest))
        first = row.first_token - row.asked if row.first_token else 0.0
        seconds = time.monotonic() - row.asked
        ended = Ended(finish, len(row.tokens), first, seconds, tuple(row.logprobs), max(0, row.cached))
        self._events.append((row, ended))

    def fail(self, row: Row, problem: Problem) -> None:
        """It is over because of ``problem``."""
        with contextlib.suppress(Exception):  # this may be what has failed
            self._tell(row)
        self._events.append((row, Failed(problem)))

    def report(self) -> None:
        """Deliver what there is."""
        events, self._events = self._events, []
        if events:
            self._deliver(events)

    def _tell(self, row: Row) -> bool:
        fresh = row.tokens[row.told :]
        row.told = len(row.tokens)
        if fresh and fresh[-1] in self._ends:
            del fresh[-1]
        if not fresh:
            return False
        text = row.text
        assert text is not None and row.picker is not None
        if row.patient:
            shown = text.feed_all(fresh)
        else:
            (token,) = fresh
            shown = text.feed(token, row.picker.likely)
        if shown is not None:
            self._events.append((row, shown))
        return text.stopped or (row.grammar is not None and row.grammar.complete)
