"""Runs are checked, recorded, moved forward and ended truthfully, whatever executors, callers and crashes do."""

import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.executor import Report
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.run import Once, Progress, Recipe, Run, State
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
RECIPE = Recipe("tiny", "data/town.jsonl", max_length=128)
STEP, DONE = Report(State.RUNNING, Progress(1, 2, 0.5, 1.0)), Report(State.COMPLETED, Progress(2, 2, 1.0, 0.5))


class Bases:
    """One base model of 512 positions."""

    def base(self, name: str) -> BaseModel:
        if name.removeprefix("models/") != "tiny":
            raise NotFound("模型不存在", f"no base model {name}")
        return BaseModel("tiny", Path("unused"), "Qwen2ForCausalLM", 1, 512)


class NotingStore(RunStore):
    """Keeps every state of every record, and tells of it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.changes: list[Run] = []
        self.on_change: Callable[[Run], object] = lambda run: None

    def add(self, run: Run, once: Once | None = None, beside: Sequence[sa.Insert] = ()) -> None:
        super().add(run, once, beside)
        self.note(run)

    def save(self, new: Run, *, was: Run, holder: str | None = None) -> Run:
        saved = super().save(new, was=was, holder=holder)
        self.note(saved)
        return saved

    def note(self, run: Run) -> None:
        self.changes.append(run)
        self.on_change(run)


@dataclass
class World:
    """A service on a home folder with one scripted executor."""

    home: Home
    store: NotingStore
    executor: ScriptedExecutor
    concurrent: int = 1
    may_read: Callable[[str, Caller], None] = lambda name, caller: None
    is_alias: Callable[[str], bool] = lambda name: False

    @property
    def service(self) -> TrainingService:
        """A new one each time: what it knows must be in the store."""
        return TrainingService(
            self.store,
            {"local": self.executor},
            Bases(),
            self.home,
            Settings(home=self.home.root, concurrent_runs=self.concurrent),
            may_read=self.may_read,
            is_alias=self.is_alias,
        )

    def reconcile(self, passes: int = 1) -> None:
        async def go() -> None:
            service = self.service
            try:
                for _ in range(passes):
                    await service.reconcile()
            finally:
                service.release()  # as a server that ends

        asyncio.run(go())

    def states(self) -> list[str]:
        return [str(run.state) for run in self.store.list(oldest_first=True)]


def make_world(folder: Path) -> World:
    home = Home(folder / "home")
    (home.root / "data").mkdir(exist_ok=True)
    (home.root / "data" / "town.jsonl").write_text(json.dumps(ROW) + "\n")
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    database.migrate()
    return World(home, NotingStore(database), ScriptedExecutor(script=(STEP, DONE)))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store._database.close()


# -- what start refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes,problem",
    [
        ({"base_model": "other"}, NotFound),
        ({"dataset": "data/none.jsonl"}, NotFound),
        ({"dataset": "../../etc/passwd"}, Invalid),
        ({"dataset": "/etc/passwd"}, Invalid),
        ({"dataset": "data"}, Invalid),
        ({"dataset": "data/pipe.jsonl"}, Invalid),
        ({"dataset": "data/link.jsonl"}, Forbidden),
        ({"dataset": "data/empty.jsonl"}, Invalid),
        ({"dataset": "data/bad.jsonl"}, Invalid),
        ({"dataset_format": "docx"}, Invalid),
        ({"validation": "data/none.jsonl"}, NotFound),
        ({"replay": "data/none.jsonl", "replay_share": 0.1}, NotFound),
        ({"learning_rate": math.nan}, Invalid),
        ({"epochs": 10**9}, Invalid),
        ({"max_length": 513}, Invalid),
    ],
)
def test_what_cannot_be_trained_is_refused_and_not_recorded(
    world: World, changes: dict[str, Any], problem: type
) -> None:
    import os

    data = world.home.root / "data"
    os.mkfifo(data / "pipe.jsonl")
    (data / "link.jsonl").symlink_to(data / "town.jsonl")
    (data / "empty.jsonl").write_text("")
    (data / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "q"}]}\n' + json.dumps(ROW))
    with pytest.raises(problem) as refused:
        world.service.start(replace(RECIPE, **changes))
    assert isinstance(refused.value, Problem) and refused.value.zh and refused.value.en
    assert world.store.list() == []


def test_a_first_bad_row_is_named_at_once_and_accepted_when_bad_rows_may_be_skipped(world: World) -> None:
    (world.home.root / "data" / "bad.jsonl").write_text('{"messages": []}\n' + json.dumps(ROW))
    with pytest.raises(Invalid, match=r"data/bad\.jsonl:1"):
        world.service.start(replace(RECIPE, dataset="data/bad.jsonl"))
    world.service.start(replace(RECIPE, dataset="data/bad.jsonl", skip_bad=True))


@pytest.mark.parametrize(
    "output",
    ["", ".", "/tmp/x", "../x", "adapters/../../x", "a\\b", "runs/x", "Data/x", "secrets/x", "usage/x", ".hidden/x",
     "adapters/.partial-1-x", "a/b/c/d/e/f/g", "adapters/nul", "data/town.jsonl/x"],
)  # fmt: skip
def test_an_output_that_is_no_place_for_an_adapter_is_refused(world: World, output: str) -> None:
    with pytest.raises((Invalid, Conflict)) as refused:
        world.service.start(RECIPE, output=output)
    assert refused.value.details["field"] == "output"


def test_an_output_that_is_taken_is_refused(world: World) -> None:
    taken = world.home.adapters / "town"
    taken.mkdir()
    world.service.start(RECIPE, output="adapters/town")  # empty: the adapter may come here
    (taken / "adapter_config.json").write_text("{}")
    (world.home.adapters / "note.txt").write_text("")
    for output in ("adapters/town", "adapters/town/inner", "adapters/note.txt"):
        with pytest.raises(Conflict, match="choose another output"):
            world.service.start(RECIPE, output=output)


@pytest.mark.parametrize("second", ["adapters/one", "adapters//one", "adapters/./one", "adapters/one/two", "adapters"])
def test_two_live_runs_never_write_to_one_place(world: World, second: str) -> None:
    first = world.service.start(RECIPE, output="adapters/one")
    with pytest.raises(Conflict, match=first.id):
        world.service.start(RECIPE, output=second)
    world.service.cancel(first.id)
    world.service.start(RECIPE, output="adapters/one")


def test_an_adapter_is_not_published_under_the_name_of_an_alias(world: World) -> None:
    world.is_alias = lambda name: name == "prod"
    for output in ("prod", "adapters/prod", "adapters/prod/final"):
        with pytest.raises(Conflict, match="prod is an alias; choose another output") as refused:
            world.service.start(RECIPE, output=output)
        assert refused.value.details["field"] == "output" and "别名" in refused.value.zh
    world.service.start(RECIPE, output="adapters/product")
    world.service.start(RECIPE, output="adapters/mine/prod")  # nobody asks for it by that name alone


def test_a_silence_is_told_when_it_is_long_and_a_trainer_should_be_there(world: World) -> None:
    run = world.service.start(RECIPE, output="adapters/town")
    folder = world.home.runs / run.id
    folder.mkdir()
    running = replace(run, state=State.RUNNING)
    assert world.service.silent_s(running) is None  # no trainer was started yet
    run_folder.write_trainer(folder, os.getpid())
    (folder / run_folder.HEARTBEAT).touch()
    assert world.service.silent_s(running) is None
    for name, ago_s in ((run_folder.TRAINER, 500), (run_folder.HEARTBEAT, 95)):
        os.utime(folder / name, (time.time() - ago_s,) * 2)
    assert world.service.silent_s(running) == pytest.approx(95, abs=20)
    assert world.service.silent_s(run) is None  # queued
    run_folder.write_trainer(folder, os.getpid())  # another went on
    assert world.service.silent_s(running) is None


def test_an_output_may_ask_for_the_name_of_the_data_and_never_collides(world: World) -> None:
    runs = [world.service.start(RECIPE, output="models/{dataset}/final") for _ in range(2)]
    assert [run.output for run in runs] == [f"models/town-{run.id[:8]}/final" for run in runs]
    odd = world.service.start(RECIPE, output="adapters/{dataset.__class__}{0}")  # a name like any other
    assert odd.output == "adapters/{dataset.__class__}{0}"


def test_an_unknown_executor_is_refused(world: World) -> None:
    with pytest.raises(NotFound, match="moon"):
        world.service.start(RECIPE, executor="moon")


@pytest.mark.parametrize(
    "dataset,stem", [("data/town.jsonl", "town"), ("data/小镇 数据.jsonl", "小镇-数据"), ("data/....jsonl", "adapter")]
)
def test_an_adapter_is_named_after_its_dataset_and_run(world: World, dataset: str, stem: str) -> None:
    (world.home.root / dataset).write_text(json.dumps(ROW) + "\n")
    run = world.service.start(replace(RECIPE, dataset=dataset))
    assert run.output == f"adapters/{stem}-{run.id[:8]}"


def test_a_recorded_run_has_the_base_models_own_name(world: World) -> None:
    run = world.service.start(replace(RECIPE, base_model="models/tiny"))
    assert world.service.get(run.id).recipe.base_model == "tiny"


# -- the reconciler --------------------------------------------------------------------------------------------------


def test_a_run_goes_from_queued_through_running_to_completed(world: World) -> None:
    run = world.service.start(RECIPE)
    assert run.state is State.QUEUED and run.started_at is None
    world.reconcile()
    running = world.service.get(run.id)
    assert running.state is State.RUNNING and running.started_at and running.handle == f"scripted-{run.id}"
    world.reconcile(2)
    done = world.service.get(run.id)
    assert done.state is State.COMPLETED and done.ended_at and done.progress == DONE.progress and done.error is None
    assert [str(r.state) for r in world.store.changes] == ["queued", "running", "running", "completed"]


def test_runs_start_in_the_order_they_came_and_no_more_at_once_than_allowed(world: World) -> None:
    world.executor.script = (STEP, STEP, DONE)
    ids = [world.service.start(RECIPE).id for _ in range(3)]
    seen = []
    for _ in range(14):
        world.reconcile()
        seen.append(world.states())
    assert all(states.count("running") <= 1 for states in seen)
    assert seen[-1] == ["completed"] * 3 and world.executor.submitted == ids


def test_as_many_runs_as_are_allowed_train_at_once(world: World) -> None:
    world.concurrent = 2
    for _ in range(3):
        world.service.start(RECIPE)
    world.reconcile()
    assert world.states() == ["running", "running", "queued"]


def test_a_run_the_executor_refuses_fails_with_its_reason_and_the_next_starts(world: World) -> None:
    run, after = world.service.start(RECIPE), world.service.start(RECIPE)
    world.executor.refusal = Invalid("不行", "this cannot be done")
    world.reconcile()
    assert (failed := world.service.get(run.id)).state is State.FAILED and failed.ended_at
    assert failed.reason("zh") == "不行" and failed.reason("en") == "this cannot be done"
    assert world.service.get(after.id).state is State.FAILED


def test_an_executor_that_does_not_answer_leaves_runs_queued_or_running(world: World) -> None:
    run = world.service.start(RECIPE)
    world.executor.refusal = Unavailable("忙", "busy")
    world.reconcile(2)
    assert world.service.get(run.id).state is State.QUEUED
    world.executor.refusal = None
    world.executor.script = (Unavailable("忙", "busy"), DONE)
    world.reconcile(2)
    assert world.service.get(run.id).state is State.RUNNING
    world.reconcile()
    assert world.service.get(run.id).state is State.COMPLETED


def test_a_crash_between_start_and_record_submits_again_without_harm(world: World) -> None:
    run = world.service.start(RECIPE)
    asyncio.run(world.executor.submit(run))  # and the server died here
    world.reconcile(3)
    assert world.executor.submitted == [run.id] and world.states() == ["completed"]


def test_a_run_canceled_between_its_start_and_our_record_of_it_is_stopped(world: World) -> None:
    class Slow(ScriptedExecutor):
        async def submit(self, wanted: Run) -> str:
            handle = await ScriptedExecutor.submit(self, wanted)
            world.service.cancel(wanted.id)
            return handle

    world.executor = Slow()
    run = world.service.start(RECIPE)
    world.reconcile()
    assert world.executor.canceled == [run.id] and world.states() == ["canceled"]


def test_a_run_started_before_a_crash_and_canceled_after_it_is_stopped_by_the_next_server(world: World) -> None:
    run = world.service.start(RECIPE)
    asyncio.run(world.executor.submit(run))
    world.service.cancel(run.id)
    world.reconcile()
    assert world.executor.canceled == [run.id] and world.states() == ["canceled"]


def test_two_reconcilers_do_not_harm_each_other(world: World) -> None:
    async def both() -> None:
        one, other = world.service, world.service
        for _ in range(4):
            await asyncio.gather(one.reconcile(), other.reconcile())
        one.release()
        other.release()

    run = world.service.start(RECIPE)
    asyncio.run(both())
    assert world.executor.canceled == [] and world.executor.submitted == [run.id] and world.states() == ["completed"]


def test_a_run_another_reconciler_recorded_first_is_not_stopped(world: World) -> None:
    class Raced(ScriptedExecutor):
        async def submit(self, wanted: Run) -> str:
            handle = await ScriptedExecutor.submit(self, wanted)
            world.store.save(wanted.to(State.RUNNING, handle=handle), was=wanted)
            return handle

    world.executor = Raced()
    world.service.start(RECIPE)
    world.reconcile()
    assert world.executor.canceled == [] and world.states() == ["running"]


def test_a_fault_in_one_run_does_not_hold_up_the_others_nor_end_the_timer(world: World) -> None:
    class Faulty(ScriptedExecutor):
        async def poll(self, run: Run) -> Report:
            if run.id == self.submitted[0]:
                raise RuntimeError("a fault of ours")
            return await ScriptedExecutor.poll(self, run)

    world.concurrent, world.executor = 2, Faulty()
    broken, fine = world.service.start(RECIPE), world.service.start(RECIPE)
    world.reconcile()
    with pytest.raises(RuntimeError, match="a fault of ours"):  # told to whoever runs a single pass
        world.reconcile()
    completed = asyncio.Event()
    world.store.on_change = lambda run: (
        loop.call_soon_threadsafe(completed.set) if run.state is State.COMPLETED else None
    )
    loop = asyncio.new_event_loop()

    async def timer() -> None:
        task = asyncio.create_task(world.service.run_forever(0.01))
        await completed.wait()
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(asyncio.wait_for(timer(), 20))
    loop.close()
    assert world.store.get(fine.id).state is State.COMPLETED
    assert world.store.get(broken.id).state is State.RUNNING


async def test_a_run_is_started_at_once_however_seldom_the_reconciler_looks_by_itself(world: World) -> None:
    service = world.service
    started, loop = asyncio.Event(), asyncio.get_running_loop()
    world.store.on_change = lambda run: loop.call_soon_threadsafe(started.set) if run.state is State.RUNNING else None
    looking = asyncio.create_task(service.run_forever(3600))
    await asyncio.sleep(0.1)  # it has looked, and found nothing
    await asyncio.to_thread(service.start, RECIPE)
    await asyncio.wait_for(started.wait(), 20)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    service.start(replace(RECIPE, seed=7), output="adapters/later")  # nobody looks any more: no harm


def test_a_run_of_an_executor_that_is_not_configured_any_more_is_left_as_it_is(world: World) -> None:
    run = world.service.start(RECIPE)
    world.store.save(replace(run, executor="moon"), was=run)
    world.reconcile(2)
    assert world.states() == ["queued"]


# -- cancel ----------------------------------------------------------------------------------------------------------


def test_a_queued_run_is_canceled_at_once_and_twice_is_fine(world: World) -> None:
    run = world.service.start(RECIPE)
    assert world.service.cancel(run.id).state is State.CANCELED
    again = world.service.cancel(run.id)
    assert again.state is State.CANCELED and again.ended_at
    world.reconcile(2)
    assert world.executor.submitted == []


def test_a_running_run_is_canceled_when_its_trainer_has_stopped(world: World) -> None:
    world.executor.script = (STEP,)
    run = world.service.start(RECIPE)
    world.reconcile(2)
    asked = world.service.cancel(run.id)
    assert asked.state is State.RUNNING and asked.cancel_requested
    assert world.service.cancel(run.id) == asked
    world.reconcile()
    assert world.executor.canceled == [run.id]
    ended = world.service.get(run.id)
    assert ended.state is State.CANCELED and ended.progress == STEP.progress and ended.error is None


def test_what_ended_by_itself_before_it_could_be_canceled_is_told_as_it_was(world: World) -> None:
    run = world.service.start(RECIPE)
    world.executor.script = (DONE,)
    world.reconcile()
    world.service.cancel(run.id)
    world.reconcile()
    assert world.states() == ["completed"]


@pytest.mark.parametrize("end", [DONE, Report(State.FAILED, error="why", error_zh="因")])
def test_a_run_that_ended_cannot_be_canceled(world: World, end: Report) -> None:
    world.executor.script = (end,)
    run = world.service.start(RECIPE)
    world.reconcile(2)
    with pytest.raises(Conflict) as refused:
        world.service.cancel(run.id)
    assert refused.value.details["state"] == str(end.state)
    with pytest.raises(NotFound):
        world.service.cancel("nobody")


reports = st.lists(
    st.sampled_from(
        [STEP, DONE, Report(State.QUEUED), Report(State.FAILED), Report(State.CANCELED), Unavailable("忙", "x")]
    ),
    min_size=1,
    max_size=6,
)
moves = st.lists(st.sampled_from(["pass", "cancel", "restart"]), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=reports, order=moves)
def test_no_order_of_reports_cancels_and_restarts_changes_a_final_record(
    tmp_path_factory: pytest.TempPathFactory, script: list[Report | Problem], order: list[str]
) -> None:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.executor.script = script
    run = world.service.start(RECIPE)
    final: Run | None = None

    async def go() -> None:
        nonlocal final
        service = world.service
        for move in order:
            if move == "pass":
                await service.reconcile()
            elif move == "restart":
                service.release()
                service = world.service
            else:
                try:
                    service.cancel(run.id)
                except Conflict:
                    assert final is not None
            now = service.get(run.id)
            assert final is None or now == final
            final = now if now.state.final else None
            assert (now.error is not None) == (now.state is State.FAILED)
            assert (now.ended_at is not None) == now.state.final

    asyncio.run(go())
    world.store._database.close()


# -- curves ----------------------------------------------------------------------------------------------------------


def test_metrics_are_the_points_after_a_step_without_stages_and_torn_lines(world: World) -> None:
    run = world.service.start(RECIPE)
    assert list(world.service.metrics(run.id)) == []
    folder = world.home.runs / run.id
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        '{"event":"stage","stage":"loading","time":1.0}\n{"step":1,"loss":2.0}\n{"step":2,"loss":1.0}\n'
        '{"event":"validation","step":2,"loss":1.5}\n{"step":3,"loss":0.5}\nnot json\n{"step":4,"lo'
    )
    assert [(p["step"], p.get("loss"), p.get("validation_loss")) for p in world.service.metrics(run.id)] == [
        (1, 2.0, None), (2, 1.0, None), (2, None, 1.5), (3, 0.5, None),
    ]  # fmt: skip
    assert [p["step"] for p in world.service.metrics(run.id, 1)] == [2, 2, 3]
    assert list(world.service.metrics(run.id, 3)) == []
    with pytest.raises(NotFound):
        world.service.metrics("../../etc")
