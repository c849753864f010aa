"""What the stores of jobs keep to, on every database: recorded with the run or not at all, changed by compare-and-set."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from tunesmith.datasets.export.sample import Strategy
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.hosted import store as hosted_jobs
from tunesmith.training.hosted.provider import Cost, JobEvent
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.jobs import store as job_notes
from tunesmith.training.jobs.job import JobNotes
from tunesmith.training.jobs.store import JobStore
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import RunStore

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
RUN = Run(id="a" * 32, recipe=Recipe("m", "data/x.jsonl"), output="adapters/x", executor="together_ai", created_at=NOW)
NOTES = JobNotes(
    run_id=RUN.id,
    name="名 🚀",
    provider="together_ai",
    model="m",
    strategy=Strategy.R1,
    parameters={"epochs": 1, "lora_alpha": 16.0},
    project_id="1" * 12,
    task_id="2" * 12,
    system_message="你是客服。",
    properties={"warnings": [["空", "empty"]]},
)
BESIDE = [job_notes.recorded(NOTES), hosted_jobs.recorded(RUN.id, "together_ai", "T", {"epochs": 1})]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def test_what_is_kept_of_a_run_is_recorded_with_it_or_not_at_all(database: Database) -> None:
    runs, notes, hosted = RunStore(database), JobStore(database), HostedStore(database)
    with pytest.raises(IntegrityError):
        runs.add(RUN, None, [*BESIDE, BESIDE[0]])
    with pytest.raises(NotFound):
        runs.get(RUN.id)
    runs.add(RUN, None, BESIDE)
    assert notes.of([RUN]) == {RUN.id: NOTES} and hosted.of([RUN.id])[RUN.id].job_id is None
    assert runs.list(among=job_notes.belonging("1" * 12, "2" * 12)) == [RUN]
    assert runs.list(among=job_notes.belonging("1" * 12, "3" * 12)) == [] == runs.list(among=["b" * 32])
    assert notes.edit(RUN, {"name": "other"}) == replace(NOTES, name="other")
    with pytest.raises(Conflict):
        runs.delete(RUN, [job_notes.forgotten(RUN.id), hosted_jobs.forgotten(RUN.id)])
    assert notes.of([RUN])[RUN.id].name == "other"
    ended = runs.save(RUN.to(State.FAILED, error="e"), was=RUN)
    runs.delete(ended, [job_notes.forgotten(RUN.id), hosted_jobs.forgotten(RUN.id)])
    assert hosted.get(RUN.id) is None and runs.list() == []


def test_a_run_whose_model_is_being_deployed_is_not_forgotten_and_a_forgotten_ones_is_not_deployed(
    database: Database,
) -> None:
    runs, hosted = RunStore(database), HostedStore(database)
    runs.add(RUN, None, BESIDE)
    ended = runs.save(RUN.to(State.FAILED, error="e"), was=RUN)
    assert hosted.deployments() == {}
    hosted.deployed(RUN.id, {"word": "ASKED"})
    assert hosted.deployments() == {RUN.id: {"word": "ASKED"}}
    with pytest.raises(IntegrityError):
        runs.delete(ended, [job_notes.forgotten(RUN.id), hosted_jobs.forgotten(RUN.id)])
    assert runs.get(RUN.id) == ended and hosted.get(RUN.id) is not None
    hosted.deployed(RUN.id, None)
    assert hosted.deployments() == {}
    runs.delete(ended, [job_notes.forgotten(RUN.id), hosted_jobs.forgotten(RUN.id)])
    hosted.deployed(RUN.id, None)  # ending what is gone is fine
    with pytest.raises(NotFound):
        hosted.deployed(RUN.id, {"word": "ASKED"})


def test_what_is_told_of_a_job_comes_back_as_it_was_and_of_two_writers_one_is_refused(database: Database) -> None:
    RunStore(database).add(RUN, None, BESIDE)
    store = HostedStore(database)
    kept = store.get(RUN.id)
    assert kept is not None and store.begin(RUN.id, "together_ai", "other", {}) == kept and kept.title == "T"
    news = replace(
        kept.news,
        tried_at=NOW,
        training_file="f",
        job_id="j",
        word="running",
        pending=False,
        message="好",
        cost=Cost(1.5, "EUR", False),
        tokens=1 << 40,
        events=(JobEvent(NOW, "start", "begun", "info", 3), JobEvent(None, "x", "y")),
        raw={"a": [1, {"b": "\0"}]},
    )
    saved = store.save(kept, news)
    assert store.get(RUN.id) == saved and saved.news == news and saved.version == 1
    with pytest.raises(Conflict):
        store.save(kept, replace(news, word="late"))
    store.deployed(RUN.id, {"id": "d"})
    assert store.save(saved, replace(news, word="completed")).version == 2  # the deployment is somebody else's to write
    found = store.get(RUN.id)
    assert found is not None and found.news.deployment == {"id": "d"} and found.news.word == "completed"
    store.deployed(RUN.id, None)
    found = store.get(RUN.id)
    assert found is not None and found.news.deployment is None
