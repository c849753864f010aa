"""What the paths of training answer. Times are in UTC without zone; sizes are in bytes."""

from typing import Literal

from typing_extensions import TypedDict

from tunesmith.dialects.gpt_service.wire import time_of
from tunesmith.training.run import Run, State

# what one field of a body of ``POST /train`` may hold
Setting = str | float | bool | list[str] | None
# columns of a curve by their names, each as long as "step"; null where nothing was told of a step
Columns = dict[str, list[float | None]]


class TrainingTask(TypedDict):
    """A run as the document tells of it.

    ``progress`` is in percent. ``seconds_left`` is the trainer's estimate; for ``seconds_silent`` the trainer has shown no
    sign of life, where that is unusual. ``error`` is for people, in their language.
    """

    task_id: str
    status: State
    progress: float
    current_epoch: int
    total_epochs: int
    current_step: int
    total_steps: int
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    seconds_silent: float | None
    base_model: str
    dataset_path: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    output_dir: str
    error: str | None


class TrainingHistory(TypedDict):
    """Runs, newest first."""

    history: list[TrainingTask]
    total_count: int


class TrainingStarted(TypedDict):
    """A run was recorded, or asked to stop."""

    status: Literal["success"]
    task_id: str
    message: str


class TrainingResumed(TrainingStarted):
    """A new run goes on from the last checkpoint of another."""

    resumed_from: str


class ListedRun(TrainingTask):
    """A run, with who has it and who asked for it."""

    executor: str
    owner: str
    cancel_requested: bool
    objective: str


class RunList(TypedDict):
    """Runs, newest first."""

    runs: list[ListedRun]
    total_count: int


class ControlLoss(TypedDict):
    """Mean loss on the control set, of the base and of what was published."""

    before: float | None
    after: float | None


class RunInFull(ListedRun):
    """All that is known of a run.

    ``stage`` is what a running trainer is at: "checking", "loading", "training" or "saving". ``memory_bytes`` is what the
    trainer takes, or the most it took. ``adapter`` is a name under home. ``data`` says in a line what was found in the
    data. ``request`` is the body of ``POST /train`` that makes the run again, ``command`` the command line.
    """

    stage: str | None
    memory_bytes: int | None
    adapter: str | None
    resumable: bool
    data: str | None
    validation_loss: float | None
    best_step: int | None
    control: ControlLoss | None
    figures: dict[str, float]
    took_seconds: float | None
    predicted_seconds: float | None
    request: dict[str, Setting]
    command: str


class RunCurves(TypedDict):
    """Points of a run's curves; ``more`` says that there are others after these already."""

    task_id: str
    status: State
    training: Columns
    validation: Columns
    more: bool


class RunLog(TypedDict):
    """Whole lines of a run's log: from byte ``start`` to byte ``end`` of ``size``."""

    task_id: str
    status: State
    text: str
    start: int
    end: int
    size: int


class TrainingParameter(TypedDict):
    """What one field of a body of ``POST /train`` may be; ``choices`` empty: anything from ``minimum`` to ``maximum``."""

    name: str
    kind: str
    default: Setting
    minimum: float | None
    maximum: float | None
    choices: list[str]
    description: str


class TrainingParameters(TypedDict):
    """Every field of a body of ``POST /train`` that is no name of a file or model."""

    parameters: list[TrainingParameter]
    total_count: int


class ReadableData(TypedDict):
    """Something to train on; ``examples`` is null where nobody has counted them."""

    dataset_path: str
    kind: Literal["dataset", "split", "upload", "sample"]
    examples: int | None


class ReadableList(TypedDict):
    """All that the caller can train on without knowing its name."""

    datasets: list[ReadableData]
    total_count: int


class Room(TypedDict):
    """Bytes that a run needs, and that there are."""

    needed_bytes: int
    free_bytes: int


class Remedy(TypedDict):
    """Fields of a recipe with values that make a run fit, by the recipe's own names."""

    changes: dict[str, Setting]
    memory_bytes: int
    message: str


class TrainingPlan(TypedDict):
    """What a run would take.

    ``measured`` is false where it is but an estimate, and ``note`` says why. ``samples`` are of one epoch, ``total_tokens``
    and ``trained_tokens`` of the whole run, without padding. ``cut_samples`` and ``cut_tokens`` are in percent.
    """

    status: Literal["success"]
    fits: bool
    message: str
    measured: bool
    note: str | None
    total_steps: int
    steps_per_epoch: int
    samples: int
    skipped: int
    total_tokens: int
    trained_tokens: int
    cut_samples: float
    cut_tokens: float
    seconds: float
    tokens_per_second: float
    device: str
    memory: Room
    disk: Room
    remedies: list[Remedy]


def task(run: Run, language: str, seconds_silent: float | None = None) -> TrainingTask:
    """A run as the document's task.

    Args:
        seconds_silent: see ``TrainingTask`` (an addition).
    """
    return {
        "task_id": run.id,
        "status": run.state,
        "progress": 100.0 if run.state == "completed" else round(run.progress.fraction * 100, 1),
        "current_epoch": min(int(run.progress.epoch) + 1, run.recipe.epochs) if run.progress.step else 0,
        "total_epochs": run.recipe.epochs,
        "current_step": run.progress.step,
        "total_steps": run.progress.total_steps,
        "loss": run.progress.loss,
        "learning_rate": run.progress.learning_rate,
        "tokens_per_second": run.progress.tokens_per_second,
        "seconds_left": run.progress.seconds_left,
        "seconds_silent": seconds_silent,
        "base_model": run.recipe.base_model,
        "dataset_path": run.recipe.dataset,
        "created_at": time_of(run.created_at),
        "started_at": time_of(run.started_at) if run.started_at else None,
        "completed_at": time_of(run.ended_at) if run.ended_at else None,
        "output_dir": run.output,
        "error": run.reason(language),
    }
