"""Splits: decided by content and seed, free of leaks, never empty when they need not be."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.datasets.example import Example, Message, Source
from tunesmith.datasets.split import Borders, borders, check_ratios, encode_example, place
from tunesmith.kernel.problems import Invalid

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


def lines(count: int) -> list[bytes]:
    return [
        encode_example(Example((Message("user", f"问{n}"), Message("assistant", f"答{n}")), Source("x", n)))
        for n in range(count)
    ]


def where(rows: list[bytes], ratios: Mapping[str, float], seed: int = 42) -> Borders:
    return borders(lambda: (place(row, seed) for row in rows), check_ratios(ratios))


def assigned(rows: list[bytes], ratios: Mapping[str, float], seed: int = 42) -> dict[bytes, str]:
    found = where(rows, ratios, seed)
    return {row: found.split_of(place(row, seed)) for row in rows}


def test_the_form_examples_are_kept_in_is_plain_json_of_messages() -> None:
    assert lines(1) == ['{"messages":[{"role":"user","content":"问0"},{"role":"assistant","content":"答0"}]}'.encode()]


def test_where_an_example_goes_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert place(b"an example", 42) == 11092399786367154362


def test_reordering_the_rows_changes_nothing() -> None:
    rows = lines(500)
    assert assigned(rows, THREE) == assigned(rows[::-1], THREE)


def test_adding_rows_moves_no_old_row() -> None:
    before, after = assigned(lines(500), THREE), assigned(lines(900), THREE)
    assert all(after[row] == split for row, split in before.items())


def test_another_seed_splits_otherwise() -> None:
    rows = lines(500)
    assert assigned(rows, THREE, 1) != assigned(rows, THREE, 2)
    assert assigned(rows, THREE, -1) != assigned(rows, THREE, 10**30)


def test_the_shares_come_out_near_the_ratios() -> None:
    found = list(assigned(lines(5000), THREE).values())
    assert abs(found.count("train") - 4000) < 150
    assert abs(found.count("validation") - 500) < 100
    assert abs(found.count("test") - 500) < 100


def test_exact_duplicates_stay_together() -> None:
    rows = lines(5) * 20 + lines(40)
    split_of = where(rows, THREE).split_of
    for row in set(rows):
        assert len({split_of(place(copy, 42)) for copy in rows if copy == row}) == 1


@settings(max_examples=150)
@given(
    count=st.integers(1, 40),
    shares=st.lists(st.floats(1e-9, 1), min_size=1, max_size=3),
    seed=st.integers(0, 50),
    copies=st.integers(1, 3),
)
def test_no_split_is_empty_where_there_are_enough_different_rows(
    count: int, shares: list[float], seed: int, copies: int
) -> None:
    names = ("train", "validation", "test")[: len(shares)]
    ratios = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
    rows = lines(count) * copies
    asked = check_ratios(ratios)
    if count < len(asked):
        with pytest.raises(Invalid, match=f"need at least {len(asked)} different examples; there are {count}"):
            where(rows, ratios, seed)
        return
    assert set(assigned(rows, ratios, seed).values()) == set(asked)


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match="there are 0"):
        where([], {"train": 1.0})


def test_splits_come_in_their_order_whatever_order_they_were_asked_in() -> None:
    assert list(check_ratios({"test": 0.5, "train": 0.5, "validation": 0})) == ["train", "test"]


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ({"train": 0.8, "test": 0.1}, "the ratios must sum to 1, got 0.9"),
        ({}, "the ratios must sum to 1, got 0"),
        ({"train": 1.1, "test": -0.1}, "the ratio of train must be between 0 and 1, got 1.1"),
        ({"train": float("nan")}, "the ratio of train must be between 0 and 1, got nan"),
        ({"train": float("inf")}, "the ratio of train must be between 0 and 1, got inf"),
        ({"train": True}, "the ratio of train must be between 0 and 1, got True"),
        ({"train": "1"}, "the ratio of train must be between 0 and 1, got '1'"),
        ({"train": 0.5, "../x": 0.5}, "unknown split '../x'; known: train, validation, test"),
    ],
)
def test_ratios_that_make_no_sense_are_refused(ratios: dict[str, float], told: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_ratios(ratios)
    assert caught.value.en == told
    assert caught.value.zh != told


def test_ratios_that_sum_to_one_but_for_rounding_are_taken() -> None:
    assert check_ratios({"train": 0.7, "validation": 0.2, "test": 0.1}) == {
        "train": 0.7,
        "validation": 0.2,
        "test": 0.1,
    }
    thirds = check_ratios({"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3})
    assert set(assigned(lines(300), thirds).values()) == set(thirds)
