"""The trainer process: ``python -m tunesmith.training.trainer --run-dir DIR`` executes one run and ends.

It is told everything by files in DIR and tells everything through files there (see run_folder). SIGTERM asks it to stop
at the end of the step. It may be killed at any line: ``done.json`` is written last, the adapter appears whole or not.

Under ``torchrun`` the first process is the trainer, and the others only do their share of each step.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from tunesmith.kernel.home import Home
from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Problem
from tunesmith.training import curve, failures, run_folder
from tunesmith.training.bundle import gathered
from tunesmith.training.plan import accuracy
from tunesmith.training.plan.room import peak_memory
from tunesmith.training.run import Progress, State
from tunesmith.training.run_folder import Done, Order, Stopped

if TYPE_CHECKING:
    from tunesmith.training.data.material import Material
    from tunesmith.training.loop.updates import Outcome

BUSY = 75  # exit status: another trainer has this run
_HEARTBEAT_S = 2.0
_log = logging.getLogger("tunesmith.trainer")


def main(arguments: list[str] | None = None) -> int:
    """Execute the run; 0 when it completed, 1 when it did not, BUSY when another process has it, NO_ROOM when the disk
    does not even take the reason."""
    parser = argparse.ArgumentParser(prog="tunesmith.training.trainer")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--lock-fd", type=int, help="descriptor that already holds the run's lock")
    options = parser.parse_args(arguments)
    folder: Path = options.run_dir
    stop = threading.Event()
    if under_torchrun():
        _end_with_parent()
        if os.environ["RANK"] != "0":
            return _lend_a_hand(folder, stop)
    else:  # torchrun holds the lock itself: it hands no descriptors on
        held = options.lock_fd if options.lock_fd is not None else run_folder.lock(folder)
        if held is None:
            return BUSY
        os.set_inheritable(held, False)  # the run is ours for as long as we live, not a child of ours
    signal.signal(signal.SIGTERM, _setter(stop))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to whoever started us
    run_folder.write_trainer(folder, os.getppid() if under_torchrun() else os.getpid())
    if run_folder.read_cancel(folder) is not None:
        stop.set()
    if run_folder.read_done(folder) is None:
        _prepare_process(folder)
        threading.Thread(target=_beat, args=(folder, stop), daemon=True).start()
        try:
            run_folder.keep_room(folder)
            run_folder.back_to_checkpoint(folder)
            run_folder.write_done(folder, _Trainer(folder, stop.is_set).done())
        except OSError as error:
            if failures.no_room(error):
                return run_folder.NO_ROOM  # the last words that need no disk
            raise
    done = run_folder.read_done(folder)
    if done and done.state is State.COMPLETED:
        shutil.rmtree(folder / run_folder.CHECKPOINTS, ignore_errors=True)  # nobody goes on with what is done
    return 0 if done and done.state is State.COMPLETED else 1


class _Trainer:
    def __init__(self, folder: Path, stopped: Callable[[], bool]) -> None:
        self._folder, self._stopped = folder, stopped
        self._began = time.time()  # the process may have waited for the run
        self._metrics = _Metrics(folder / run_folder.METRICS)

    def done(self) -> Done:
        """Execute the run and say how it ended; every failure becomes a reason a person can act on."""
        try:
            return self._completed(run_folder.read_order(self._folder))
        except Stopped:
            _log.info("stopped because somebody asked")
            return self._ended(State.CANCELED)
        except Problem as problem:
            _log.error("%s", problem)
            return self._ended(State.FAILED, problem.en, problem.zh)
        except Exception as error:  # the edge of the process: the record must say something true
            with suppress(OSError):  # the log may lie on the disk that is full
                _log.exception("the run failed")
            if (named := failures.named(error)) is not None:
                zh, en = named
                return self._ended(State.FAILED, en, zh)
            return self._unexpected(error)

    def _completed(self, order: Order) -> Done:
        home = Home(Path(order.home))
        self._stage("checking")
        # bad data is found before the model is loaded
        from tunesmith.training.data.preparing import prepared
        from tunesmith.training.data.tokenizing import load_tokenizer

        tokenizer = load_tokenizer(Path(order.base_path))
        material = prepared(home, order, tokenizer, self._folder, self._stopped)
        ingredients = gathered(home, order.recipe, Path(order.base_path), tokenizer, order.threads)
        self._stage("loading")
        model = self._model(home, order)
        digest = material.digest()
        # all that the base's view of the data follows from
        of = [ingredients.base_files, ingredients.chat_template_sha256, order.recipe.quantization, digest]
        outcome = self._trained(order, model, material, of)
        self._tell_control(outcome)
        self._stage("saving", stoppable=False)  # too late to cancel: what was asked for is there
        from tunesmith.training.publishing import publish

        publish(home, order, model, tokenizer, outcome, ingredients, digest)
        _log.info("published %s, loss %.4f", order.output, outcome.loss)
        self._draw(order, outcome)
        self._hold_to_plan(home, order)
        return Done(
            State.COMPLETED,
            progress=outcome.progress,
            adapter=order.output,
            validation_loss=outcome.validation_loss,
            best_step=outcome.best_step,
            control_before=outcome.control_before,
            control_after=outcome.control_after,
            figures=dict(outcome.figures),
        )

    def _trained(self, order: Order, model: Any, material: "Material", of: object) -> "Outcome":
        """Train, from the newest checkpoint where there is one."""
        from tunesmith.training.loop.base_margins import BaseMargins
        from tunesmith.training.loop.checkpoints import Keeper, read_newest
        from tunesmith.training.loop.ranks import joined
        from tunesmith.training.recipe import execute

        found = read_newest(self._folder)
        self._stage("training", from_step=found.position.progress.step if found else None)
        keeper, margins = Keeper(self._folder, order.checkpoint_s), BaseMargins(self._folder, of)
        try:
            with joined() as ranks:
                return execute(
                    order.recipe, model, material, self._metrics, self._stopped, keeper, found, ranks, margins
                )
        finally:
            keeper.flush()

    def _tell_control(self, outcome: "Outcome") -> None:
        if outcome.control_before is not None:
            losses = {"before": outcome.control_before, "after": outcome.control_after}
            _log.info("control set: loss %(before).4f before, %(after).4f after", losses)
            self._metrics.write({"event": "control", **losses, "time": time.time()})

    def _model(self, home: Home, order: Order) -> Any:
        from tunesmith.training.publishing import require_room

        model = _loaded(order)
        require_room(home, model)
        return model

    def _stage(self, name: str, *, stoppable: bool = True, from_step: int | None = None) -> None:
        if stoppable and self._stopped():
            raise Stopped
        facts = {} if from_step is None else {"from_step": from_step}
        _log.info("%s %s", name, facts or "")
        self._metrics.write({"event": "stage", "stage": name, **facts, "time": time.time()})

    def _draw(self, order: Order, outcome: "Outcome") -> None:
        """The picture is a courtesy: without it the run has completed all the same."""
        rows = list(run_folder.metrics(self._folder))
        training = [(row["step"], row["loss"]) for row in rows if "event" not in row]
        validation = [(row["step"], row["loss"]) for row in rows if row.get("event") == "validation"]
        try:
            curve.draw(self._folder / run_folder.PICTURE, training, validation, f"{order.output}  ({order.run_id[:8]})")
        except (OSError, ValueError, RuntimeError, ImportError):
            _log.exception("the loss could not be drawn")

    def _hold_to_plan(self, home: Home, order: Order) -> None:
        """Record how right the plan was; a courtesy, too."""
        try:
            accuracy.hold(self._folder, home, order.recipe, self._began, time.time(), peak_memory())
        except (OSError, ValueError):
            _log.exception("how right the plan was could not be recorded")

    def _unexpected(self, error: Exception) -> Done:
        said = f"{type(error).__name__}: {error}"[:500]
        return self._ended(
            State.FAILED,
            f"the trainer met an error it has no name for: {said}; see {run_folder.LOG} in the run's folder",
            f"训练器遇到未知错误：{said}；详见任务目录中的 {run_folder.LOG}",
        )

    def _ended(self, state: State, error: str | None = None, error_zh: str | None = None) -> Done:
        return Done(state, error, error_zh, run_folder.read_progress(self._folder))


class _Metrics:
    """Appends to metrics.jsonl; what belongs together is written at once, so that readers see both or neither."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def step(
        self,
        progress: Progress,
        grad_norm: float,
        validation_loss: float | None,
        figures: Mapping[str, float],
        validation_figures: Mapping[str, float],
    ) -> int:
        rows: list[dict[str, Any]] = [
            {**msgspec.to_builtins(progress), "grad_norm": grad_norm, **figures, "time": time.time()},
        ]
        if validation_loss is not None:
            rows.append(
                {"event": "validation", "step": progress.step, "epoch": progress.epoch, "loss": validation_loss,
                 **validation_figures, "time": time.time()}
            )  # fmt: skip
        return self.write(*rows)

    def write(self, *rows: dict[str, Any]) -> int:
        """Append; gives the size of the file then."""
        with self._path.open("ab", buffering=0) as file:
            file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            return file.tell()


