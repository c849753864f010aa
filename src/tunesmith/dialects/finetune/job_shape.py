"""A job on the wire: the document's names and Kiln's, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunesmith.dialects.finetune.providers import wire_id
from tunesmith.dialects.finetune.wire import Answer, Time, maybe_time, time
from tunesmith.training.hosted.provider import Cost, JobEvent, Value
from tunesmith.training.jobs.job import Job
from tunesmith.training.jobs.status import said_of
from tunesmith.training.run import Progress, State

EVENTS_IN_LISTS = 10
StatusWord = Literal["pending", "running", "completed", "failed", "cancelled", "unknown"]


class ProgressShown(Answer):
    """``percent`` of the whole; the rest where it is told."""

    percent: float
    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float | None
    seconds_left: float | None


class CostShown(Answer):
    amount: float
    currency: str
    estimated: bool


class EventShown(Answer):
    at: Time | None
    type: str
    level: str
    message: str
    step: int | None


class JobShown(Answer):
    """``model_name`` and ``base_model_id``, ``dataset_id`` and ``dataset_split_id``, ``status`` and ``latest_status``,
    ``id`` and ``run_id`` are each one thing under two names.

    ``provider_id`` is the provider's own id of the job, ``provider_status`` its own word, ``fine_tune_model_id`` the model
    that came of it: the provider's id, or a name under home.
    """

    v: int = 1
    model_type: Literal["finetune"] = "finetune"
    id: str
    run_id: str
    name: str
    description: str | None
    provider: str
    model_name: str
    base_model_id: str
    provider_id: str | None
    provider_status: str | None
    fine_tune_model_id: str | None
    adapter: str | None
    dataset_path: str | None
    dataset_id: str | None
    dataset_split_id: str | None
    split_name: str
    train_split_name: str
    validation_split_name: str | None
    parameters: dict[str, str | int | float | bool]
    system_message: str | None
    thinking_instructions: str | None
    data_strategy: str
    status: StatusWord
    latest_status: StatusWord
    status_message: str | None
    error: str | None
    progress: ProgressShown
    cost: CostShown | None
    trained_tokens: int | None
    events: list[EventShown]
    deployment: dict[str, Any] | None
    warnings: list[str]
    properties: dict[str, Any]
    cancel_requested: bool
    project_id: str | None
    task_id: str | None
    created_at: Time
    created_by: str
    updated_at: Time
    started_at: Time | None
    finished_at: Time | None


class JobAnswer(Answer):
    job: JobShown


class JobsAnswer(Answer):
    jobs: list[JobShown]


def job(found: Job, language: str, *, events: int | None = None) -> JobShown:
    """The job in the client's language.

    Args:
        events: how many of the last ones; None gives all.
    """
    run, notes, hosted = found.run, found.notes, found.hosted
    adapter = run.output if hosted is None and run.state is State.COMPLETED else None
    said = said_of(found)
    told: Sequence[JobEvent] = hosted.events if hosted else ()
    return JobShown(
        id=run.id,
        run_id=run.id,
        name=notes.name,
        description=notes.description,
        provider=wire_id(notes.provider),
        model_name=notes.model,
        base_model_id=notes.model,
        provider_id=hosted.job_id if hosted else None,
        provider_status=hosted.word if hosted else None,
        fine_tune_model_id=hosted.output_model if hosted else adapter,
        adapter=adapter,
        dataset_path=notes.dataset_path,
        dataset_id=notes.split_id,
        dataset_split_id=notes.split_id,
        split_name=notes.train_split,
        train_split_name=notes.train_split,
        validation_split_name=notes.validation_split,
        parameters=_values(notes.parameters),
        system_message=notes.system_message,
        thinking_instructions=notes.thinking_instructions,
        data_strategy=str(notes.strategy),
        status=found.status.value,
        latest_status=found.status.value,
        status_message=None if said is None else _in(said, language),
        error=run.reason(language),
        progress=_progress(run.progress, whole=run.state is State.COMPLETED),
        cost=cost(hosted.cost if hosted else None),
        trained_tokens=hosted.tokens if hosted else None,
        events=[_event(each) for each in (told if events is None else told[-events:])],
        deployment=dict(hosted.deployment) if hosted and hosted.deployment else None,
        warnings=[_in(each, language) for each in notes.properties.get("warnings", ())],
        properties={name: value for name, value in notes.properties.items() if name != "warnings"},
        cancel_requested=run.cancel_requested,
        project_id=notes.project_id,
        task_id=notes.task_id,
        created_at=time(run.created_at),
        created_by=run.owner,
        updated_at=time(run.updated_at or run.created_at),
        started_at=maybe_time(run.started_at),
        finished_at=maybe_time(run.ended_at),
    )


def jobs(found: Sequence[Job], language: str) -> JobsAnswer:
    """Many jobs, each with its last events alone."""
    return JobsAnswer(jobs=[job(each, language, events=EVENTS_IN_LISTS) for each in found])


def cost(found: Cost | None) -> CostShown | None:
    """Money as the provider tells it."""
    return None if found is None else CostShown(amount=found.amount, currency=found.currency, estimated=found.estimated)


def _in(pair: Sequence[str], language: str) -> str:
    return pair[0] if language == "zh" else pair[1]


def _progress(found: Progress, *, whole: bool) -> ProgressShown:
    return ProgressShown(
        percent=100.0 if whole else round(found.fraction * 100, 1),
        step=found.step,
        total_steps=found.total_steps,
        epoch=found.epoch,
        loss=found.loss,
        learning_rate=found.learning_rate,
        seconds_left=found.seconds_left,
    )


def _event(found: JobEvent) -> EventShown:
    return EventShown(
        at=maybe_time(found.at), type=found.kind, level=found.level, message=found.message, step=found.step
    )


def _values(parameters: Mapping[str, Value]) -> dict[str, Value]:
    return dict(parameters)
