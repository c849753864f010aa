"""A fine-tuning job: a run, and what the finetune document says of it beyond the record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from tunesmith.datasets.export.sample import Strategy
from tunesmith.training.hosted.provider import Cost, JobEvent, Value
from tunesmith.training.run import Run

LOCAL = "local"  # also the name of the executor; the others are "together_ai" and "fireworks_ai"


class Status(StrEnum):
    """Where a job stands, in the document's words. Completed, failed and cancelled are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the provider cannot be reached, or said a word we have never seen; never recorded as final


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNotes:
    """What the document keeps of a job beyond its run. A run made in another dialect has none.

    Attributes:
        model: the base model as the caller named it.
        parameters: as given, after checking; what is absent is the provider's default.
        system_message: the exact text trained with.
        dataset_path: the file it was made from; None where it was made from a split.
        properties: what a later version may keep without a new column.
    """

    run_id: str
    name: str
    provider: str
    model: str
    strategy: Strategy
    parameters: Mapping[str, Value]
    description: str | None = None
    project_id: str | None = None
    task_id: str | None = None
    dataset_path: str | None = None
    split_id: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    system_message: str | None = None
    thinking_instructions: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedNews:
    """What is known of a job at a provider, as last told.

    Attributes:
        tag: what the provider stores with all it makes for the run.
        tried_at: when a job was first asked for; from then on ``find`` is asked before another is.
        training_file, validation_file: the provider's ids of the uploaded files.
        job_id: the provider's; None until it is known.
        word: the provider's own name of the state; ``known`` whether we have seen it before.
        pending: the provider has it and has not begun.
        trouble: why it could not be asked the last time, Chinese and English; None where it could. Kept in memory only.
        raw: its last answer, whole.
    """

    tag: str
    tried_at: datetime | None = None
    training_file: str | None = None
    validation_file: str | None = None
    job_id: str | None = None
    word: str | None = None
    known: bool = True
    pending: bool = True
    message: str | None = None
    output_model: str | None = None
    cost: Cost | None = None
    tokens: int | None = None
    events: tuple[JobEvent, ...] = ()
    deployment: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    trouble: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A run as the finetune document sees it.

    Attributes:
        hosted: None for a job of this machine.
    """

    run: Run
    notes: JobNotes
    status: Status
    hosted: HostedNews | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a caller asks for; checked by ``JobService.create``.

    Exactly one of ``dataset_path`` and ``split_id`` is given.

    Attributes:
        provider: in any spelling: TOGETHER_AI, together_ai, LOCAL.
        strategy: None is ``final_only``, or ``two_message_cot`` where thinking instructions are given.
        split_name: part of the dataset at ``dataset_path``, where it has parts; "train" where it names none.
        system_message: None takes what ``system_message_generator`` makes of the task, or the default.
    """

    provider: str
    model: str
    parameters: Mapping[str, Any]
    name: str | None = None
    description: str | None = None
    dataset_path: str | None = None
    split_name: str = "train"
    project_id: str | None = None
    task_id: str | None = None
    split_id: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    strategy: str | None = None
    system_message: str | None = None
    system_message_generator: str | None = None
    thinking_instructions: str | None = None
