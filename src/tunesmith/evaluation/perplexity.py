"""Perplexity over reference completions, weighted by tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.inference.engine import Score

if TYPE_CHECKING:
    from tunesmith.evaluation.bootstrap import Matrix, Vector

# exp(700) is still a finite number, and no JSON text can hold infinity
_LARGEST_EXPONENT = 700.0


def impossible(score: Score) -> bool:
    """True for a score no language model can give: no token, or a probability that is above 1, 0 or not a number."""
    # rounding may lift a certain completion a hair above probability 1
    return score.tokens < 1 or not math.isfinite(score.logprob) or score.logprob > 1e-3


def count(scores: Sequence[Score]) -> Matrix:
    """(N, 2) float64: summed natural log-probability and number of tokens of each completion.

    Raises:
        ValueError: a score is impossible; the message names its index.
    """
    import numpy as np

    for row, score in enumerate(scores):
        if impossible(score):
            raise ValueError(f"score {row} is impossible: {score}")
    return np.array([(score.logprob, score.tokens) for score in scores], dtype=np.float64).reshape(-1, 2)


def value(totals: Matrix) -> Vector:
    """exp(-sum of log-probabilities / sum of tokens) of each corpus; (R, 2) to (R,), capped at e^700."""
    import numpy as np

    return np.exp(np.minimum(-totals[:, 0] / totals[:, 1], _LARGEST_EXPONENT))
