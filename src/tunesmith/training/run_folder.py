"""The folder of one run: what the executor and its trainer process say to each other through files.

recipe.json     the order; written first, by the executor
run.lock        locked (flock) by the trainer for as long as it lives
trainer.json    which process the trainer is
heartbeat       touched by the trainer every few seconds
metrics.jsonl   one line a step, appended; also stages and validation losses
log.txt         what the trainer printed
skipped.jsonl   examples left out, each with its reason; only if there are any
cancel.json     somebody asked to stop, and when
checkpoints/    where the run can be gone on with, one folder a checkpoint, the newest last
starts.json     how often a trainer was started from the same step
silent.json     the trainer lived without a sign of life and was ended for that
reserve         room on the disk for the last words; gone with them
loss.png        the losses, drawn
done.json       how it ended; written last
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tunesmith.kernel.files import folder_published_whole, write_json
from tunesmith.training import memory_kills
from tunesmith.training.loop.checkpoint_files import BASE_MARGINS, POSITION, whole
from tunesmith.training.memory_kills import MemoryKills
from tunesmith.training.run import Progress, Recipe, State

RECIPE, LOCK, TRAINER, HEARTBEAT = "recipe.json", "run.lock", "trainer.json", "heartbeat"
METRICS, LOG, SKIPPED, CANCEL, PICTURE, DONE = (
    "metrics.jsonl", "log.txt", "skipped.jsonl", "cancel.json", "loss.png", "done.json",
)  # fmt: skip
CHECKPOINTS, STARTS = "checkpoints", "starts.json"
SILENT, RESERVE = "silent.json", "reserve"
FACTS = "tunesmith.json"  # in the adapter's folder: who made it
NO_ROOM = 74  # a trainer's exit status: the disk has no room for its last words
_TAIL = 16 * 1024
_SAME_START_S = 2.0
_RESERVED = 1 << 16  # bytes
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_T = TypeVar("_T")


class Stopped(Exception):
    """A trainer ends early because somebody asked."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a trainer is to do.

    Attributes:
        home: path of the home folder.
        base_path: folder of the base model's files.
        threads: CPU threads; 0 lets torch decide.
        checkpoint_s: seconds between two checkpoints, at least.
    """

    run_id: str
    home: str
    output: str
    base_path: str
    recipe: Recipe
    threads: int = 0
    checkpoint_s: float = 30.0


@dataclass(frozen=True, slots=True)
class TrainerProcess:
    """A process, told apart from a later one of the same number by when it started.

    Attributes:
        started: seconds since the epoch, as far as the clock was right.
        ticks: of the kernel's clock from its start to the process's; no step of the other clock changes them.
        boot: of which start of which kernel; "" where the system does not say, and ``started`` has to do.
        host: for telling another machine from this one after a restart.
        memory_kills: the kernel's count at the start.
    """

    pid: int
    started: float
    ticks: int = 0
    boot: str = ""
    host: str = ""
    memory_kills: MemoryKills | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody asked to stop, at this time (seconds since the epoch)."""

    at: float


@dataclass(frozen=True, slots=True)
class Starts:
    """Trainers started from this step, one after the other, without one getting further."""

    step: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Silent:
    """The trainer was ended because it had shown no sign of life for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended.

    Attributes:
        state: a final one.
        adapter: name of the published adapter, only when completed.
        validation_loss: of the published weights, where the recipe names validation data.
        best_step: the step these weights are of, where the best were to be kept.
        control_before, control_after: loss on the control set, of base and weights. figures: see ``Outcome``.
    """

    state: State
    error: str | None = None
    error_zh: str | None = None
    progress: Progress = field(default_factory=Progress)
    adapter: str | None = None
    validation_loss: float | None = None
    best_step: int | None = None
    control_before: float | None = None
    control_after: float | None = None
    figures: dict[str, float] = field(default_factory=dict)


def write_order(folder: Path, order: Order) -> None:
    """Record what the trainer is to do."""
    write_json(folder / RECIPE, order)


def read_order(folder: Path) -> Order:
    """What the trainer is to do.

    Raises:
        OSError, msgspec.DecodeError: there is no such order.
    """
    return msgspec.json.decode((folder / RECIPE).read_bytes(), type=Order)


def read_done(folder: Path) -> Done | None:
    """How the run ended; None while it has not."""
    return _read(folder / DONE, Done)


def read_trainer(folder: Path) -> TrainerProcess | None:
    """The trainer process, dead or alive; None when none was started."""
    return _read(folder / TRAINER, TrainerProcess)


def read_cancel(folder: Path) -> Asked | None:
    """When somebody asked to stop; None when nobody has."""
    return _read(folder / CANCEL, Asked)


def read_starts(folder: Path) -> Starts:
    """How often a trainer was started, and from where."""
    return _read(folder / STARTS, Starts) or Starts()


def read_silent(folder: Path) -> Silent | None:
    """That the last trainer was ended for its silence; None when it was not."""
    return _read(folder / SILENT, Silent)


def last_sign(folder: Path) -> float | None:
    """When the trainer last showed that it lives (seconds since the epoch); None when it has not yet."""
    try:
        return (folder / HEARTBEAT).stat().st_mtime
    except OSError:
        return None


