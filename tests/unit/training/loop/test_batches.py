"""Which examples are learned when: every one once an epoch, replay by the share asked for, all by the seed."""

from array import array
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.datasets.example import Source
from tunesmith.training.data.encoding import Encoded
from tunesmith.training.loop.batches import Plan, in_batches, packs, rectangles


def examples(count: int, file: str, lengths: list[int] | None = None) -> list[Encoded]:
    return [
        Encoded(array("i", [1] * n), bytes([0] + [1] * (n - 1)), Source(file, line))
        for line, n in enumerate(lengths or [2 + i % 7 for i in range(count)], 1)
    ]


def lines(epoch: list[list[list[Encoded]]], file: str) -> Counter[int]:
    return Counter(e.source.line for update in epoch for batch in update for e in batch if e.source.file == file)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(0, 20), st.floats(0, 0.9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5)
)
def test_every_epoch_sees_each_example_once_and_its_share_of_replay(
    count: int, others: int, share: float, size: int, accumulate: int, seed: int
) -> None:
    plan = Plan(examples(count, "main"), examples(others, "replay"), share, size, accumulate, seed)
    wanted = round(count * share / (1 - share)) if others else 0
    for _ in range(2):
        epoch = plan.epoch()
        assert lines(epoch, "main") == Counter(range(1, count + 1))
        assert lines(epoch, "replay").total() == wanted
        assert len(epoch) == plan.updates_per_epoch
        assert all(1 <= len(update) <= accumulate for update in epoch)
        assert all(1 <= len(batch) <= size for batch in chain.from_iterable(epoch))


def test_replayed_examples_do_not_repeat_while_others_are_left() -> None:
    plan = Plan(examples(10, "main"), examples(15, "replay"), 0.5, 4, 1, 0)
    first, second, third = (lines(plan.epoch(), "replay") for _ in range(3))
    assert max(first.values()) == 1 and len(first) == 10
    assert max((first + second).values()) == 2 and set(first) | set(second) == set(range(1, 16))
    assert set((first + second + third).values()) == {2}


def test_the_seed_alone_decides_the_order() -> None:
    def orders(seed: int) -> list[list[int]]:
        plan = Plan(examples(30, "main"), examples(9, "replay"), 0.2, 4, 2, seed)
        return [[e.source.line for update in plan.epoch() for batch in update for e in batch] for _ in range(2)]

    assert orders(1) == orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1]


def test_examples_of_about_equal_length_share_a_batch() -> None:
    lengths = [2 + 37 * i % 100 for i in range(100)]
    plan = Plan(examples(100, "main", lengths), [], 0, 10, 1, 0)
    padded = sum(max(map(len, batch)) * len(batch) for update in plan.epoch() for batch in update)
    assert padded < 1.15 * sum(lengths)


def test_long_and_short_batches_come_in_random_order() -> None:
    plan = Plan(examples(100, "main", [2 + n for n in range(100)]), [], 0, 5, 1, 0)
    longest = [max(map(len, update[0])) for update in plan.epoch()]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_batches_are_full_but_for_the_last(size: int) -> None:
    some = examples(10, "main")
    batches = in_batches(some, size)
    assert list(chain.from_iterable(batches)) == some
    assert all(len(batch) == size for batch in batches[:-1])


LENGTHS = st.lists(st.integers(1, 60), max_size=60)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(20, 90))
def test_every_example_is_in_one_pack_and_no_pack_holds_more_than_it_may(lengths: list[int], most: int) -> None:
    rows = examples(0, "main", lengths) if lengths else []
    dealt = packs(rows, most)
    assert Counter(e.source.line for pack in dealt for e in pack) == Counter(range(1, len(lengths) + 1))
    assert all(sum(map(len, pack)) <= most or len(pack) == 1 for pack in dealt)
    assert all(list(map(len, pack)) == sorted(map(len, pack), reverse=True) for pack in dealt)
    # no two packs would fit into one: at most one is less than half full
    assert sum(2 * sum(map(len, pack)) < most for pack in dealt) <= 1


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(20, 90))
def test_every_example_is_in_one_rectangle_with_what_pads_it(lengths: list[int], most: int) -> None:
    rows = examples(0, "main", lengths) if lengths else []
    dealt = rectangles(rows, most)
    assert Counter(e.source.line for batch in dealt for e in batch) == Counter(range(1, len(lengths) + 1))
    assert all(max(map(len, batch)) * len(batch) <= most or len(batch) == 1 for batch in dealt)
