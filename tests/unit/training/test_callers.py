"""Whose runs a caller sees, whose data a recipe may name, and what completed runs tell."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.training.test_service import DONE, RECIPE, ROW, World, make_world
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.run import Run, State

ANN, BOB, ROOT = Caller("ann"), Caller("bob"), Caller("root", admin=True)
NOBODYS = "0" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store._database.close()


def completed(world: World, caller: Caller = LOCAL, output: str | None = None) -> Run:
    run = world.service.start(RECIPE, output=output, caller=caller)
    world.executor.script = (DONE,)
    world.reconcile(2)
    return world.service.get(run.id)


@pytest.mark.parametrize(
    "ask",
    [
        lambda world, run_id: world.service.get(run_id, caller=BOB),
        lambda world, run_id: world.service.cancel(run_id, caller=BOB),
        lambda world, run_id: world.service.metrics(run_id, caller=BOB),
    ],
    ids=["get", "cancel", "metrics"],
)
def test_anothers_run_is_answered_word_for_word_like_a_missing_one(
    world: World, ask: Callable[[World, str], object]
) -> None:
    run = world.service.start(RECIPE, caller=ANN)
    with pytest.raises(NotFound) as theirs:
        ask(world, run.id)
    with pytest.raises(NotFound) as missing:
        ask(world, NOBODYS)
    told = [[text.replace(run.id, NOBODYS) for text in (one.value.zh, one.value.en)] for one in (theirs, missing)]
    assert told[0] == told[1]
    assert {**theirs.value.details, "run_id": NOBODYS} == missing.value.details
    assert world.service.get(run.id, caller=ANN) == run  # and nothing happened to it


def test_an_ended_run_of_another_cannot_be_told_from_a_missing_one_by_canceling_it(world: World) -> None:
    run = completed(world, ANN)
    with pytest.raises(NotFound):
        world.service.cancel(run.id, caller=BOB)
    with pytest.raises(Conflict):
        world.service.cancel(run.id, caller=ANN)


def test_a_caller_lists_their_own_runs_and_an_admin_all(world: World) -> None:
    anns, bobs = world.service.start(RECIPE, caller=ANN), world.service.start(RECIPE, caller=BOB)
    assert (anns.owner, bobs.owner) == ("ann", "bob")
    assert world.service.list(caller=ANN) == [anns]
    assert world.service.list(caller=BOB) == [bobs]
    assert world.service.list(caller=ROOT) == world.service.list() == [bobs, anns]
    assert world.service.cancel(bobs.id, caller=ROOT).state is State.CANCELED


def test_who_is_in_the_way_of_an_output_is_named_to_those_only_who_may_see_it(world: World) -> None:
    run = world.service.start(RECIPE, output="adapters/a/b", caller=ANN)
    for output in ("adapters/a/b", "adapters/a", "adapters/A/b/c"):
        with pytest.raises(Conflict) as told:
            world.service.start(RECIPE, output=output, caller=ANN)
        assert told.value.details["run_id"] == run.id and run.id in told.value.zh
        with pytest.raises(Conflict) as hidden:
            world.service.start(RECIPE, output=output, caller=BOB)
        said = f"{hidden.value.zh} {hidden.value.en} {hidden.value.details}"
        assert run.id not in said and (output == "adapters/a/b" or "adapters/a/b" not in said)


@pytest.mark.parametrize("place", ["dataset", "validation", "replay"])
def test_data_the_caller_may_not_read_is_never_opened(world: World, place: str) -> None:
    asked: list[tuple[str, str]] = []

    def may_read(name: str, caller: Caller) -> None:
        asked.append((name, caller.name))
        if name == "data/secret.jsonl" and not caller.sees("ann"):
            raise NotFound(f"数据集不存在：{name}", f"there is no dataset {name}")

    world.may_read = may_read
    # were it opened it would be refused as a folder, and not as missing
    (world.home.root / "data" / "secret.jsonl").mkdir()
    recipe = replace(RECIPE, **{place: "data/secret.jsonl"})
    with pytest.raises(NotFound, match=r"there is no dataset data/secret\.jsonl"):
        world.service.start(recipe, caller=BOB)
    assert asked[-1] == ("data/secret.jsonl", "bob") and world.store.list() == []
    (world.home.root / "data" / "secret.jsonl").rmdir()
    (world.home.root / "data" / "secret.jsonl").write_text(json.dumps(ROW))
    assert world.service.start(recipe, caller=ANN).owner == "ann"


def test_the_newest_completed_runs_are_the_callers_and_the_last_to_end_comes_first(world: World) -> None:
    first, second, bobs = completed(world, ANN), completed(world, ANN), completed(world, BOB)
    world.service.start(RECIPE, caller=ANN)
    assert world.service.latest_completed(ANN) == [second, first]
    assert world.service.latest_completed(BOB) == [bobs]
    assert world.service.latest_completed(ROOT) == [bobs, second, first]
    assert world.service.latest_completed(ROOT, limit=1) == [bobs]


def test_an_adapter_is_traced_to_the_last_run_that_published_it(world: World) -> None:
    earlier = completed(world, ANN, "adapters/town")
    assert world.service.of_output("adapters/town") == earlier
    later = completed(world, BOB, "adapters/town")  # the scripted executor leaves nothing in the way
    world.service.start(RECIPE, output="adapters/town")
    assert world.service.of_output("adapters/town") == later
    assert world.service.of_output("adapters/town", ANN) == earlier
    assert world.service.of_output("adapters/none") is None


def test_final_metrics_are_the_last_losses_and_what_is_not_known_is_left_out(world: World) -> None:
    run = world.service.start(RECIPE)
    assert world.service.final_metrics(run) == {}
    folder = world.home.runs / run.id
    folder.mkdir()
    lines = ['{"event":"stage","loss":9.0}', '{"step":1,"loss":2.0}', '{"step":2,"loss":1.5}', '{"step":3,"loss":null}']
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert world.service.final_metrics(run) == {"train_loss": 1.5}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"event":"validation","step":2,"loss":3.0}\n{"event":"validation","step":3,"loss":2.0}\n{"step":4,"l'
        )
    assert world.service.final_metrics(run) == {"train_loss": 1.5, "val_loss": 2.0, "perplexity": math.exp(2.0)}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('oss":1}\n{"event":"validation","step":3,"loss":1e9}\n')
    assert world.service.final_metrics(run) == {"train_loss": 1, "val_loss": 1e9}  # exp is beyond any float


def test_a_record_tells_when_it_last_changed(world: World) -> None:
    run = world.service.start(RECIPE)
    assert run.updated_at == run.created_at
    canceled = world.service.cancel(run.id)
    assert canceled.updated_at is not None and canceled.updated_at > run.created_at