def silent_s(folder: Path) -> float | None:
    """Seconds since the trainer last showed that it lives, or got the run, by clocks that may be set: for people to read."""
    try:
        given = (folder / TRAINER).stat().st_mtime
    except OSError:
        return None
    return max(0.0, time.time() - max(given, last_sign(folder) or 0.0))


def keep_room(folder: Path) -> None:
    """Reserve room for the last words, so that a full disk does not take them.

    Raises:
        OSError: the disk is full already.
    """
    # no zeros: some file systems keep no room for them
    (folder / RESERVE).write_bytes(os.urandom(_RESERVED))


def write_done(folder: Path, done: Done) -> None:
    """Say how the run ended: the last words.

    Raises:
        OSError: not even the reserved room was enough.
    """
    (folder / RESERVE).unlink(missing_ok=True)
    write_json(folder / DONE, done)


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's folder; by name they sort as by step."""
    return f"step-{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, the newest last. One that a broken disk or a copy has damaged is none."""
    return sorted(path for path in (folder / CHECKPOINTS).glob("step-*") if whole(path))


def checkpointed_step(folder: Path) -> int:
    """The step that the newest checkpoint was made at; 0 where there is none."""
    found = checkpoints(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def back_to_checkpoint(folder: Path) -> None:
    """Forget the metrics of steps beyond the newest checkpoint: they are done again."""
    found = checkpoints(folder)
    position = _read(found[-1] / POSITION, dict) if found else None
    truncate_metrics(folder, position["metrics_bytes"] if position else 0)


def go_on_from(old: Path, new: Path) -> None:
    """Make the folder of a new run whose trainer goes on from the newest checkpoint of ``old``."""
    newest = checkpoints(old)[-1]
    with folder_published_whole(new) as folder:
        folder.chmod(0o700)
        (folder / CHECKPOINTS).mkdir()
        shutil.copytree(newest, folder / CHECKPOINTS / newest.name)
        for name in (METRICS, f"{CHECKPOINTS}/{BASE_MARGINS}"):
            if (old / name).exists():
                shutil.copyfile(old / name, folder / name)
        back_to_checkpoint(folder)


def truncate_metrics(folder: Path, size: int) -> None:
    """Forget what was appended to the metrics beyond ``size`` bytes."""
    path = folder / METRICS
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def write_trainer(folder: Path, pid: int) -> None:
    """Record that ``pid`` is the trainer; nothing when it is gone already."""
    started = _started(pid)
    if started is not None:
        made = TrainerProcess(pid, started, _ticks(pid), _boot(), socket.gethostname(), memory_kills.now())
        write_json(folder / TRAINER, made)


def alive(process: TrainerProcess | None) -> bool:
    """Whether that very process still runs here; a zombie does not, nor does another that got its number."""
    started = _started(process.pid) if process else None
    if process is None or started is None:
        return False
    if process.boot and process.ticks:
        return process.boot == _boot() and process.ticks == _ticks(process.pid)
    return abs(started - process.started) < _SAME_START_S


def paused(process: TrainerProcess) -> bool:
    """Whether somebody has stopped the process, to let it go on later."""
    import psutil

    try:
        return psutil.Process(process.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def alive_elsewhere(folder: Path, process: TrainerProcess | None, within_s: float) -> bool:
    """Whether the trainer runs on another machine that shares the folder: it has shown a sign of life since."""
    if process is None or not process.host or process.host == socket.gethostname():
        return False
    sign = last_sign(folder)
    return sign is not None and abs(time.time() - sign) < within_s


def lock(folder: Path) -> int | None:
    """A descriptor holding the run's lock until closed in every process that has it; None when another holds it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of metrics.jsonl in order; a line torn by a crash is left out."""
    try:
        file = (folder / METRICS).open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            row = _row(line)
            if row is not None:
                yield row


def read_progress(folder: Path) -> Progress:
    """The last step the trainer told of."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            tail = file.read(_TAIL)
    except OSError:
        return Progress()
    for line in reversed(tail.splitlines(keepends=True)):
        row = _row(line)
        if row is not None and "event" not in row:
            try:
                return msgspec.convert(row, Progress)
            except msgspec.ValidationError:
                continue
    return Progress()


def log_tail(folder: Path, lines: int = 3) -> str:
    """The last lines the trainer printed, for a message; empty when it printed nothing."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
    printable: Callable[[str], str] = lambda line: "".join(c for c in line if c.isprintable())[:300]  # noqa: E731
    return "\n".join([printable(line) for line in text.splitlines() if line.strip()][-lines:])


def published_by(folder: Path) -> str | None:
    """Id of the run that published the adapter in ``folder``; None when there is none or somebody else's."""
    facts = _read(folder / FACTS, dict)
    return str(facts["run_id"]) if facts and "run_id" in facts else None


def _read(path: Path, kind: type[_T]) -> _T | None:
    """A file written whole, or None; what cannot be read was not written by us and counts as absent."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return row if isinstance(row, dict) else None


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _ticks(pid: int) -> int:
    try:
        # the name, in parentheses, may hold anything
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _started(pid: int) -> float | None:
    import psutil  # 30 ms that only those pay who look at a process

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None
