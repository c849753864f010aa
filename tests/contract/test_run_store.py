"""What every store of runs keeps to, on every database."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.run import Once, Progress, Recipe, Run, State
from tunesmith.training.store import LIVE, RunStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = START + timedelta(hours=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database, clock=lambda: LATER)


def run(number: int, **changes: object) -> Run:
    made = Run(
        id=f"run-{number}",
        recipe=Recipe("tiny", "data/a.jsonl", target_modules=("q_proj", "v_proj"), replay="g.jsonl", replay_share=0.25),
        output=f"adapters/{number}",
        executor="local",
        created_at=START + timedelta(seconds=number),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_run_comes_back_as_it_was_stored(store: RunStore) -> None:
    plain = run(1)
    full = run(
        2,
        state=State.FAILED,
        owner="ada",
        handle="h",
        progress=Progress(3, 10, 0.5, 1.25, 1e-4, 512.0, 7.5),
        cancel_requested=True,
        started_at=START,
        ended_at=START + timedelta(microseconds=1),
        updated_at=START + timedelta(microseconds=2),
        error="the disk is full",
        error_zh="磁盘已满",
    )
    for one in (plain, full):
        store.add(one)
        assert store.get(one.id) == one


def test_a_run_nobody_recorded_is_not_found(store: RunStore) -> None:
    with pytest.raises(NotFound, match="nothing-here"):
        store.get("nothing-here")
    for odd in ("", "\0", "\ud800", "\x1b[31m", "x" * 100_000):
        with pytest.raises(NotFound) as refused:
            store.get(odd)
        assert len(refused.value.en) < 100 and "\x1b" not in refused.value.en


def test_the_newest_is_listed_first_and_states_and_owners_select(store: RunStore) -> None:
    for n in range(5):
        store.add(run(n, state=State.QUEUED if n % 2 else State.CANCELED, owner="ada" if n > 2 else "local"))
    assert [r.id for r in store.list()] == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert [r.id for r in store.list(limit=2)] == ["run-4", "run-3"]
    assert [r.id for r in store.list(states=LIVE)] == ["run-3", "run-1"]
    assert [r.id for r in store.list(states=(State.CANCELED,), oldest_first=True)] == ["run-0", "run-2", "run-4"]
    assert [r.id for r in store.list(owner="ada")] == ["run-4", "run-3"]
    assert store.list(states=()) == []


def test_a_save_wins_once_and_the_second_from_the_same_record_is_refused(store: RunStore) -> None:
    first = run(1)
    store.add(first)
    saved = store.save(first.to(State.RUNNING, handle="a"), was=first)
    assert saved.version == 1 and store.get(first.id) == saved
    with pytest.raises(Conflict):
        store.save(first.to(State.CANCELED), was=first)
    assert store.get(first.id) == saved
    assert store.save(saved.to(State.COMPLETED), was=saved).version == 2


def test_of_many_writers_at_once_exactly_one_wins(store: RunStore) -> None:
    first = run(1)
    store.add(first)
    won: list[int] = []
    gate = threading.Barrier(6)

    def write(number: int) -> None:
        gate.wait()
        try:
            store.save(first.to(State.RUNNING, handle=str(number)), was=first)
        except Conflict:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and store.get(first.id).handle == str(won[0])


def test_two_live_runs_never_share_an_output_and_the_other_is_named(store: RunStore) -> None:
    first = run(1)
    store.add(first)
    with pytest.raises(Conflict) as refused:
        store.add(run(2, output=first.output))
    assert refused.value.details["run_id"] == "run-1" and "run-1" in refused.value.zh
    store.save(first.to(State.CANCELED), was=first)
    store.add(run(2, output=first.output))


def test_every_save_notes_when(store: RunStore) -> None:
    first = run(1)
    store.add(first)
    assert store.get(first.id).updated_at is None
    saved = store.save(first.to(State.RUNNING), was=first)
    assert saved.updated_at == LATER and store.get(first.id) == saved


def test_a_run_is_found_by_the_key_of_its_owner_and_saving_keeps_the_key(store: RunStore) -> None:
    anns, bobs = run(1, owner="ann"), run(2, owner="bob")
    store.add(anns, Once("k", "one"))
    store.add(bobs, Once("k", "two"))
    store.add(run(3, owner="ann"))
    assert store.made_by("ann", "k") == (anns, "one") and store.made_by("bob", "k") == (bobs, "two")
    assert store.made_by("ann", "other") is None and store.made_by("eve", "k") is None
    saved = store.save(anns.to(State.RUNNING), was=anns)
    assert store.made_by("ann", "k") == (saved, "one")


def test_a_key_makes_one_run_and_nothing_else_is_recorded(store: RunStore) -> None:
    store.add(run(1), Once("k", "one"))
    for digest in ("one", "two"):
        with pytest.raises(Conflict) as refused:
            store.add(run(2), Once("k", digest))
        assert refused.value.details["field"] == "Idempotency-Key"
    assert [r.id for r in store.list()] == ["run-1"]


def test_of_many_who_send_one_request_at_once_one_makes_the_run_and_all_find_it(store: RunStore) -> None:
    gate, found = threading.Barrier(6), list[str]()

    def send(number: int) -> None:
        gate.wait()
        try:
            store.add(run(number, owner="ann"), Once("k", "one"))
        except Conflict as refused:
            assert refused.details["field"] == "Idempotency-Key"
        made = store.made_by("ann", "k")
        assert made is not None
        found.append(made[0].id)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1 and [r.id for r in store.list()] == found[:1]


def test_completed_runs_come_by_when_they_ended_of_one_owner_or_output_where_asked(store: RunStore) -> None:
    ends = [0.5, 2.0, 1.0, 0.0, 3.0]
    for n, end in enumerate(ends):
        state = State.COMPLETED if n < 4 else State.CANCELED
        ended = START + timedelta(seconds=end)
        owner, output = ("ann", "adapters/a") if n % 2 else ("bob", "adapters/b")
        store.add(run(n, state=state, ended_at=ended, owner=owner, output=output))
    assert [r.id for r in store.completed(limit=9)] == ["run-1", "run-2", "run-0", "run-3"]
    assert [r.id for r in store.completed(limit=1)] == ["run-1"]
    assert [r.id for r in store.completed(owner="bob", limit=9)] == ["run-2", "run-0"]
    assert [r.id for r in store.completed(output="adapters/a", limit=9)] == ["run-1", "run-3"]
    assert store.completed(owner="ann", output="adapters/b", limit=9) == []


def test_an_error_without_failure_and_a_failure_without_error_are_never_recorded(store: RunStore) -> None:
    from sqlalchemy.exc import IntegrityError

    for wrong in (run(1, error="why"), run(2, state=State.FAILED)):
        with pytest.raises(IntegrityError):
            store.add(wrong)
    assert store.list() == []
