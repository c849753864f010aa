"""Deleting a job while something else happens to it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.training.hosted.worlds import World, worlds
from tests.unit.training.test_service import Bases
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.problems import Conflict
from tunesmith.training.jobs.service import JobService


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


async def test_a_job_whose_model_is_deployed_while_it_is_deleted_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.provider.script = ("completed",)
    run = world.start()
    await world.passes(3, apart_s=15)
    hosted = {world.provider.name: world.executor}
    none: object = None
    jobs = JobService(world.database, world.training, none, none, none, hosted, Bases(), world.home, world.clock)  # type: ignore[arg-type]
    before = jobs.get(run.id, LOCAL)
    assert before.run.state.final and before.hosted is not None
    monkeypatch.setattr(jobs, "get", lambda *asked, **more: replace(before))
    world.store.deployed(run.id, {"word": "ASKED"})  # by somebody who was a moment faster
    with pytest.raises(Conflict, match="undeploy"):
        jobs.delete(run.id, LOCAL)
    assert world.news(run).deployment == {"word": "ASKED"} and world.state(run) == "completed"