class _Silent:
    """Tells nobody."""

    def step(self, progress: Progress, *told: object) -> int:
        return 0


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process, with others or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _end_with_parent() -> None:
    """Have the system end this process with ``torchrun``: who finds that gone must not meet us at work."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _lend_a_hand(folder: Path, stop: threading.Event) -> int:
    """Do a share of each step beside the first process, which alone tells, keeps and publishes."""
    from tunesmith.training.loop.checkpoints import read_newest
    from tunesmith.training.loop.ranks import joined
    from tunesmith.training.recipe import execute

    signal.signal(signal.SIGTERM, _setter(stop))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = run_folder.read_order(folder)
    with tempfile.TemporaryDirectory() as scratch:
        _, material = read_material(Path(scratch), order)
    model, found = _loaded(order), read_newest(folder)
    try:
        with joined() as ranks:
            execute(order.recipe, model, material, _Silent(), stop.is_set, None, found, ranks)
    except Stopped:
        return 1
    return 0


def _loaded(order: Order) -> Any:
    """The base with fresh LoRA weights."""
    with importing():
        import torch
        import transformers.modeling_utils  # noqa: F401  (what every architecture's own module imports)

        from tunesmith.training.loop.loading import load_base
        from tunesmith.training.loop.lora_modules import with_lora

    if order.threads:
        torch.set_num_threads(order.threads)
    return with_lora(load_base(Path(order.base_path), order.recipe.quantization), order.recipe)


def read_material(folder: Path, order: Order) -> "tuple[Any, Material]":
    """The tokenizer and the examples as a trainer of ``order`` reads them, for who only tries; ``folder`` gets its log.

    Raises:
        Problem: as the trainer would end with.
    """
    _prepare_process(folder)
    from tunesmith.training.data.preparing import prepared
    from tunesmith.training.data.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(Path(order.base_path))
    return tokenizer, prepared(Home(Path(order.home)), order, tokenizer, folder, lambda: False)


def _setter(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    return lambda number, frame: stop.set()


def prepare_environment() -> None:
    """Settings that libraries read when they are imported: no network, and threads that do not spin.

    OpenMP threads spin at every barrier by default. With another busy process on the machine each barrier then waits
    for the scheduler: measured 2048 instead of 149 ms a step on two shared cores.
    """
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",
    }.items():
        os.environ.setdefault(name, value)


def _prepare_process(folder: Path) -> None:
    prepare_environment()
    handler = logging.FileHandler(folder / run_folder.LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)


def _beat(folder: Path, stop: threading.Event) -> None:
    while True:
        with suppress(OSError):  # a full disk is told of by whoever has something to say
            (folder / run_folder.HEARTBEAT).touch()
        if (folder / run_folder.CANCEL).exists():
            stop.set()  # asked from where no signal reaches us: another machine, another container
        time.sleep(_HEARTBEAT_S)


if __name__ == "__main__":
    sys.exit(main())
