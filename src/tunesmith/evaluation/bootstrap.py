"""Uncertainty by resampling examples (Efron's percentile bootstrap), and the paired form that compares two systems.

Examples are drawn with replacement; a resample's figure is computed from the sum of its examples' sufficient
statistics, so corpus metrics (BLEU, perplexity) are resampled as corpora, not as averages of examples. Everything is
determined by the seed. The interval of a figure on which all examples agree (all right, all wrong) has no width; with
few examples read it as "not seen otherwise", not as certainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Vector = NDArray[np.float64]
    Value = Callable[[Matrix], Vector]

RESAMPLES = 1000
SEED = 20240607
# draws held in memory at once: 8 bytes each, a few arrays of them
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure over all examples, and where 95 % of resamples fall."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Second system minus first, over the same examples.

    Attributes:
        p: two-sided, of no difference: twice the share of resamples on the other side of 0. Never below
            1 / resamples, nor below 2^(1-m) where the systems differ on m examples only: were the two systems alike,
            a swap on each of those would be as likely as not, so m examples cannot show more.
        significant: the interval excludes 0 and p is at most 0.05.
    """

    value: float
    low: float
    high: float
    p: float
    significant: bool


@dataclass(frozen=True, slots=True)
class Sums:
    """Summed sufficient statistics: of all examples, and of each resample.

    Attributes:
        whole: (1, K).
        resampled: (R, K). Two Sums over equally many examples with one seed drew the same examples: they are paired.
    """

    whole: Matrix
    resampled: Matrix

    def columns(self, start: int, stop: int) -> Sums:
        """The same draws, only the statistics ``start`` .. ``stop - 1``."""
        return Sums(self.whole[:, start:stop], self.resampled[:, start:stop])


def sums(rows: Matrix, *, seed: int = SEED, resamples: int = RESAMPLES) -> Sums:
    """Resample (N, K) rows, N at least 1, with replacement.

    Memory stays at a few blocks of draws whatever N is.
    """
    import numpy as np

    blocks = [counts @ rows for counts in _counts(len(rows), seed, resamples)]
    return Sums(rows.sum(axis=0, keepdims=True), np.vstack(blocks))


def interval(of: Sums, value: Value) -> Interval:
    """The figure of one system with its interval; ``value`` turns (R, K) sums into (R,) figures."""
    low, high = _percentiles(value(of.resampled))
    return Interval(float(value(of.whole)[0]), low, high)


def difference(first: Sums, second: Sums, value: Value, *, differing: int) -> Difference:
    """How much ``second`` exceeds ``first``: paired, each resample scores both systems on the same examples.

    Args:
        differing: number of examples on which the two systems' statistics differ.
    """
    figures = value(second.resampled) - value(first.resampled)
    low, high = _percentiles(figures)
    p = _two_sided(figures, differing)
    observed = float(value(second.whole)[0] - value(first.whole)[0])
    return Difference(observed, low, high, p, (low > 0 or high < 0) and p <= 0.05)


def _percentiles(figures: Vector) -> tuple[float, float]:
    """Order statistics, not interpolated: then "the interval excludes 0" and "p is at most 0.05" say the same."""
    import numpy as np

    ordered = np.sort(figures)
    outside = len(ordered) // 40  # 2.5 % on each side
    return float(ordered[outside]), float(ordered[-1 - outside])


def _two_sided(figures: Vector, differing: int) -> float:
    beyond = min(int((figures <= 0).sum()), int((figures >= 0).sum()))
    resamples = len(figures)
    floor = max(1 / resamples, 2.0 ** (1 - min(differing, 64)))
    return min(1.0, max(2 * beyond / resamples, floor))


def _counts(examples: int, seed: int, resamples: int) -> Iterator[Matrix]:
    """How often each resample drew each example: blocks (r, N) that add up to ``resamples`` rows."""
    import numpy as np

    generator = np.random.default_rng(seed)
    block = max(1, _DRAWS_AT_ONCE // examples)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(0, examples, size=(count, examples))
        drawn += np.arange(count)[:, None] * examples
        yield np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples).astype(np.float64)
