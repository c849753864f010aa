"""Intervals and paired comparison by resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.evaluation import bootstrap
from tunesmith.evaluation.bootstrap import Difference, difference, interval, sums

if TYPE_CHECKING:
    from tunesmith.evaluation.bootstrap import Matrix, Vector


def _mean(totals: Matrix) -> Vector:
    ratio: Vector = totals[:, 0] / totals[:, 1]
    return ratio


def _rows(values: object) -> Matrix:
    column = np.asarray(values, dtype=np.float64)
    return np.column_stack([column, np.ones_like(column)])


def _difference(base: object, tuned: object) -> Difference:
    first, second = _rows(base), _rows(tuned)
    differing = int((first != second).any(axis=1).sum())
    return difference(sums(first), sums(second), _mean, differing=differing)


def test_the_value_is_that_of_all_examples_and_lies_in_its_interval() -> None:
    found = interval(sums(_rows([1, 0, 1, 1, 0, 1, 1, 1])), _mean)
    assert found.value == 0.75
    assert found.low <= 0.75 <= found.high
    assert found.low < found.high


def test_nineteen_of_twenty_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(7)
    found = [interval(sums(_rows(generator.random(80) < 0.7)), _mean) for _ in range(300)]
    covered = sum(each.low <= 0.7 <= each.high for each in found) / len(found)
    assert 0.91 <= covered <= 0.98


def test_the_width_is_that_of_the_normal_approximation_where_that_holds() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=2000)
    found = interval(sums(_rows(values)), _mean)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.1)


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    rows = _rows(np.random.default_rng(1).random(50))
    assert np.array_equal(sums(rows).resampled, sums(rows).resampled)
    assert not np.array_equal(sums(rows).resampled, sums(rows, seed=1).resampled)


def test_drawing_in_blocks_changes_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(np.arange(10))
    at_once = sums(rows).resampled
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 70)
    assert np.array_equal(sums(rows).resampled, at_once)


def test_every_resample_draws_as_many_examples_as_there_are() -> None:
    drawn = sums(_rows(np.arange(30))).resampled
    assert drawn.shape == (bootstrap.RESAMPLES, 2)
    assert set(drawn[:, 1]) == {30.0}


def test_equal_systems_are_not_told_apart() -> None:
    values = np.random.default_rng(2).random(100)
    assert _difference(values, values) == Difference(0.0, 0.0, 0.0, 1.0, False)


def test_systems_of_equal_skill_are_not_told_apart() -> None:
    generator = np.random.default_rng(11)
    found = _difference(generator.random(200) < 0.5, generator.random(200) < 0.5)
    assert not found.significant
    assert found.p > 0.05


def test_of_equal_systems_about_one_in_twenty_is_called_different() -> None:
    generator = np.random.default_rng(5)
    pairs = [_difference(generator.random(100) < 0.5, generator.random(100) < 0.5) for _ in range(300)]
    assert 0.01 <= sum(pair.significant for pair in pairs) / 300 <= 0.09


def test_a_clearly_better_system_is_significant() -> None:
    found = _difference([0] * 98 + [1, 1], [1] * 96 + [0] * 3 + [1])
    assert found.value == pytest.approx(0.95)
    assert 0.85 < found.low < 0.95 < found.high <= 1
    assert found.significant
    assert found.p == pytest.approx(1 / bootstrap.RESAMPLES)


def test_a_clearly_worse_system_is_significant_below_zero() -> None:
    found = _difference([1] * 50, [0] * 40 + [1] * 10)
    assert found.high < 0
    assert found.significant


def test_pairing_finds_a_small_difference_that_all_examples_share() -> None:
    hard = np.random.default_rng(4).normal(0, 10, size=60)
    assert _difference(hard, hard + 0.1 + np.arange(60) * 1e-6).significant


def test_five_examples_cannot_show_significance_and_six_can() -> None:
    assert not _difference([0] * 5, [1] * 5).significant
    assert _difference([0] * 5, [1] * 5).p == pytest.approx(1 / 16)
    assert _difference([0] * 6, [1] * 6).significant


def test_a_few_differing_examples_among_many_equal_ones_cannot_either() -> None:
    assert not _difference([0] * 4 + [1] * 96, [1] * 100).significant


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_significance_interval_and_p_never_contradict(pairs: list[tuple[int, int]]) -> None:
    found = _difference([a for a, _ in pairs], [b for _, b in pairs])
    swapped = _difference([b for _, b in pairs], [a for a, _ in pairs])
    assert found.significant == ((found.low > 0 or found.high < 0) and found.p <= 0.05)
    assert found.p > 0.05 or found.significant
    assert swapped.value == pytest.approx(-found.value)
    assert swapped.p == found.p
