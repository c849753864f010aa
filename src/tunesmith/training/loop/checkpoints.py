"""Where a run can be gone on with: written whole beside its steps, read back to the bit (torch, safetensors).

One folder a checkpoint, ``checkpoints/step-000000120``, published by a rename: the adapter and the optimizer's moments
as tensors, the position as JSON. Nothing is pickled. A run that goes on from one ends with the bytes of a run that
nothing has happened to: batches and dropout follow from the seed and the step alone, so no generator's state is kept.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from tunesmith.kernel.files import PARTIAL, folder_published_whole, sync, write_json
from tunesmith.kernel.problems import Conflict
from tunesmith.training import run_folder
from tunesmith.training.loop.checkpoint_files import POSITION, TENSORS
from tunesmith.training.run import Progress

_KEPT = 2  # the newest, and the one before it in case the disk loses the newest
_SHARE = 0.02  # of the time may go into copying and writing


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run a checkpoint was made; ``Position()`` is its beginning.

    Attributes:
        epoch: from 0. number: updates done of that epoch.
        losses: of those updates.
        validation_loss: the last.
        best_loss, best_step: the best so far, and after which step. worse: scorings since then.
        over: training has stopped early.
        unscored: the step is done but not told yet: training was stopped while the validation data was scored after it.
        grad_norm: of the last step.
        control_before: of the control set, before the first step.
        figures: what was told beside the losses, by name. validation_figures, best_figures: beside those.
        metrics_bytes: size of metrics.jsonl; what was appended later belongs to steps that will be done again.
        material: digest of the examples, in their order.
    """

    epoch: int = 0
    number: int = 0
    losses: tuple[float, ...] = ()
    validation_loss: float | None = None
    progress: Progress = field(default_factory=Progress)
    metrics_bytes: int = 0
    material: str = ""
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    over: bool = False
    unscored: bool = False
    grad_norm: float = 0.0
    control_before: float | None = None
    figures: tuple[dict[str, float], ...] = ()
    validation_figures: dict[str, float] = field(default_factory=dict)
    best_figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position, and everything that training changes, as CPU tensors by name."""

    position: Position
    tensors: Mapping[str, Tensor]


def taken(
    weights: Sequence[Tensor], optimizer: torch.optim.Optimizer, position: Position, best: Sequence[Tensor] = ()
) -> Checkpoint:
    """A copy of the state as it is now.

    Args:
        best: the weights that scored best, where they are kept.
    """
    tensors = {f"weight.{i}": weight.detach().to("cpu", copy=True) for i, weight in enumerate(weights)}
    tensors |= {f"best.{i}": weight.to("cpu", copy=True) for i, weight in enumerate(best)}
    for i, moments in optimizer.state_dict()["state"].items():
        for name, moment in moments.items():
            tensors[f"optimizer.{i}.{name}"] = moment.detach().to("cpu", copy=True)
    return Checkpoint(position, tensors)


def put_back(checkpoint: Checkpoint, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Make the state what it was; gives the weights that scored best, where they are kept.

    Raises:
        Conflict: it is of another model or recipe.
    """
    tensors = checkpoint.tensors
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with torch.no_grad():
            for i, weight in enumerate(weights):
                found = tensors[f"weight.{i}"]
                if found.shape != weight.shape or found.dtype != weight.dtype:
                    raise _another()
                weight.copy_(found)
    except KeyError as error:
        raise _another() from error
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, moment = rest.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    best = [tensors[f"best.{i}"] for i in range(len(weights)) if f"best.{i}" in tensors]
    return [found.to(weight.device) for found, weight in zip(best, weights, strict=False)]


def write(run: Path, checkpoint: Checkpoint) -> None:
    """Publish the checkpoint in the run's folder and remove older ones."""
    from safetensors.torch import save_file

    folder = run / run_folder.CHECKPOINTS
    folder.mkdir(exist_ok=True)
    for rest in folder.glob(f"{PARTIAL}*"):  # of a trainer that was killed while it wrote
        shutil.rmtree(rest, ignore_errors=True)
    target = folder / run_folder.checkpoint_name(checkpoint.position.progress.step)
    if target in run_folder.checkpoints(run) and not _position(target).unscored:
        return  # a run that was gone on with has come to the same step again: the same bytes
    shutil.rmtree(target, ignore_errors=True)  # damaged, or of the same step before its scoring
    metrics = run / run_folder.METRICS
    if metrics.exists():
        sync(metrics)  # the position speaks of its size
    with folder_published_whole(target) as place:
        save_file(dict(checkpoint.tensors), place / TENSORS)
        write_json(place / POSITION, checkpoint.position)
    for old in run_folder.checkpoints(run)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def read_newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None where there is none."""
    from safetensors.torch import load_file

    found = run_folder.checkpoints(run)
    return Checkpoint(_position(found[-1]), load_file(found[-1] / TENSORS)) if found else None


def _position(folder: Path) -> Position:
    return msgspec.json.decode((folder / POSITION).read_bytes(), type=Position)


class Keeper:
    """Takes checkpoints now and then and writes them beside the steps.

    Args:
        every_s: seconds between two at least; more where copying and writing would take a notable share of the time.
    """

    def __init__(self, run: Path, every_s: float) -> None:
        self._run, self._every_s = run, every_s
        self._due = time.monotonic() + every_s
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def step_done(self, take: Callable[[], Checkpoint]) -> None:
        """A step is done; where it is time, its state is copied now and written meanwhile.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        if time.monotonic() < self._due or (self._writing is not None and self._writing.is_alive()):
            return
        self.flush()
        self._begin(take())

    def last(self, take: Callable[[], Checkpoint]) -> None:
        """Training stops here: written before this returns."""
        self.flush()
        self._begin(take())
        self.flush()

    def flush(self) -> None:
        """Wait for what is being written.

        Raises:
            OSError: it could not be.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _begin(self, checkpoint: Checkpoint) -> None:
        self._writing = threading.Thread(target=self._write, args=(checkpoint, time.monotonic()), daemon=True)
        self._writing.start()

    def _write(self, checkpoint: Checkpoint, began: float) -> None:
        try:
            write(self._run, checkpoint)
        except BaseException as error:  # told by whoever asks next
            self._failure = error
        took_s = time.monotonic() - began
        self._due = time.monotonic() + max(self._every_s, took_s / _SHARE)


def _another() -> Conflict:
    return Conflict(
        "检查点与当前的模型或配方不符，无法继续；请重新开始训练",
        "the checkpoint is of another model or recipe, and cannot be gone on with: start the run anew",
    )
