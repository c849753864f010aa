"""Runs recipes on this machine: one detached trainer process a run, found again by what it wrote."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from tunesmith.kernel.files import PARTIAL, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training import failures, limits, run_folder
from tunesmith.training.executor import Parameter, Report
from tunesmith.training.executors import deaths
from tunesmith.training.executors.standby import Standby
from tunesmith.training.executors.watch import Watch
from tunesmith.training.run import Progress, Run, State
from tunesmith.training.run_folder import Asked, Done, Order
from tunesmith.training.surroundings import command, environment

_GRACE_S = 8.0  # from asking a trainer to stop to making it: whoever cancels waits ten seconds at most
_SILENCE_S = 600.0  # without a sign of life
_SIGN_S = 60.0  # a trainer on another machine lives if it gave one so lately
_START_S = 10.0
_REAP_S = 1.0
_RESTARTS = 3  # of killed trainers, from one and the same step
_NO_FOLDER = (
    "任务目录不见了：请确认所有服务器使用同一个主目录",
    "the run's folder is gone: servers on one database must share one home folder",
)
_log = structlog.get_logger(__name__)
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
        silence_s: a trainer that shows no sign of life for so long is killed, and another goes on from the checkpoint.
        standby: may have a trainer that waits for a run.
    """

    name = "local"

    def __init__(
        self,
        home: Home,
        registry: Bases,
        settings: Settings,
        *,
        grace_s: float = _GRACE_S,
        silence_s: float = _SILENCE_S,
        standby: Standby | None = None,
    ) -> None:
        self._home, self._registry, self._settings = home, registry, settings
        self._grace_s, self._silence_s, self._watch = grace_s, silence_s, Watch()
        self._standby = standby

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
        with (folder / run_folder.LOG).open("ab") as log:
            process = self._standby.take(folder, lock, log.fileno()) if self._standby else None
            if process is not None and process.poll() is not None:
                process = None  # it died on the way; the lock is still ours
            process = process or self._spawned(folder, lock, log)
        _CHILDREN[run.id] = process
        run_folder.write_trainer(folder, process.pid)
        if run_folder.read_trainer(folder) is None:
            process.wait()
            said = run_folder.log_tail(folder)
            raise Invalid(f"训练进程未能启动：{said}", f"the trainer process did not start: {said}")

    def _spawned(self, folder: Path, lock: int, log: BinaryIO) -> "subprocess.Popen[bytes]":
        arguments = ["--run-dir", str(folder), "--lock-fd", str(lock)]
        try:
            return subprocess.Popen(
                [*command("tunesmith.training.trainer", self._settings), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment(self._settings),
                pass_fds=(lock,),
                start_new_session=True,  # neither Ctrl-C nor the end of the server reaches it
            )
        except OSError as error:
            raise Unavailable(
                f"无法启动训练进程：{error.strerror}", f"the trainer process cannot be started: {error.strerror}"
            ) from error

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
            return _report(done) if done is not None else self._without_last_words(run, folder)
        self._end_if_overdue(folder, process)
        self._end_if_silent(run, folder, process)
        return Report(State.RUNNING, self._watch.told(run.id, folder))

    def _without_last_words(self, run: Run, folder: Path) -> Report:
        """The trainer is not to be seen and did not say how it ended."""
        progress = run_folder.read_progress(folder)
        if not folder.is_dir():
            return _failed(progress, _NO_FOLDER)
        lock = run_folder.lock(folder)
        if lock is None:
            # it lives where we cannot see it, or another of us starts one: nothing is known to have ended
            return Report(State.RUNNING, progress)
        try:
            process = run_folder.read_trainer(folder)
            if run_folder.alive(process) or run_folder.alive_elsewhere(folder, process, _SIGN_S):
                return Report(State.RUNNING, progress)
            done = run_folder.read_done(folder)
            return _report(done) if done is not None else self._gone(run, folder, lock, progress)
        finally:
            os.close(lock)

    def _gone(self, run: Run, folder: Path, lock: int, progress: Progress) -> Report:
        """The trainer is gone for certain, and without a word; nobody else starts one while we have the lock."""
        output = self._home.path(run.output, "output")
        self._sweep(output)
        if run_folder.published_by(output) == run.id:
            # killed after the adapter was there: that is what a run is for
            return Report(State.COMPLETED, progress)
        if run_folder.read_cancel(folder) is not None:
            return Report(State.CANCELED, progress)
        reason = self._cause(run, folder)
        try:
            if reason != failures.NO_ROOM and self._goes_on(run, folder, lock):
                return Report(State.RUNNING, progress)
        except OSError as error:
            if not failures.no_room(error):
                raise
            reason = failures.NO_ROOM
        return _failed(progress, reason, run_folder.log_tail(folder))

    def _goes_on(self, run: Run, folder: Path, lock: int) -> bool:
        """Start another trainer where the last one was killed; not for ever where none gets any further."""
        if not (folder / run_folder.RECIPE).exists():
            return False
        step, before = run_folder.checkpointed_step(folder), run_folder.read_starts(folder)
        tries = before.count + 1 if step == before.step else 1
        if tries > _RESTARTS:
            return False
        # recorded first: a machine that dies of the start must not try for ever
        write_json(folder / run_folder.STARTS, run_folder.Starts(step, tries))
        (folder / run_folder.SILENT).unlink(missing_ok=True)
        try:
            self._start(run, folder, lock)
        except (Invalid, Unavailable):
            return tries < _RESTARTS
        return True

    def _cause(self, run: Run, folder: Path) -> deaths.Reason:
        child, process = _CHILDREN.get(run.id), run_folder.read_trainer(folder)
        before = self._watch.memory_kills(run.id) or (process.memory_kills if process else None)
        # ours may have been followed by one that another of us started
        status = child.returncode if child and process and child.pid == process.pid else None
        return deaths.cause(status, before.since() if before else 0, run_folder.read_silent(folder))

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

    def _end_if_silent(self, run: Run, folder: Path, process: run_folder.TrainerProcess | None) -> None:
        """Kill a trainer that hangs as a whole; one that somebody has stopped (SIGSTOP) is left alone."""
        if process is None:
            return
        silent_s = self._watch.silent_s(run.id, folder, process)
        if silent_s < self._silence_s or run_folder.paused(process):
            return
        # recorded first: who finds it dead must be able to say of what
        write_json(folder / run_folder.SILENT, run_folder.Silent(silent_s))
        _log.warning("silent_trainer_ended", run_id=run.id, seconds=round(silent_s))
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


def _failed(progress: Progress, reason: deaths.Reason, said: str = "") -> Report:
    zh, en = reason
    return Report(
        State.FAILED,
        progress,
        f"{en}; last log lines: {said}" if said else en,
        f"{zh}；日志末尾：{said}" if said else zh,
    )


def _report(done: Done) -> Report:
    return Report(done.state, done.progress or Progress(), done.error, done.error_zh)
