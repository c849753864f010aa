"""What rows leave behind: found by who may find it, the longest there is, and never more than there is room for."""

import gc

import pytest
import torch

from tests.unit.inference.worker.remembering import adapter
from tunesmith.inference.worker.cache import Cache, LayerShape, Lease
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.prefixes import LEAST, Prefixes, common, ids_of

SYSTEM = list(range(40))


class Kept:
    """A cache, what is kept beside it, and a clock to turn."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self.now = 0.0
        self.cache = Cache([LayerShape(2, 3, 5), LayerShape(1, 4, 4)], 1024, limit=limit)
        self.prefixes = Prefixes(self.cache, lambda: self.now)
        self.room = limit

    def keep(self, tokens: list[int], worn: AdapterWeights | None = None, owner: str = "") -> None:
        lease = self.cache.lease(len(tokens))
        write(lease, tokens)
        self.prefixes.keep(worn, owner, ids_of(tokens), lease, self.room)
        self.cache.release(lease)

    def find(self, tokens: list[int], worn: AdapterWeights | None = None, owner: str = "") -> int:
        """How many tokens are found; they are copied in and must be the right ones."""
        parts, length = self.prefixes.find(worn, owner, ids_of(tokens))
        lease = self.cache.lease(len(tokens))
        if length:
            self.cache.copy_in(parts, lease, length)
        for tensor in (*lease.arena.keys, *lease.arena.values):
            assert torch.equal(tensor[lease.slot, 0, :length, -1], torch.tensor(tokens[:length], dtype=torch.float32))
        self.cache.release(lease)
        return length


def write(lease: Lease, tokens: list[int]) -> None:
    for tensor in (*lease.arena.keys, *lease.arena.values):
        tensor[lease.slot, :, : len(tokens)] = torch.tensor(tokens, dtype=torch.float32)[None, :, None]
    lease.length = len(tokens)


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [([], [1], 0), ([1], [2], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 4], [1, 2, 3], 2)],
)
def test_how_far_two_rows_begin_alike(a: list[int], b: list[int], alike: int) -> None:
    assert common(ids_of(a), ids_of(b)) == common(ids_of(b), ids_of(a)) == alike


def test_the_longest_common_beginning_is_found() -> None:
    kept = Kept()
    kept.keep([*SYSTEM, 1, 2, 3])
    kept.keep([*SYSTEM, 1, 5, 6, 7, 8])
    kept.keep([9, *SYSTEM])
    assert kept.find([*SYSTEM, 1, 5, 6, 0]) == len(SYSTEM) + 3
    assert kept.find([*SYSTEM, 1, 2, 3, 4, 5, 6]) == len(SYSTEM) + 3
    assert kept.find([*SYSTEM, 70]) == len(SYSTEM)
    assert kept.find([8, *SYSTEM]) == 0
    assert kept.find([]) == 0


def test_nothing_is_found_by_another_owner_or_under_another_adapter() -> None:
    kept = Kept()
    old, new = adapter(1), adapter(2)
    kept.keep(SYSTEM, old, "ada")
    assert kept.find(SYSTEM, old, "ada") == len(SYSTEM)
    for worn, owner in ((old, "lin"), (old, ""), (new, "ada"), (None, "ada"), (None, "")):
        assert kept.find(SYSTEM, worn, owner) == 0


def test_what_an_adapter_left_goes_with_it_and_is_not_its_successors() -> None:
    kept = Kept()
    worn: AdapterWeights | None = adapter(1)
    kept.keep(SYSTEM, worn)
    worn = None
    gc.collect()
    successors = [adapter(2) for _ in range(500)]  # one of them is likely to be where the first one was
    assert not any(kept.prefixes.find(worn, "", ids_of(SYSTEM))[1] for worn in successors)
    kept.prefixes.fit(kept.room)
    assert kept.prefixes.size == 0


def test_a_longer_one_takes_the_place_of_its_own_beginning() -> None:
    kept = Kept()
    kept.keep(SYSTEM)
    kept.keep([*SYSTEM, 1, 2])
    assert kept.prefixes.size == kept.cache.size(len(SYSTEM) + 2)
    kept.keep(SYSTEM)
    assert kept.prefixes.size == kept.cache.size(len(SYSTEM) + 2)
    assert kept.find([*SYSTEM, 1, 2]) == len(SYSTEM) + 2


def test_the_least_recently_used_goes_first_and_a_quarter_of_the_cache_is_the_most() -> None:
    kept = Kept()
    rows = [[n, *SYSTEM] for n in range(12)]
    one = kept.cache.size(len(rows[0]))
    kept.cache.limit = 4 * 3 * one
    for now, row in enumerate(rows[:3]):
        kept.now = now
        kept.keep(row)
    kept.now = 3
    assert kept.find(rows[0])
    kept.keep(rows[3])
    assert [bool(kept.find(row)) for row in rows[:4]] == [True, False, True, True]
    assert kept.prefixes.size == 3 * one
    kept.room = one
    kept.keep(rows[4])
    assert [bool(kept.find(row)) for row in rows[:5]] == [False, False, False, False, True]


def test_what_does_not_fit_or_is_not_worth_it_is_not_kept() -> None:
    kept = Kept()
    kept.keep(SYSTEM[: LEAST - 1])
    kept.room = 1
    kept.keep(SYSTEM)
    assert kept.prefixes.size == 0 and not kept.prefixes.clear()


def test_what_nobody_asks_for_goes_after_a_while() -> None:
    kept = Kept()
    kept.keep(SYSTEM)
    kept.now = 599
    kept.prefixes.fit(kept.room)
    assert kept.find(SYSTEM) == len(SYSTEM)
    kept.now += 599
    kept.prefixes.fit(kept.room)
    assert kept.find(SYSTEM) == len(SYSTEM)
    kept.now += 601
    kept.prefixes.fit(kept.room)
    assert kept.prefixes.size == 0


def test_no_memory_for_the_copy_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.keep([1, *SYSTEM])

    def fails(lease: Lease, tokens: int) -> list[torch.Tensor]:
        raise MemoryError

    monkeypatch.setattr(kept.cache, "copy_out", fails)
    kept.keep([2, *SYSTEM])
    assert kept.prefixes.size == 0  # there is no memory, so all that is only kept goes
