"""What the local executor makes of trainers that are not what they should be: real processes that train nothing."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tunesmith.kernel.files import write_json
from tunesmith.kernel.home import Home
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training import memory_kills, run_folder
from tunesmith.training.executor import Report
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.executors.watch import Watch
from tunesmith.training.memory_kills import MemoryKills
from tunesmith.training.run import Progress, Recipe, Run, State

RUN = Run(
    id="a" * 32,
    recipe=Recipe("tiny", "data/town.jsonl"),
    output="adapters/town",
    executor="local",
    handle="a" * 32,
    state=State.RUNNING,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Bases:
    """One base model, which nobody opens."""

    def base(self, name: str) -> BaseModel:
        return BaseModel("tiny", Path("/nowhere"), "Qwen2ForCausalLM", 1, 512)

    def bases(self) -> list[BaseModel]:
        return [self.base("tiny")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    (made.runs / RUN.id).mkdir()
    return made


@pytest.fixture
def folder(home: Home) -> Path:
    return home.runs / RUN.id


@pytest.fixture
def trainer(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that lives, and is the run's trainer by the folder's word."""
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(program, start_new_session=True) as process:
        run_folder.write_trainer(folder, process.pid)
        yield process
        process.kill()


def executor(home: Home, silence_s: float = 600.0) -> LocalExecutor:
    return LocalExecutor(home, Bases(), Settings(home=home.root), silence_s=silence_s)


async def polled(asked: LocalExecutor, true: Callable[[Report], bool]) -> Report:
    end = time.monotonic() + 30
    while not true(report := await asked.poll(RUN)):
        assert time.monotonic() < end, report
        await asyncio.sleep(0.01)
    return report


def final(report: Report) -> bool:
    return report.state.final


async def test_a_trainer_without_a_sign_of_life_is_ended_and_that_is_what_is_said(
    home: Home, folder: Path, trainer: "subprocess.Popen[bytes]"
) -> None:
    (folder / run_folder.HEARTBEAT).touch()
    asked = executor(home, silence_s=0.3)
    assert (await asked.poll(RUN)).state is State.RUNNING
    (folder / run_folder.HEARTBEAT).touch()
    failed = await polled(asked, final)
    assert trainer.wait(10) == -signal.SIGKILL
    assert failed.state is State.FAILED and "no sign of life" in (failed.error or "")
    assert "没有任何动静" in (failed.error_zh or "")


async def test_a_trainer_that_shows_signs_of_life_is_left_alone_and_so_is_one_that_somebody_has_stopped(
    home: Home, folder: Path, trainer: "subprocess.Popen[bytes]"
) -> None:
    asked = executor(home, silence_s=0.3)
    for _ in range(10):
        (folder / run_folder.HEARTBEAT).touch()
        assert (await asked.poll(RUN)).state is State.RUNNING
        await asyncio.sleep(0.1)
    os.kill(trainer.pid, signal.SIGSTOP)
    for _ in range(6):
        assert (await asked.poll(RUN)).state is State.RUNNING
        await asyncio.sleep(0.1)
    assert trainer.poll() is None and run_folder.read_silent(folder) is None


async def test_a_trainer_is_itself_though_the_clock_was_set_and_not_another_start_of_the_machine(
    home: Home, folder: Path, trainer: "subprocess.Popen[bytes]"
) -> None:
    me = run_folder.read_trainer(folder)
    assert me is not None and me.boot and me.ticks and run_folder.alive(me)
    assert run_folder.alive(replace(me, started=me.started - 7200))
    assert not run_folder.alive(replace(me, ticks=me.ticks + 1))
    assert not run_folder.alive(replace(me, boot="another"))
    assert not run_folder.alive(replace(me, boot="", ticks=0, started=me.started - 7200))


async def test_a_trainer_that_cannot_be_seen_from_here_is_not_taken_for_dead(home: Home, folder: Path) -> None:
    gone = run_folder.TrainerProcess(pid=os.getpid(), started=1.0)
    write_json(folder / run_folder.TRAINER, gone)
    write_json(folder / run_folder.CANCEL, run_folder.Asked(time.time()))
    lock = run_folder.lock(folder)  # as the trainer has it, in another container
    assert lock is not None
    assert (await executor(home).poll(RUN)).state is State.RUNNING
    os.close(lock)
    # on another machine, whose locks do not reach here
    write_json(folder / run_folder.TRAINER, replace(gone, host="elsewhere", boot="another", ticks=1))
    (folder / run_folder.HEARTBEAT).touch()
    assert (await executor(home).poll(RUN)).state is State.RUNNING
    os.utime(folder / run_folder.HEARTBEAT, (1, 1))
    assert (await executor(home).poll(RUN)).state is State.CANCELED


