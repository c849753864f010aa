"""Token-weighted perplexity."""

import math

import numpy as np
import pytest

from tunesmith.evaluation import perplexity
from tunesmith.inference.engine import Score


def _value(*scores: Score) -> float:
    return float(perplexity.value(perplexity.count(scores).sum(axis=0, keepdims=True))[0])


def test_tokens_weigh_not_examples() -> None:
    long, short = Score(-9 * math.log(2), 9), Score(-math.log(32), 1)
    # 14 halvings over 10 tokens; the average of the two perplexities (2 and 32) would be 17
    assert _value(long, short) == pytest.approx(2 ** (14 / 10))


def test_a_hopeless_model_gets_a_finite_number() -> None:
    assert np.isfinite(_value(Score(-1e9, 3)))


@pytest.mark.parametrize("score", [Score(-1, 0), Score(math.nan, 2), Score(-math.inf, 2), Score(0.5, 2)])
def test_an_impossible_score_is_refused_with_its_index(score: Score) -> None:
    with pytest.raises(ValueError, match="score 1 "):
        perplexity.count([Score(-1, 2), score])
