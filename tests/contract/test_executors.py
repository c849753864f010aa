"""What every executor keeps to, and what the local one does when its real trainer process meets the worst."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.tiny_model import make_tiny_base
from tunesmith.kernel.db import Database
from tunesmith.kernel.files import write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import NotFound
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.executor import Executor, Report
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.hosted.executor import HostedExecutor, Timing
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.run import Progress, Recipe, Run, State
from tunesmith.training.store import RunStore

# a trainer takes seconds to import its libraries; nothing here waits longer than it must
PATIENCE_S = 100
SHORT, LONG, ENDLESS = 2, 250, 1000
NEVER = 9  # the number of a run that is never submitted
ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("Who is the mayor?", "Ada."), ("市长是谁？", "小林。"), ("one two", "three"), ("一加一？", "二。"))
]


def run(number: int = 1, epochs: int = SHORT, **recipe: object) -> Run:
    asked = Recipe(
        "tiny", "data/town.jsonl", epochs=epochs, batch_size=2, max_length=64, rank=2, alpha=4.0, learning_rate=1e-3
    )
    return Run(
        id=f"{number:02x}{'0' * 30}",
        recipe=replace(asked, **recipe),  # type: ignore[arg-type]
        output=f"adapters/town-{number}",
        executor="it",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def until(executor: Executor, wanted: Run, true: Callable[[Report], bool]) -> Report:
    """Poll until ``true``; a final state that is not it fails the test with what was said."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            report = await executor.poll(wanted)
            if true(report):
                return report
            assert not report.state.final, report
            await asyncio.sleep(0.05)


def final(report: Report) -> bool:
    return report.state.final


