"""Runs recipes on this machine: one detached trainer process a run, found again by what it wrote."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tunesmith.kernel.files import PARTIAL, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training import limits, run_folder
from tunesmith.training.executor import Parameter, Report
from tunesmith.training.run import Progress, Run, State
from tunesmith.training.run_folder import Asked, Done, Order

_GRACE_S = 10.0  # from asking a trainer to stop to making it
_START_S = 10.0
_REAP_S = 1.0
_RESTARTS = 3  # of killed trainers, from one and the same step
_UNPASSED = frozenset({"HF_TOKEN", "OPENROUTER_API_KEY", "TOGETHER_API_KEY", "FIREWORKS_API_KEY"})
# trainers this process started, by run: only their parent can ask how they ended, and they outlive any executor object
_CHILDREN: dict[str, "subprocess.Popen[bytes]"] = {}


class Bases(Protocol):
    """Where base models are found."""

    def base(self, name: str) -> BaseModel: ...

    def bases(self) -> Sequence[BaseModel]: ...


class LocalExecutor:
    """Starts trainers on this machine. They outlive the server; another LocalExecutor on the same home finds them.

    Args:
        grace_s: seconds a trainer has to stop by itself before it is killed.
    """

    name = "local"

    def __init__(self, home: Home, registry: Bases, settings: Settings, *, grace_s: float = _GRACE_S) -> None:
        self._home, self._registry, self._settings, self._grace_s = home, registry, settings, grace_s

    def parameters(self) -> Sequence[Parameter]:
        """What a recipe may set here."""
        return limits.parameters()

    async def base_models(self) -> Sequence[str]:
        """Names of the base models on this machine."""
        return [base.name for base in await asyncio.to_thread(self._registry.bases)]

    async def submit(self, run: Run) -> str:
        """Start a trainer for the run unless it has one, or had one that ended; the handle is the run's id.

        Raises:
            Invalid: the trainer ended before it began.
            NotFound: the base model is gone.
            Unavailable: somebody else is starting this run at this moment, or a process cannot be started.
        """
        return await asyncio.to_thread(self._submit, run)

    async def poll(self, run: Run) -> Report:
        """Where the run stands, as its folder and its process say."""
        return await asyncio.to_thread(self._poll, run)

    async def cancel(self, run: Run) -> None:
        """Ask the trainer to stop at the end of its step; ``poll`` kills it if it has not after a while."""
        await asyncio.to_thread(self._cancel, run)

    def _submit(self, run: Run) -> str:
        folder = self._folder(run)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = run_folder.lock(folder)
        if lock is None:
            self._wait_until_started(folder)
            return run.id
        try:
            if run_folder.read_done(folder) is None and run_folder.read_trainer(folder) is None:
                run_folder.write_order(folder, self._order(run))
                self._start(run, folder, lock)
        finally:
            os.close(lock)  # the trainer has its own descriptor of the same lock
        return run.id

    def _order(self, run: Run) -> Order:
        base = self._registry.base(run.recipe.base_model)
        return Order(
            run_id=run.id,
            home=str(self._home.root),
            output=run.output,
            base_path=str(base.path),
            recipe=run.recipe,
            threads=self._settings.threads,
            checkpoint_s=self._settings.checkpoint_s,
        )

    def _start(self, run: Run, folder: Path, lock: int) -> None:
        arguments = ["--run-dir", str(folder), "--lock-fd", str(lock)]
        with (folder / run_folder.LOG).open("ab") as log:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tunesmith.training.trainer", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=self._environment(),
                    pass_fds=(lock,),
                    start_new_session=True,  # neither Ctrl-C nor the end of the server reaches it
                )
            except OSError as error:
                raise Unavailable(
                    f"无法启动训练进程：{error.strerror}", f"the trainer process cannot be started: {error.strerror}"
                ) from error
        _CHILDREN[run.id] = process
        run_folder.write_trainer(folder, process.pid)
        if run_folder.read_trainer(folder) is None:
            process.wait()
            said = run_folder.log_tail(folder)
            raise Invalid(f"训练进程未能启动：{said}", f"the trainer process did not start: {said}")

    def _environment(self) -> dict[str, str]:
        # a trainer reaches no provider, so it needs no key
        environment = {name: value for name, value in os.environ.items() if name not in _UNPASSED}
        if self._settings.threads:
            environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        return environment

    def _wait_until_started(self, folder: Path) -> None:
        """Whoever holds the lock has started the trainer, or is about to write that it has."""
        until = time.monotonic() + _START_S
        while run_folder.read_trainer(folder) is None:
            if time.monotonic() > until:
                raise Unavailable("该任务正由另一进程启动", "another process is starting this run")
            time.sleep(0.02)

    def _poll(self, run: Run) -> Report:
        folder = self._folder(run)
        process = run_folder.read_trainer(folder)
        # the process first: it may end, with its last words, between the two looks
        lives = run_folder.alive(process)
        if not lives:
            _reap(run)
        done = run_folder.read_done(folder)
        if done is not None and not lives:
            return _report(done)
        if lives:
            self._end_if_overdue(folder, process)
            return Report(State.RUNNING, run_folder.read_progress(folder))
        return self._without_last_words(run, folder)

    def _without_last_words(self, run: Run, folder: Path) -> Report:
        """The trainer is gone and did not say how it ended."""
        progress = run_folder.read_progress(folder)
        output = self._home.path(run.output, "output")
        self._sweep(output)
        if run_folder.published_by(output) == run.id:
            # killed after the adapter was there: that is what a run is for
            return Report(State.COMPLETED, progress)
        if run_folder.read_cancel(folder) is not None:
            return Report(State.CANCELED, progress)
        if self._goes_on(run, folder):
            return Report(State.RUNNING, progress)
        zh, en = self._cause(run)
        said = run_folder.log_tail(folder)
        return Report(
            State.FAILED,
            progress,
            f"{en}; last log lines: {said}" if said else en,
            f"{zh}；日志末尾：{said}" if said else zh,
        )

    def _goes_on(self, run: Run, folder: Path) -> bool:
        """Start another trainer where the last one was killed; not for ever where none gets any further."""
        if not (folder / run_folder.RECIPE).exists():
            return False
        lock = run_folder.lock(folder)
        if lock is None:
            return True  # another process of ours is doing just that
        try:
            if run_folder.alive(run_folder.read_trainer(folder)):
                return True
            step, before = run_folder.checkpointed_step(folder), run_folder.read_starts(folder)
            tries = before.count + 1 if step == before.step else 1
            if tries > _RESTARTS:
                return False
            # recorded first: a machine that dies of the start must not try for ever
            write_json(folder / run_folder.STARTS, run_folder.Starts(step, tries))
            try:
                self._start(run, folder, lock)
            except (Invalid, Unavailable):
                return tries < _RESTARTS
            return True
        finally:
            os.close(lock)

    def _cause(self, run: Run) -> tuple[str, str]:
        started = _CHILDREN.get(run.id)
        status = started.returncode if started else None
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            by = ("，可能是内存不足被系统终止，或被人为终止", ": the system ran out of memory, or somebody did it")
            zh, en = by if -status == signal.SIGKILL else ("", "")
            return (
                f"训练进程被信号 {-status}（{name}）终止{zh}",
                f"the trainer was killed by signal {-status} ({name}){en}",
            )
        if status is not None:
            return f"训练进程意外退出，状态码 {status}", f"the trainer ended unexpectedly with status {status}"
        return (
            "训练进程不见了（被信号 9 终止、内存不足或机器重启），未留下原因",
            "the trainer is gone without a word: killed by signal 9, out of memory, or the machine restarted",
        )

    def _cancel(self, run: Run) -> None:
        folder = self._folder(run)
        if not folder.is_dir() or run_folder.read_done(folder) is not None:
            return
        if run_folder.read_cancel(folder) is None:
            # recorded first: a trainer that dies of the signal before it can answer was canceled, not broken
            write_json(folder / run_folder.CANCEL, Asked(time.time()))
            self._signal(run_folder.read_trainer(folder), signal.SIGTERM)

    def _end_if_overdue(self, folder: Path, process: run_folder.TrainerProcess | None) -> None:
        asked = run_folder.read_cancel(folder)
        if asked is not None and time.time() - asked.at > self._grace_s:
            self._signal(process, signal.SIGKILL)

    def _signal(self, process: run_folder.TrainerProcess | None, number: signal.Signals) -> None:
        if process is None or not run_folder.alive(process):
            return
        try:
            os.killpg(process.pid, number)  # it leads a session of its own, so its group has its number
        except ProcessLookupError:
            return

    def _sweep(self, output: Path) -> None:
        """Remove what a killed trainer had written of an adapter; no other run writes there."""
        for rest in output.parent.glob(f"{PARTIAL}*-{output.name}"):
            shutil.rmtree(rest, ignore_errors=True)

    def _folder(self, run: Run) -> Path:
        return self._home.runs / run.id


def _reap(run: Run) -> None:
    """Take the exit status of a trainer of ours that has ended, so that it does not stay a zombie."""
    child = _CHILDREN.get(run.id)
    if child is not None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_REAP_S)


def _report(done: Done) -> Report:
    return Report(done.state, done.progress or Progress(), done.error, done.error_zh)
