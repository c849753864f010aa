"""A trainer that waits: one at a time, given one run, and gone with whoever keeps it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tunesmith.kernel.home import Home
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.executors.standby import Standby
from tunesmith.training.run import Recipe, Run, State

WAITER = "tests.unit.training.executors.waiter"
PLENTY = 1 << 50


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    return Settings(home=tmp_path / "home", threads=1)


@pytest.fixture
def standby(settings: Settings) -> Iterator[Standby]:
    made = Standby(settings, lambda: PLENTY, WAITER)
    yield made
    made.end()


def until(true: Callable[[], object], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def locked(folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    lock = run_folder.lock(folder)
    assert lock is not None
    return lock


def test_one_waits_and_one_run_gets_it_with_its_lock_and_its_log(standby: Standby, tmp_path: Path) -> None:
    standby.keep()
    waiting = standby.process
    standby.keep()
    assert waiting is not None and standby.process is waiting
    folder = tmp_path / "run"
    lock = locked(folder)
    with (folder / "log.txt").open("ab") as log:
        taken = standby.take(folder, lock, log.fileno())
        assert standby.take(folder, lock, log.fileno()) is None and standby.process is None
    assert taken is waiting
    os.close(lock)
    assert run_folder.lock(folder) is None  # the run is theirs from the moment it was given
    until(lambda: (folder / "given").exists() and (folder / "given").read_text() == str(taken.pid))
    assert (folder / "log.txt").read_text() == "given\n"
    standby.end()
    assert taken.poll() is None  # a trainer that has a run outlives who kept it
    taken.kill()
    taken.wait(10)
    os.close(locked(folder))


def test_it_ends_with_whoever_keeps_it_though_that_is_killed(settings: Settings) -> None:
    keeper = f"""
from pathlib import Path
from tunesmith.settings import Settings
from tunesmith.training.executors.standby import Standby
standby = Standby(Settings(home=Path({str(settings.home)!r})), lambda: 1 << 50, {WAITER!r})
standby.keep()
print(standby.process.pid, flush=True)
import time; time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", keeper], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        waiting = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
    until(lambda: not waiting.is_running() or waiting.status() == psutil.STATUS_ZOMBIE)


def test_none_is_kept_where_memory_is_scarce_or_nobody_wants_one(settings: Settings) -> None:
    for kept in (
        Standby(settings, lambda: 1 << 30, WAITER),
        Standby(replace(settings, warm_trainer=False), lambda: PLENTY, WAITER),
        Standby(replace(settings, trainer_processes=2), lambda: PLENTY, WAITER),
    ):
        kept.keep()
        assert kept.process is None


def test_one_that_was_killed_while_it_waited_gets_no_run_and_no_other_is_started_soon(
    standby: Standby, tmp_path: Path
) -> None:
    standby.keep()
    assert standby.process is not None
    standby.process.kill()
    standby.process.wait(10)
    lock = locked(tmp_path / "run")
    assert standby.take(tmp_path / "run", lock, lock) is None
    os.close(lock)
    standby.keep()
    assert standby.process is not None
    standby.process.kill()
    standby.process.wait(10)
    for _ in range(2):
        standby.keep()
        assert standby.process is None


class Bases:
    """One base model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def base(self, name: str) -> BaseModel:
        return BaseModel("tiny", self._folder, "Qwen2ForCausalLM", 1, 512)

    def bases(self) -> list[BaseModel]:
        return [self.base("tiny")]


async def test_a_run_is_trained_by_the_trainer_that_waited(settings: Settings, tiny_base: Path) -> None:
    home = Home(settings.home)
    (home.root / "data").mkdir()
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (home.root / "data" / "town.jsonl").write_text((json.dumps(row) + "\n") * 2)
    standby = Standby(settings, lambda: PLENTY)
    executor = LocalExecutor(home, Bases(tiny_base), settings, standby=standby)
    recipe = Recipe("tiny", "data/town.jsonl", max_length=128, epochs=1)
    created = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run(id="b" * 32, recipe=recipe, output="adapters/town", executor="local", created_at=created)
    standby.keep()
    waiting = standby.process
    assert waiting is not None
    try:
        run = run.to(State.RUNNING, handle=await executor.submit(run))
        end = time.monotonic() + 120
        while not (report := await executor.poll(run)).state.final:
            assert time.monotonic() < end, report
            await asyncio.sleep(0.05)
    finally:
        standby.end()
    trainer = run_folder.read_trainer(home.runs / run.id)
    assert report.state is State.COMPLETED, report
    assert trainer is not None and trainer.pid == waiting.pid and waiting.returncode == 0
    assert (home.root / "adapters" / "town" / "adapter_model.safetensors").exists()
    assert "published adapters/town" in (home.runs / run.id / run_folder.LOG).read_text()