async def test_memory_is_named_where_the_kernel_counted_and_not_elsewhere(home: Home, folder: Path) -> None:
    counted = memory_kills.now()
    gone = run_folder.TrainerProcess(pid=os.getpid(), started=1.0, memory_kills=counted)
    write_json(folder / run_folder.TRAINER, gone)
    assert "without a word" in ((await executor(home).poll(RUN)).error or "")
    if counted is None:  # a system that does not count: nothing more can be known
        return
    before = replace(counted, count=counted.count - 1)
    write_json(folder / run_folder.TRAINER, replace(gone, memory_kills=before))
    failed = await executor(home).poll(RUN)
    assert "the system ran out of memory" in (failed.error or "") and "系统内存耗尽" in (failed.error_zh or "")


async def test_a_disk_without_room_for_the_reason_is_the_reason(home: Home, folder: Path) -> None:
    (folder / run_folder.RESERVE).symlink_to("/dev/full")
    asked = executor(home)
    await asked.submit(replace(RUN, state=State.QUEUED, handle=None))
    failed = await polled(asked, final)
    assert failed.state is State.FAILED and "the disk is full" in (failed.error or "")
    assert "磁盘已满" in (failed.error_zh or "")
    assert run_folder.read_starts(folder).count == 0  # another trainer would find no more room


async def test_a_run_whose_folder_is_gone_fails_and_says_what_servers_must_share(home: Home, folder: Path) -> None:
    shutil.rmtree(folder)
    failed = await executor(home).poll(RUN)
    assert failed.state is State.FAILED and "one home folder" in (failed.error or "")


def test_no_time_left_is_promised_when_no_step_comes(folder: Path) -> None:
    now = 1000.0
    watch = Watch(clock=lambda: now)
    told = {"step": 10, "total_steps": 20, "loss": 1.0, "tokens_per_second": 5.0, "seconds_left": 100.0}
    (folder / run_folder.METRICS).write_text(json.dumps(told) + "\n")
    for after_s, sure in ((0.0, True), (99.0, True), (101.0, False)):  # ten steps' time are 100 seconds
        now = 1000.0 + after_s
        found = watch.told("a", folder)
        assert (found.step, found.loss) == (10, 1.0)
        assert (found.seconds_left, found.tokens_per_second) == ((100.0, 5.0) if sure else (None, None))
    with (folder / run_folder.METRICS).open("a") as file:
        file.write(json.dumps({**told, "step": 11}) + "\n")
    assert watch.told("a", folder).seconds_left == 100.0
    assert watch.told("b", folder) == Progress(11, 20, 0.0, 1.0, None, 5.0, 100.0)


def test_of_what_the_trainers_own_counter_said_the_last_is_remembered_from_before_it_began_to_die(
    folder: Path, tmp_path: Path
) -> None:
    now = 1000.0
    watch, counter = Watch(clock=lambda: now), tmp_path / "memory.oom_control"
    me = run_folder.TrainerProcess(1, 1.0, memory_kills=MemoryKills(str(counter), 0))
    assert watch.memory_kills("a") is None
    for now, count in ((1000.0, 1), (1011.0, 2), (1022.0, 2), (1023.0, 3)):  # noqa: B007
        counter.write_text(f"oom_kill_disable 0\noom_kill {count}\n")
        watch.silent_s("a", folder, me)
    before = watch.memory_kills("a")
    assert before == MemoryKills(str(counter), 2) and before.since() == 1


def test_a_counter_says_how_often_since(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 9\noom_kill 3\noom_group_kill 7\n")
    assert MemoryKills(str(counter), 1).since() == 2 and MemoryKills(str(counter), 3).since() == 0
    assert MemoryKills(str(counter), 5).since() == 0  # another counter by now
    counter.unlink()
    assert MemoryKills(str(counter), 1).since() == 0
