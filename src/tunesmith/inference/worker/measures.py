"""What an engine counts while it runs: rows, tokens and times, by adapter, under the names that vLLM made usual.

The thread that steps counts; whoever asks reads what is there, without a lock. A row costs a microsecond a step.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tunesmith.inference.adapters import plain

MOST_ADAPTERS = 100  # series of their own; names come from outside, and a page of metrics has to stay one
OTHERS = "(others)"  # no name of an adapter has parentheses
_LONGEST = 200  # characters of a name
Outcome = Literal["stop", "length", "abort", "error"]
OUTCOMES: tuple[Outcome, ...] = ("stop", "length", "abort", "error")

# vLLM's (vllm/v1/metrics/loggers.py), so that its dashboards fit
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


class Named(Protocol):
    """An adapter, as far as it is counted."""

    @property
    def name(self) -> str: ...


class Counted(Protocol):
    """A row, as far as it is counted.

    Attributes:
        cached: prompt tokens that others had read; less than 0 where that is not known.
        asked: a reading of ``time.monotonic``.
    """

    @property
    def prompt(self) -> Sized: ...
    @property
    def adapter(self) -> Named | None: ...
    @property
    def cached(self) -> int: ...
    @property
    def asked(self) -> float: ...


class Histogram:
    """Seconds, counted by buckets whose upper bounds are included.

    Attributes:
        counts: of each bucket alone, the last without a bound.
        total: seconds in all.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


def _outcomes() -> dict[Outcome, int]:
    return dict.fromkeys(OUTCOMES, 0)


@dataclass(slots=True)
class Series:
    """The counts of one adapter, or of the bare base."""

    waiting: int = 0
    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    ended: dict[Outcome, int] = field(default_factory=_outcomes)
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_S))
    inter_token: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_S))
    queue: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    whole: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))


class _Life:
    """What is remembered of a row until it leaves; ``last`` is when its newest tokens came, 0 before the first."""

    __slots__ = ("last", "runs", "series")

    def __init__(self, series: Series) -> None:
        self.series, self.runs, self.last = series, False, 0.0


class Together:
    """Rows of which each step gives every one a token, the last one as well: they are counted as one."""

    def __init__(self, lives: Sequence[_Life]) -> None:
        self._lives = lives
        self._last = lives[0].last if lives else 0.0
        counts = Counter(id(life.series) for life in lives)
        self._series = [(one, counts[at]) for at, one in {id(life.series): life.series for life in lives}.items()]

    def moved(self, now: float) -> None:
        """One step; ``now`` is a reading of ``time.monotonic``."""
        seconds, self._last = now - self._last, now
        bucket = bisect_left(INTER_TOKEN_S, seconds)
        for series, rows in self._series:
            series.generation_tokens += rows
            series.inter_token.counts[bucket] += rows
            series.inter_token.total += rows * seconds
        for life in self._lives:
            life.last = now


class Measures:
    """Counts of every row since the engine started. All but ``series`` belongs to the thread that steps.

    A row is ``queued``, ``admitted``, has ``moved`` some times, and has ``left`` once, from wherever it was. One that
    loses its place for a while counts as running all that time.
    """

    def __init__(self) -> None:
        self._series: dict[str, Series] = {"": Series()}
        self._lives: dict[Counted, _Life] = {}

    @property
    def series(self) -> list[tuple[str, Series]]:
        """The counts by the adapter's name ("" is the bare base); from any thread."""
        return list(self._series.items())

    def queued(self, row: Counted) -> None:
        """The row waits."""
        life = self._lives[row] = _Life(self._series_of(row))
        life.series.waiting += 1

    def admitted(self, row: Counted) -> None:
        """The row has a place in the batch; only the first time counts."""
        life = self._lives.get(row)
        if life is None or life.runs:
            return
        life.runs = True
        life.series.waiting -= 1
        life.series.running += 1
        life.series.queue.observe(time.monotonic() - row.asked)

    def moved(self, rows: Iterable[tuple[Counted, int]], now: float) -> None:
        """One step gave these rows so many new tokens each; ``now`` is a reading of ``time.monotonic``."""
        last, bucket = 0.0, 0
        for row, tokens in rows:
            life = self._lives.get(row)
            if life is None:
                continue
            series = life.series
            series.generation_tokens += tokens
            if life.last:
                if life.last != last:  # most rows were in the step before
                    last, bucket = life.last, bisect_left(INTER_TOKEN_S, now - life.last)
                series.inter_token.counts[bucket] += 1
                series.inter_token.total += now - last
            else:
                _read(row, series)
                series.first_token.observe(now - row.asked)
            life.last = now

    def together(self, rows: Sequence[Counted]) -> "Together":
        """For rows that all have ``moved`` in the last step, and will in the next ones."""
        return Together([self._lives[row] for row in rows if row in self._lives])

    def left(self, row: Counted, outcome: Outcome) -> None:
        """The row is over. Once is enough; more does no harm."""
        life = self._lives.pop(row, None)
        if life is None:
            return
        series = life.series
        if life.runs:
            series.running -= 1
        else:
            series.waiting -= 1
        if not life.last and outcome in ("stop", "length"):  # it was only to be scored
            _read(row, series)
        series.ended[outcome] += 1
        series.whole.observe(time.monotonic() - row.asked)

    def _series_of(self, row: Counted) -> Series:
        # half a character would spoil the whole page
        name = "" if row.adapter is None else plain(row.adapter.name)[:_LONGEST].encode("utf-8", "replace").decode()
        found = self._series.get(name)
        if found is None:
            if len(self._series) > MOST_ADAPTERS:
                name = OTHERS
            found = self._series.setdefault(name, Series())
        return found


def _read(row: Counted, series: Series) -> None:
    prompt = len(row.prompt)
    series.prompt_tokens += prompt
    if row.cached >= 0:
        series.prefix_queries += prompt
        series.prefix_hits += row.cached
