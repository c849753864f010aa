"""Leases on runs, on every database: had by one at a time, whoever asks at once, and over when their time is."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import Lease, RunStore

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LEASE_S = 30


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database, clock=lambda: NOON)


def add(store: RunStore, number: int, **changes: object) -> Run:
    run = Run(
        id=f"run-{number:02}",
        recipe=Recipe("tiny", "data/a.jsonl"),
        output=f"adapters/{number}",
        executor="local",
        created_at=NOON + timedelta(seconds=number),
    )
    run = replace(run, **changes)  # type: ignore[arg-type]
    store.add(run)
    return run


def lease(holder: str, after_s: float = 0.0) -> Lease:
    return Lease(holder, NOON + timedelta(seconds=after_s + LEASE_S))


def claim(store: RunStore, holder: str, after_s: float = 0.0, room: int = 99, executor: str = "local") -> str | None:
    """Id of the run claimed so many seconds after noon."""
    run = store.claim(executor, lease(holder, after_s), now=NOON + timedelta(seconds=after_s), room=room)
    return run and run.id


def hold(store: RunStore, holder: str, after_s: float = 0.0) -> set[str]:
    return set(store.hold(["local"], lease(holder, after_s), now=NOON + timedelta(seconds=after_s)))


def held(store: RunStore) -> dict[str, str | None]:
    return {run.id: found and found.holder for run, found in store.leased()}


def at_once(count: int, work: Callable[[int], None]) -> None:
    gate, faults = threading.Barrier(count), []

    def begin(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_the_oldest_queued_run_that_nobody_has_is_claimed_and_is_no_news_of_the_run(store: RunStore) -> None:
    add(store, 2), add(store, 3, state=State.RUNNING), add(store, 4, executor="moon")
    first = add(store, 1)
    assert claim(store, "a") == "run-01"
    assert store.get(first.id) == first  # version and all
    assert claim(store, "b") == "run-02"
    assert claim(store, "c") is None and claim(store, "c", executor="moon") == "run-04"
    assert held(store) == {"run-01": "a", "run-02": "b", "run-03": None, "run-04": "c"}


def test_a_claim_is_anothers_when_its_time_is_over_and_not_before(store: RunStore) -> None:
    add(store, 1)
    assert claim(store, "a") == "run-01"
    assert claim(store, "a", 1) == "run-01"  # its own
    assert claim(store, "b", 30.9) is None
    assert claim(store, "b", 31) == "run-01"
    assert claim(store, "a", 31) is None


def test_there_is_room_for_so_many_that_run_or_are_about_to_whoever_has_them(store: RunStore) -> None:
    add(store, 1, state=State.RUNNING), add(store, 2, state=State.RUNNING, executor="moon")
    for number in (3, 4, 5):
        add(store, number)
    assert claim(store, "a", room=1) is None
    assert claim(store, "a", room=2) == "run-03"
    assert claim(store, "b", room=2) is None
    assert claim(store, "a", room=2) == "run-03"  # it is itself what fills the room
    assert claim(store, "b", LEASE_S, room=2) == "run-03"  # its holder did nothing with it
    assert claim(store, "b", room=3) == "run-03"


def test_of_many_who_claim_at_once_each_run_goes_to_one(store: RunStore) -> None:
    for number in range(24):
        add(store, number)
    got: list[str] = []

    def take(number: int) -> None:
        while (found := store.claim("local", lease(f"h{number}"), now=NOON, room=99)) is not None:
            got.append(found.id)
            store.save(found.to(State.RUNNING), was=found, holder=f"h{number}")

    at_once(6, take)
    assert sorted(got) == [f"run-{number:02}" for number in range(24)]


def test_many_who_claim_at_once_never_fill_more_than_the_room(store: RunStore) -> None:
    for number in range(12):
        add(store, number)
    for _ in range(5):
        got: list[str | None] = []
        at_once(8, lambda number, got=got: got.append(claim(store, f"h{number}", room=3)))  # type: ignore[misc]
        assert len([each for each in got if each]) == 3 == len({each for each in got if each})
        for number in range(8):
            store.release(f"h{number}")


def test_a_running_run_is_held_by_one_until_its_lease_is_over_or_ended(store: RunStore) -> None:
    for number in (1, 2):
        add(store, number, state=State.RUNNING)
    add(store, 3), add(store, 4, state=State.RUNNING, executor="moon")
    assert hold(store, "a") == {"run-01", "run-02"}
    assert hold(store, "b", 29) == set()
    assert hold(store, "a", 20) == {"run-01", "run-02"}  # renewed
    assert hold(store, "b", 49.9) == set()
    assert hold(store, "b", 50) == {"run-01", "run-02"}
    assert hold(store, "a", 51) == set()
    store.release("b", "run-01")
    assert hold(store, "a", 51) == {"run-01"}
    store.release("b")
    store.release("nobody")
    assert hold(store, "a", 51) == {"run-01", "run-02"}


def test_of_many_who_take_over_at_once_one_has_each_run(store: RunStore) -> None:
    for number in range(8):
        add(store, number, state=State.RUNNING)
    got: list[set[str]] = []
    at_once(6, lambda number: got.append(hold(store, f"h{number}")))
    assert sorted(id for each in got for id in each) == [f"run-{number:02}" for number in range(8)]


def test_only_who_has_the_lease_records_what_became_of_the_run(store: RunStore) -> None:
    run = add(store, 1, state=State.RUNNING)
    hold(store, "a")
    with pytest.raises(Conflict):
        store.save(run.to(State.COMPLETED), was=run, holder="b")
    asked = store.save(run.to(State.RUNNING, cancel_requested=True), was=run)  # whoever asks need not have it
    assert held(store) == {"run-01": "a"}
    done = store.save(asked.to(State.CANCELED), was=asked, holder="a")
    assert store.get(run.id) == done and held(store) == {}
    add(store, 1, id="again", state=State.RUNNING)
    assert hold(store, "b") == {"again"}


def test_times_of_any_zone_are_one_time(store: RunStore) -> None:
    add(store, 1, state=State.RUNNING)
    store.hold(["local"], Lease("a", lease("a").until.astimezone(timezone(timedelta(hours=9)))), now=NOON)
    assert hold(store, "b", 29) == set() and hold(store, "b", 30) == {"run-01"}
