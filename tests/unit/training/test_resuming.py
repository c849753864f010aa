"""Going on with a run that was canceled or failed, as the record has it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.training.test_service import RECIPE, World, make_world
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training import run_folder
from tunesmith.training.executor import Report
from tunesmith.training.run import Run, State

FAILED = Report(State.FAILED, error="why", error_zh="因")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store._database.close()


def leave_checkpoints(world: World, run: Run, *steps: int) -> None:
    """What a trainer leaves: a line of 20 bytes a step, and checkpoints that know how many there were."""
    folder = world.home.runs / run.id
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"step": step, "loss": 1.5}).ljust(29) + "\n" for step in range(1, max(steps) + 3)]
    (folder / run_folder.METRICS).write_text("".join(lines))
    for step in steps:
        place = folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(step)
        place.mkdir(parents=True)
        (place / "position.json").write_text(json.dumps({"metrics_bytes": 30 * step}))
        save_file({"state": torch.full((3,), float(step))}, place / "state.safetensors")


def ended(world: World, report: Report = FAILED) -> Run:
    world.executor.script = (report,)
    run = world.service.start(RECIPE, output="adapters/town")
    world.reconcile(3)
    return world.service.get(run.id)


def test_a_failed_run_goes_on_as_a_new_one_from_its_newest_checkpoint(world: World) -> None:
    old = ended(world)
    leave_checkpoints(world, old, 3, 5)
    new = world.service.resume(old.id)
    assert new.id != old.id and new.state is State.QUEUED
    assert (new.recipe, new.output, new.owner) == (old.recipe, old.output, old.owner)
    folder = world.home.runs / new.id
    assert run_folder.checkpointed_step(folder) == 5
    assert [row["step"] for row in run_folder.metrics(folder)] == [1, 2, 3, 4, 5]  # what came later is done again
    state = load_file(run_folder.checkpoints(folder)[-1] / "state.safetensors")["state"]
    assert state.tolist() == [5.0, 5.0, 5.0]
    assert world.service.get(old.id) == old  # final records never change
    assert [path.name for path in world.home.runs.iterdir() if path.name.startswith(".")] == []


def test_a_canceled_run_can_be_gone_on_with(world: World) -> None:
    run = world.service.start(RECIPE)
    world.service.cancel(run.id)
    leave_checkpoints(world, run, 1)
    assert world.service.resume(run.id).state is State.QUEUED


def test_a_damaged_checkpoint_is_passed_over(world: World) -> None:
    old = ended(world)
    leave_checkpoints(world, old, 3, 5)
    newest = run_folder.checkpoints(world.home.runs / old.id)[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    folder = world.home.runs / world.service.resume(old.id).id
    assert run_folder.checkpointed_step(folder) == 3
    assert [row["step"] for row in run_folder.metrics(folder)] == [1, 2, 3]


def test_a_run_without_checkpoint_cannot(world: World) -> None:
    with pytest.raises(Conflict, match=r"before its first checkpoint.*start it anew"):
        world.service.resume(ended(world).id)
    assert len(world.states()) == 1


@pytest.mark.parametrize("script", [(), (Report(State.COMPLETED),)])
def test_a_run_that_goes_on_or_completed_cannot(world: World, script: tuple[Report, ...]) -> None:
    world.executor.script = script or world.executor.script[:1]
    run = world.service.start(RECIPE)
    world.reconcile(2)
    leave_checkpoints(world, run, 1)
    with pytest.raises(Conflict, match="only canceled and failed"):
        world.service.resume(run.id)


def test_it_cannot_be_gone_on_with_twice_at_once(world: World) -> None:
    old = ended(world)
    leave_checkpoints(world, old, 2)
    world.service.resume(old.id)
    with pytest.raises(Conflict, match="writing to adapters/town"):
        world.service.resume(old.id)


def test_anothers_run_is_answered_like_a_missing_one(world: World) -> None:
    old = ended(world)
    leave_checkpoints(world, old, 2)
    with pytest.raises(NotFound):
        world.service.resume(old.id, Caller("somebody"))


def test_what_it_needs_may_be_gone(world: World) -> None:
    old = ended(world)
    leave_checkpoints(world, old, 2)
    (world.home.root / replace(RECIPE).dataset).unlink()
    with pytest.raises(NotFound):
        world.service.resume(old.id)
    assert len(world.states()) == 1
