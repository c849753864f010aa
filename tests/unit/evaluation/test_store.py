"""Evaluations in the database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tunesmith.evaluation.evaluation import Evaluation, Failure, State
from tunesmith.evaluation.store import EvaluationStore
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.db import Database
from tunesmith.models.model import Model

_AT = datetime(2025, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def _evaluation(name: str = "one", owner: str = "local", age: int = 0) -> Evaluation:
    return Evaluation(
        id=name,
        model=Model("small", "adapters/town"),
        metrics=("bleu", "perplexity"),
        sampling=Sampling(8, 0.0, 1.0, 0, 1.0, 7, ("。",)),
        compare=True,
        questions=3,
        total=12,
        created_at=_AT - timedelta(seconds=age),
        owner=owner,
        label="第一次",
    )


@pytest.fixture
def store(database: Database) -> EvaluationStore:
    store = EvaluationStore(database)
    store.insert(_evaluation())
    return store


def _found(store: EvaluationStore) -> Evaluation:
    found = store.find("one")
    assert found is not None
    return found


def test_what_is_recorded_comes_back_whole(store: EvaluationStore) -> None:
    assert store.find("one") == _evaluation()
    assert store.find("other") is None


def test_an_evaluation_goes_from_queued_through_running_to_completed(store: EvaluationStore) -> None:
    assert store.begin("one")
    assert store.advance("one", 5)
    running = _found(store)
    assert (running.state, running.done, running.attempts) == (State.RUNNING, 5, 1)
    assert store.complete("one", {"count": 3, "metrics": {}}, _AT)
    ended = _found(store)
    assert (ended.state, ended.done, ended.result, ended.ended_at) == (
        State.COMPLETED,
        12,
        {"count": 3, "metrics": {}},
        _AT,
    )


def test_a_failure_keeps_both_languages(store: EvaluationStore) -> None:
    assert store.fail("one", Failure("坏了", 'it "broke"'), _AT)
    failed = _found(store)
    assert failed.failure == Failure("坏了", 'it "broke"')
    assert failed.error == "坏了"


@pytest.mark.parametrize(
    "end",
    [
        lambda store: store.begin("one") and store.complete("one", {}, _AT),
        lambda store: store.fail("one", Failure("坏", "bad"), _AT),
        lambda store: store.cancel("one", _AT),
    ],
    ids=["completed", "failed", "canceled"],
)
def test_a_final_state_never_changes(store: EvaluationStore, end: Callable[[EvaluationStore], bool]) -> None:
    assert end(store)
    before = _found(store)
    assert not store.begin("one")
    assert not store.advance("one", 1)
    assert not store.complete("one", {"late": 1}, _AT)
    assert not store.fail("one", Failure("晚", "late"), _AT)
    assert not store.cancel("one", _AT)
    assert not store.requeue("one")
    assert _found(store) == before


def test_only_a_queued_evaluation_begins_and_only_once(store: EvaluationStore) -> None:
    assert not store.advance("one", 1)
    assert not store.complete("one", {}, _AT)
    assert store.begin("one")
    assert not store.begin("one")
    assert not store.begin("other")


def test_requeued_it_has_done_nothing_but_remembers_its_attempts(store: EvaluationStore) -> None:
    store.begin("one")
    store.advance("one", 5)
    assert store.requeue("one")
    again = _found(store)
    assert (again.state, again.done, again.attempts) == (State.QUEUED, 0, 1)


def test_lists_are_newest_first_and_of_one_owner_where_asked(store: EvaluationStore) -> None:
    store.insert(_evaluation("older", age=5))
    store.insert(_evaluation("theirs", owner="ann", age=2))
    assert [e.id for e in store.newest(None, 10)] == ["one", "theirs", "older"]
    assert [e.id for e in store.newest("ann", 10)] == ["theirs"]
    assert [e.id for e in store.newest(None, 1)] == ["one"]
    store.cancel("theirs", _AT)
    assert [e.id for e in store.unfinished()] == ["older", "one"]
