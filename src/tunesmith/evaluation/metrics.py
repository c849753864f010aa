"""Every metric by name, from answers and references to figures with their uncertainty. Pure: no engine, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.evaluation import bleu, bootstrap, exact_match, perplexity, rouge
from tunesmith.inference.engine import Score

if TYPE_CHECKING:
    from tunesmith.evaluation.bootstrap import Matrix, Sums, Value, Vector

NAMES = ("perplexity", "exact_match", "bleu", "rouge")
NEEDS_ANSWERS = frozenset({"exact_match", "bleu", "rouge"})
NEEDS_SCORES = frozenset({"perplexity"})
# of the figures, by their names in a result
LOWER_IS_BETTER = frozenset({"perplexity"})

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model said, in the order of the references; a part no metric needs may stay empty."""

    outputs: Sequence[str] = ()
    scores: Sequence[Score] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure's sufficient statistics.

    Attributes:
        rows: (N, K), one row an example; sums of rows are what ``value`` takes.
        value: (R, K) -> (R,).
        details: facts a reader needs to repeat it, copied into the result.
    """

    rows: Matrix
    value: Value
    details: Mapping[str, str] = field(default_factory=dict)


def figures(names: Sequence[str], references: Sequence[str], answers: Answers) -> dict[str, Figure]:
    """The figures of the metrics ``names`` (of NAMES), by their names in a result; "rouge" makes three.

    Raises:
        ValueError: a score is impossible (see ``perplexity.count``).
    """
    import numpy as np

    found: dict[str, Figure] = {}
    for name in names:
        if name == "perplexity":
            found[name] = Figure(perplexity.count(answers.scores), perplexity.value)
        elif name == "exact_match":
            hits = [exact_match.matches(*pair) for pair in zip(answers.outputs, references, strict=True)]
            found[name] = _mean(np.array(hits, dtype=np.float64))
        elif name == "bleu":
            counts = bleu.count(answers.outputs, references)
            found[name] = Figure(counts.rows, bleu.value, {"signature": counts.signature})
        elif name == "rouge":
            columns = rouge.scores(answers.outputs, references).T
            found.update((kind, _mean(column)) for kind, column in zip(rouge.KINDS, columns, strict=True))
    return found


def result(
    tuned: Mapping[str, Figure], base: Mapping[str, Figure] | None = None, *, seed: int = bootstrap.SEED
) -> Result:
    """Figures as JSON values.

    Returns:
        ``{"metrics": {figure: {"value", "low", "high", ...details}}, "count": N}``, and with ``base`` (the same
        figures of the bare model over the same examples) also ``"base"``, of the shape of "metrics", and
        ``"difference": {figure: {"value", "low", "high", "p", "significant"}}``, tuned minus base.
    """
    count = len(next(iter(tuned.values())).rows)
    tuned_sums = _sums(tuned, seed)
    summary: Result = {"metrics": _intervals(tuned, tuned_sums), "count": count}
    if base is not None:
        base_sums = _sums(base, seed)
        summary["base"] = _intervals(base, base_sums)
        summary["difference"] = {
            name: asdict(
                bootstrap.difference(
                    base_sums[name],
                    tuned_sums[name],
                    figure.value,
                    differing=int((figure.rows != base[name].rows).any(axis=1).sum()),
                )
            )
            for name, figure in tuned.items()
        }
    return summary


def each_example(of: Mapping[str, Figure]) -> list[dict[str, float]]:
    """Every figure of every example by itself, in order: the value its own row gives."""
    columns = {name: figure.value(figure.rows).tolist() for name, figure in of.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _mean(values: Vector) -> Figure:
    """A figure that is the average of the examples' own."""
    import numpy as np

    return Figure(np.column_stack([values, np.ones_like(values)]), _ratio)


def _ratio(totals: Matrix) -> Vector:
    ratio: Vector = totals[:, 0] / totals[:, 1]
    return ratio


def _intervals(of: Mapping[str, Figure], sums: Mapping[str, Sums]) -> Result:
    return {
        name: asdict(bootstrap.interval(sums[name], figure.value)) | dict(figure.details) for name, figure in of.items()
    }


def _sums(of: Mapping[str, Figure], seed: int) -> dict[str, Sums]:
    """All figures resampled together: drawing is most of the work."""
    import numpy as np

    together = bootstrap.sums(np.hstack([figure.rows for figure in of.values()]), seed=seed)
    parts: dict[str, Sums] = {}
    start = 0
    for name, figure in of.items():
        stop = start + figure.rows.shape[1]
        parts[name] = together.columns(start, stop)
        start = stop
    return parts