def stepping(report: Report) -> bool:
    return report.state is State.RUNNING and report.progress.step > 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def home(tmp_path: Path, base: Path) -> Home:
    made = Home(tmp_path / "home")
    (made.root / "models").mkdir()
    # a copy: names under home are never followed through links
    shutil.copytree(base, made.root / "models" / "tiny")
    (made.root / "data").mkdir()
    (made.root / "data" / "town.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return made


def local(home: Home, grace_s: float = 10.0, checkpoint_s: float = 30.0) -> LocalExecutor:
    settings = Settings(home=home.root, threads=1, checkpoint_s=checkpoint_s)
    return LocalExecutor(home, Registry(home), settings, grace_s=grace_s)


def trainers(home: Home) -> list[psutil.Process]:
    """Living trainers of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = str(home.runs) in " ".join(process.cmdline())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture(autouse=True)
async def nothing_left_running(home: Home) -> AsyncIterator[None]:
    yield
    for trainer in trainers(home):
        trainer.kill()


# -- the contract ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """An executor on which ``run(1, SHORT)`` completes and ``run(2, ENDLESS)`` does not by itself.

    Attributes:
        again: another one over the same records, as after a restart.
        started: how often something was really started, once that run was submitted.
        rank: what the parameter for the adapter's rank is called.
    """

    executor: Executor
    again: Callable[[], Executor]
    started: Callable[[Run], Awaitable[int]]
    rank: str = "rank"


def hosted(home: Home, provider: ScriptedProvider, database: Database) -> HostedExecutor:
    timing = Timing(poll_s=0.0, stopping_s=0.0, settle_s=0.0, patience_s=PATIENCE_S)
    return HostedExecutor(provider, HostedStore(database), home, timing=timing)


def hosted_candidate(home: Home, database: Database) -> Candidate:
    """Over the fake provider, whose books outlive who asks."""
    database.migrate()
    store = RunStore(database)
    for number in (1, 2, NEVER):
        store.add(run(number))
    provider = ScriptedProvider(home.root / "books", script=("pending", "running", "running", "running", "completed"))
    executor = hosted(home, provider, database)

    async def asked(wanted: Run) -> int:
        await executor.poll(wanted)  # what takes time begins when it is first asked after
        return len(provider.jobs())

    return Candidate(executor, lambda: hosted(home, provider, database), asked, "lora_rank")


@pytest.fixture(params=["scripted", "local", "hosted"])
def candidate(request: pytest.FixtureRequest, home: Home) -> Iterator[Candidate]:
    if request.param == "hosted":
        database = Database(f"sqlite:///{home.root}/tunesmith.db")
        yield hosted_candidate(home, database)
        database.close()
        return
    if request.param == "local":

        async def count(wanted: Run) -> int:
            return len(trainers(home))

        yield Candidate(local(home), lambda: local(home), count)
        return
    step = Report(State.RUNNING, Progress(1, 4, 0.5, 2.0))
    fake = ScriptedExecutor(script=(step, step, Report(State.COMPLETED, Progress(4, 4, 2.0, 1.0))))

    async def submitted(wanted: Run) -> int:
        return len(fake.submitted)

    yield Candidate(fake, lambda: fake, submitted)


def make_endless(executor: Executor) -> None:
    if isinstance(executor, ScriptedExecutor):
        executor.script = executor.script[:1]
    if isinstance(executor, HostedExecutor):
        provider: Any = executor._provider
        provider.script = provider.script[:2]


async def test_parameters_cover_what_a_recipe_says_and_base_models_are_names(candidate: Candidate) -> None:
    names = [parameter.name for parameter in candidate.executor.parameters()]
    assert {"epochs", "learning_rate", candidate.rank, "batch_size"} <= set(names) and len(names) == len(set(names))
    models = await candidate.executor.base_models()
    assert models and all(isinstance(name, str) for name in models)


async def test_a_run_submitted_twice_is_started_once_and_completes_with_its_progress(candidate: Candidate) -> None:
    executor, wanted = candidate.executor, run()
    one, two = await asyncio.gather(executor.submit(wanted), executor.submit(wanted))
    assert one == two == await executor.submit(wanted) and one
    assert await candidate.started(wanted) == 1
    wanted = replace(wanted, handle=one, state=State.RUNNING)
    done = await until(executor, wanted, final)
    assert done.state is State.COMPLETED and done.error is None
    assert done.progress.step == done.progress.total_steps == 4 and done.progress.loss
    # after the end nothing is started, stopped or told differently
    assert await executor.submit(wanted) == one
    await executor.cancel(wanted)
    assert await executor.poll(wanted) == done


async def test_a_canceled_run_ends_as_canceled_however_often_it_is_asked(candidate: Candidate) -> None:
    executor, wanted = candidate.executor, run(2, ENDLESS)
    make_endless(executor)
    await executor.cancel(run(NEVER, ENDLESS))  # never submitted: nothing to stop
    wanted = replace(wanted, handle=await executor.submit(wanted), state=State.RUNNING)
    await until(executor, wanted, stepping)
    # another one that lost the handle finds the run, and starts nothing
    another = candidate.again()
    assert await another.submit(replace(wanted, handle=None)) == wanted.handle
    await until(another, wanted, stepping)
    assert await candidate.started(wanted) == 1
    await executor.cancel(wanted)
    await executor.cancel(wanted)
    ended = await until(executor, wanted, final)
    assert ended.state is State.CANCELED and ended.error is None
    assert (await executor.poll(wanted)).state is State.CANCELED


# -- the local executor and its trainer process ----------------------------------------------------------------------


async def started(
    home: Home, wanted: Run, grace_s: float = 10.0, checkpoint_s: float = 30.0
) -> tuple[LocalExecutor, Run, psutil.Process]:
    """A run that has done a step, and the process that does it."""
    executor = local(home, grace_s, checkpoint_s)
    wanted = replace(wanted, handle=await executor.submit(wanted), state=State.RUNNING)
    await until(executor, wanted, stepping)
    [trainer] = trainers(home)
    return executor, wanted, trainer


async def test_a_run_outlives_its_executor_and_another_finds_it_completed(home: Home) -> None:
    too_long = {"messages": [{"role": "user", "content": "many words " * 40}, ROWS[0]["messages"][1]]}
    (home.root / "data" / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, too_long, {}]))
    wanted = run(
        3, dataset="data/mixed.jsonl", skip_bad=True, validation="data/town.jsonl", replay="data/town.jsonl",
        replay_share=0.5,
    )  # fmt: skip
    handle = await local(home).submit(wanted)
    done = await until(local(home), replace(wanted, handle=handle), final)
    assert done.state is State.COMPLETED
    [adapter] = Registry(home).adapters()
    assert adapter.name == wanted.output and adapter.base == "tiny" and adapter.rank == 2
    folder = home.runs / wanted.id
    rows = list(run_folder.metrics(folder))
    assert [row["stage"] for row in rows if "stage" in row] == ["checking", "loading", "training", "saving"]
    assert [row["step"] for row in rows if row.get("event") == "validation"] == [4, 8]
    steps = [row for row in rows if "event" not in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert {
        "total_steps",
        "epoch",
        "loss",
        "learning_rate",
        "tokens_per_second",
        "seconds_left",
        "grad_norm",
        "time",
    } <= set(steps[0])
    skipped = [json.loads(line)["source"]["line"] for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert sorted(skipped) == [5, 6]
    ended = json.loads((folder / "done.json").read_text())
    assert ended["adapter"] == wanted.output and ended["validation_loss"] > 0
    assert {"loss.png", "log.txt", "recipe.json", "trainer.json", "heartbeat"} <= {p.name for p in folder.iterdir()}
    assert [p.name for p in home.adapters.iterdir()] == ["town-3"]  # nothing half-written beside it


def hashed(home: Home, wanted: Run) -> str:
    """What the run's adapter weighs, to the bit."""
    return hashlib.sha256((home.root / wanted.output / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.crash
async def test_a_killed_trainer_is_followed_by_another_that_ends_with_the_same_bytes(home: Home) -> None:
    executor, whole, killed = local(home), run(20, LONG), run(21, LONG)
    whole = replace(whole, handle=await executor.submit(whole))
    await until(executor, whole, final)
    executor, killed, trainer = await started(home, killed, checkpoint_s=0.0)
    half = home.adapters / ".partial-abc-town-21"
    half.mkdir()  # as if it had been killed while saving
    for _ in range(2):
        trainer.kill()
        trainer.wait()
        reached = run_folder.read_progress(home.runs / killed.id).step
        await until(executor, killed, lambda report, at=reached: report.progress.step > at + 5)  # type: ignore[misc]
        [trainer] = trainers(home)
    ended = await until(executor, killed, final)
    assert ended.state is State.COMPLETED and ended.progress.step == ended.progress.total_steps
    assert hashed(home, killed) == hashed(home, whole) and not half.exists()
    assert run_folder.checkpoints(home.runs / killed.id) == []  # nobody goes on with what is done
    steps = [row["step"] for row in run_folder.metrics(home.runs / killed.id) if "event" not in row]
    assert steps == list(range(1, ended.progress.total_steps + 1))
    stages = [row for row in run_folder.metrics(home.runs / killed.id) if row.get("event") == "stage"]
    assert [row.get("from_step") for row in stages if row["stage"] == "training"][1:]  # it says where it went on


async def test_a_trainer_killed_again_and_again_at_one_step_is_a_failure_with_a_true_reason(home: Home) -> None:
    executor, wanted, trainer = await started(home, run(4, ENDLESS), checkpoint_s=1000.0)
    write_json(home.runs / wanted.id / run_folder.STARTS, run_folder.Starts(step=0, count=3))
    trainer.kill()
    failed = await until(executor, wanted, final)
    assert failed.state is State.FAILED and failed.progress.step > 0
    assert "signal 9" in (failed.error or "") and "信号 9" in (failed.error_zh or "")
    assert Registry(home).adapters() == []
    assert (await executor.poll(wanted)).state is State.FAILED
    assert await executor.submit(wanted) == wanted.handle and trainers(home) == []


async def test_a_canceled_run_leaves_a_checkpoint_of_its_last_step_though_no_signal_reaches_it(home: Home) -> None:
    executor, wanted, _ = await started(home, run(22, ENDLESS), checkpoint_s=1000.0)
    # asked by a server on another machine, or in another container
    write_json(home.runs / wanted.id / run_folder.CANCEL, run_folder.Asked(time.time()))
    ended = await until(executor, wanted, final)
    assert ended.state is State.CANCELED
    assert run_folder.checkpointed_step(home.runs / wanted.id) == ended.progress.step > 0


async def test_a_trainer_that_does_not_stop_is_killed_and_only_then_canceled(home: Home) -> None:
    executor, wanted, trainer = await started(home, run(5, ENDLESS), grace_s=0.5, checkpoint_s=0.0)
    folder = home.runs / wanted.id
    await until(executor, wanted, lambda report: run_folder.checkpointed_step(folder) > 0)
    os.kill(trainer.pid, signal.SIGSTOP)
    await executor.cancel(wanted)
    assert (await executor.poll(wanted)).state is State.RUNNING
    ended = await until(executor, wanted, final)
    assert ended.state is State.CANCELED and trainers(home) == []
    assert run_folder.checkpoints(folder)  # the last one it made by itself can be gone on with


async def test_bad_data_and_a_full_disk_end_in_their_own_reasons(home: Home) -> None:
    # two runs at once: most of their time is spent importing
    rows = [*ROWS[:2], {"messages": [{"role": "user", "content": "many words " * 40}, ROWS[0]["messages"][1]]}]
    (home.root / "data" / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad, full = run(6, dataset="data/long.jsonl"), run(7)
    (home.runs / full.id).mkdir()
    (home.runs / full.id / "metrics.jsonl").symlink_to("/dev/full")
    executor = local(home)
    bad, full = [replace(r, handle=await executor.submit(r)) for r in (bad, full)]
    failed, filled = [await until(executor, r, final) for r in (bad, full)]
    assert failed.state is State.FAILED and "data/long.jsonl:3" in (failed.error or "")
    assert "max_length" in (failed.error or "") and "max_length" in (failed.error_zh or "")
    assert (
        filled.state is State.FAILED
        and "disk is full" in (filled.error or "")
        and "磁盘已满" in (filled.error_zh or "")
    )
    assert Registry(home).adapters() == []


async def test_a_trainer_killed_after_it_published_has_completed(home: Home) -> None:
    wanted = run(8)
    folder = home.runs / wanted.id
    folder.mkdir()
    gone = run_folder.TrainerProcess(pid=os.getpid(), started=1.0)  # our number, but not our start: somebody else
    (folder / "trainer.json").write_text(json.dumps({"pid": gone.pid, "started": gone.started}))
    (folder / "metrics.jsonl").write_text('{"step":4,"total_steps":4,"epoch":2.0,"loss":1.0}\n{"step":5,"tot')
    # a server that is not its parent cannot know how it ended, and does not make anything up
    failed = await local(home).poll(wanted)
    assert failed.state is State.FAILED and "without a word" in (failed.error or "")
    (home.root / wanted.output).mkdir(parents=True)
    (home.root / wanted.output / "tunesmith.json").write_text(json.dumps({"run_id": "somebody else"}))
    assert (await local(home).poll(wanted)).state is State.FAILED
    (home.root / wanted.output / "tunesmith.json").write_text(json.dumps({"run_id": wanted.id}))
    report = await local(home).poll(wanted)
    assert report.state is State.COMPLETED and report.progress == Progress(4, 4, 2.0, 1.0)


async def test_a_run_whose_base_model_is_gone_is_not_started(home: Home) -> None:
    with pytest.raises(NotFound, match="elsewhere"):
        await local(home).submit(run(9, base_model="elsewhere"))
    assert trainers(home) == []
