"""Losses as a line of text, and as a picture."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tunesmith.kernel.files import written_whole

_BARS = "▁▂▃▄▅▆▇█"

Point = tuple[int, float]  # step, loss


def sparkline(losses: Sequence[float], width: int = 60) -> str:
    """``losses`` as at most ``width`` bars, low to high, each the mean of its share; empty for no losses."""
    known = [loss for loss in losses if math.isfinite(loss)]
    if not known or width < 1:
        return ""
    bars = min(width, len(known))
    edges = [len(known) * i // bars for i in range(bars + 1)]
    means = [math.fsum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((mean - low) / span * len(_BARS)))] for mean in means)


def draw(path: Path, training: Sequence[Point], validation: Sequence[Point], title: str) -> None:
    """Write a PNG of training and validation loss against steps to ``path``, whole or not at all.

    Args:
        title: ASCII; the fonts that come with matplotlib know no Chinese.
    """
    # imported here: 0.5 s that only a trainer pays, after the adapter is safe
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*_columns(training), linewidth=0.8, alpha=0.35, color="#1c7ed6")
    axes.plot(*_columns(_smoothed(training)), linewidth=1.8, color="#1c7ed6", label="training")
    if validation:
        axes.plot(*_columns(validation), "o-", linewidth=1.4, color="#e8590c", label="validation")
    axes.set(xlabel="step", ylabel="loss", title=title.encode("ascii", "replace").decode())
    axes.grid(alpha=0.25)
    axes.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def _columns(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """A running mean over a twentieth of the points."""
    reach = max(1, len(points) // 20)
    smoothed = []
    for i, (step, _) in enumerate(points):
        near = [loss for _, loss in points[max(0, i - reach) : i + reach + 1]]
        smoothed.append((step, math.fsum(near) / len(near)))
    return smoothed
