"""The cache: rows keep what they wrote while others come, grow and leave, and the memory goes back."""

import random

import pytest
import torch

from tunesmith.inference.worker.cache import Cache, LayerShape, Lease

SHAPES = [LayerShape(2, 3, 5), LayerShape(1, 4, 4)]


def cache(context: int = 1024) -> Cache:
    return Cache(SHAPES, context, limit=1 << 20)


def write(store: Cache, lease: Lease, value: float, tokens: int) -> None:
    """Append ``tokens`` tokens that all read ``value``."""
    store.reserve(lease, lease.length + tokens)
    for tensor in (*lease.arena.keys, *lease.arena.values):
        tensor[lease.slot, :, lease.length : lease.length + tokens] = value
    lease.length += tokens


def reads(lease: Lease, value: float) -> bool:
    tensors = (*lease.arena.keys, *lease.arena.values)
    return all(bool((tensor[lease.slot, :, : lease.length] == value).all()) for tensor in tensors)


def test_rows_keep_what_they_wrote_while_others_come_and_go() -> None:
    chance, store = random.Random(5), cache()
    rows: dict[int, Lease] = {}
    for n in range(1, 400):
        if rows and chance.random() < 0.45:
            store.release(rows.pop(chance.choice(list(rows))))
        else:
            rows[n] = store.lease(8)
        for value, lease in rows.items():
            if lease.length < 900:
                write(store, lease, value, chance.randint(1, 40))
        assert all(reads(lease, value) for value, lease in rows.items())
        for arena in store.arenas:
            assert [lease.slot for lease in arena.leases] == list(range(len(arena.leases)))
            assert all(lease.arena is arena for lease in arena.leases)
    for lease in rows.values():
        store.release(lease)
    assert store.allocated == 0


def test_memory_follows_the_rows() -> None:
    store = cache()
    one = store.cost(10)
    leases = [store.lease(10) for _ in range(33)]
    assert store.allocated == 64 * one
    for lease in leases[8:]:
        store.release(lease)
    assert 8 * one <= store.allocated <= 32 * one
    for lease in leases[:8]:
        store.release(lease)
    assert store.allocated == 0


def test_a_row_moves_to_a_larger_arena_only_when_it_must() -> None:
    store = cache()
    lease = store.lease(200)
    write(store, lease, 1.0, 256)
    assert lease.arena.capacity == 256
    write(store, lease, 1.0, 1)
    assert lease.arena.capacity == 512
    assert reads(lease, 1.0)
    assert store.allocated == store.cost(512)


def test_a_scrubbed_slot_holds_nothing_for_the_next_row() -> None:
    store = cache()
    first, second = store.lease(8), store.lease(8)
    write(store, first, float("nan"), 50)
    write(store, second, 2.0, 3)
    store.release(first, scrub=True)
    assert reads(second, 2.0)
    assert all(bool(tensor.isfinite().all()) for tensor in (*second.arena.keys, *second.arena.values))


def test_the_last_arena_is_as_long_as_the_context() -> None:
    store = cache(context=700)
    assert [arena.capacity for arena in store.arenas] == [256, 512, 700]
    with pytest.raises(StopIteration):
        store.lease(701)


def test_new_slots_are_finite() -> None:
    store = cache()
    lease = store.lease(8)
    assert all(torch.count_nonzero(tensor) == 0 for tensor in (*lease.arena.keys, *lease.arena.values))


def test_settled_memory_stays_where_it_is() -> None:
    limit = 1 << 23
    store = Cache([LayerShape(1, 2, 2)], 1024, limit=limit, settled=True)
    first = store.lease(8)
    generation, kept = first.arena.generation, first.arena.slots
    assert kept == 64
    for _ in range(3):
        more = [store.lease(8) for _ in range(kept - 1)]
        for lease in more:
            store.release(lease)
    store.release(first)
    assert (first.arena.generation, first.arena.slots) == (generation, kept)
    for arena in store.arenas:
        store.release(store.lease(arena.capacity))
    assert 0 < store.allocated <= limit // 4
    more = [store.lease(8) for _ in range(kept + 1)]  # above that it is as ever
    assert first.arena.generation > generation
    for lease in more:
        store.release(lease)
    assert first.arena.slots == kept


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_an_arena_that_runs_out_of_memory_while_it_grows_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    store = cache()
    rows = [store.lease(8), store.lease(8)]
    for value, lease in enumerate(rows, 1):
        write(store, lease, value, 30)
    zeros, calls = torch.zeros, 0

    def fails(*size: object, **how: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise MemoryError
        return zeros(*size, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("tunesmith.inference.worker.cache.torch.zeros", fails)
    with pytest.raises(MemoryError):
        store.lease(8)
    assert all(reads(lease, value) for value, lease in enumerate(rows, 1))
    rows.append(store.lease(8))
    write(store, rows[2], 3, 40)
    assert all(reads(lease, value) for value, lease in enumerate(rows, 1))
    for lease in rows:
        store.release(lease)
    assert store.allocated == 0


def test_what_nothing_has_shown_to_be_finite_is_wiped_wherever_it_lay() -> None:
    store = cache()
    first, *others, sick = (store.lease(8) for _ in range(6))
    write(store, first, 1.0, 5)
    write(store, sick, float("nan"), 9)
    store.release(first)  # the last one moves into its slot, and leaves its own
    store.release(sick, unproven=True)
    arena = others[0].arena
    assert arena.slots >= 6  # the memory is the same
    assert all(bool(tensor.isfinite().all()) for tensor in (*arena.keys, *arena.values))


def test_who_remembers_where_leases_lie_hears_that_they_moved() -> None:
    store = Cache([LayerShape(1, 2, 2)], 1024, limit=1 << 20)
    seen = [store.moves]

    def moved() -> bool:
        seen.append(store.moves)
        return seen[-1] != seen[-2]

    lease, other = store.lease(10), store.lease(10)
    assert moved()
    store.reserve(lease, 256)
    assert not moved()
    store.reserve(lease, 257)
    assert moved() and lease.arena is not other.arena
    store.release(other)
    assert moved()
