"""Together's fine-tuning wire: what is sent for an order, and what its answers mean.

Source: the official client ``together`` 3.1.1 (types/, lib/types/fine_tuning.py, lib/resources/fine_tuning.py).
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.training.hosted.provider import Cost, HostedJob, HostedModel, HostedOrder, JobEvent
from tunesmith.training.run import Progress, State

STATES: Mapping[str, State] = {
    "pending": State.QUEUED,
    "queued": State.QUEUED,
    "running": State.RUNNING,
    "compressing": State.RUNNING,
    "uploading": State.RUNNING,
    "cancel_requested": State.RUNNING,
    "completed": State.COMPLETED,
    "error": State.FAILED,
    "user_error": State.FAILED,
    "cancelled": State.CANCELED,
}
NO_ESTIMATE: Mapping[str, tuple[str, str]] = {
    "multimodal_dataset": ("数据集含有图片等多模态内容", "the dataset holds images or other media"),
    "train_file_not_validated": ("训练文件尚在检查中", "the training file is still being checked"),
    "eval_file_not_validated": ("验证文件尚在检查中", "the validation file is still being checked"),
    "train_file_invalid": ("训练文件未通过检查", "the training file did not pass the check"),
    "eval_file_invalid": ("验证文件未通过检查", "the validation file did not pass the check"),
}
_LONGEST_ID = 256  # characters
_DOLLARS = 1e-9  # total_price is in billionths of a dollar (lib/utils/tools.py)
_SENT_AS: Mapping[str, str] = {
    "epochs": "n_epochs",
    "learning_rate": "learning_rate",
    "num_checkpoints": "n_checkpoints",
    "warmup_ratio": "warmup_ratio",
    "max_grad_norm": "max_grad_norm",
    "weight_decay": "weight_decay",
}


class File(msgspec.Struct):
    """An uploaded file; ``bytes`` is 0 until it is whole, ``created_at`` in seconds since 1970."""

    id: str
    filename: str = ""
    bytes: int = 0
    created_at: float = 0.0
    processing_status: str | None = None
    validation_report: dict[str, Any] | None = None


class LoraLimits(msgspec.Struct):
    """A model's limits for LoRA."""

    default_rank: int | None = None
    max_rank: int | None = None
    min_batch_size: int | None = None
    max_batch_size: int | None = None


class Limits(msgspec.Struct):
    """What Together allows for one model."""

    lora_training: LoraLimits = msgspec.field(default_factory=LoraLimits)
    min_learning_rate: float | None = None
    max_learning_rate: float | None = None
    max_num_epochs: int | None = None
    max_num_evals: int | None = None
    max_num_checkpoints: int | None = None
    max_seq_length_sft: int | None = None
    supports_tools: bool = False
    supports_reasoning: bool = False


class Estimated(msgspec.Struct):
    """A price, or why there is none."""

    estimation_available: bool
    unavailable_reason: str = ""
    estimated_total_price: float | None = None
    estimated_train_token_count: float | None = None
    allowed_to_proceed: bool | None = None
    user_limit: float | None = None


class _Job(msgspec.Struct):
    """Both the long and the short form of a job."""

    id: str
    status: str
    suffix: str | None = None
    training_file: str | None = None
    model_output_name: str | None = None
    n_epochs: Any = None
    token_count: Any = None
    total_price: Any = None
    progress: Any = None
    steps_completed: Any = None
    total_steps: Any = None
    epochs_completed: Any = None
    events: Any = None


class _Event(msgspec.Struct):
    created_at: Any = None
    type: Any = None
    message: Any = None
    level: Any = None
    step: Any = None


def job_of(raw: Any) -> HostedJob | None:
    """A job as Together tells it; None where it is none."""
    try:
        job = msgspec.convert(raw, _Job)
    except msgspec.ValidationError:
        return None
    if not 0 < len(job.id) <= _LONGEST_ID or UNPRINTABLE.search(job.id):
        return None  # it could be neither kept nor asked for
    state = STATES.get(job.status.lower())
    price = _number(job.total_price)
    tokens = _number(job.token_count)
    return HostedJob(
        id=job.id,
        word=job.status,
        state=state,
        message=_message(job, state),
        progress=_progress(job),
        output_model=job.model_output_name or None,
        cost=None if price is None else Cost(price * _DOLLARS, estimated=not (state is not None and state.final)),
        tokens=None if tokens is None else int(tokens),
        raw=raw,
    )


def file_name(tag: str, sha256: str) -> str:
    """What a file is called there: the tag and the beginning of the digest, so that two files of a tag stay apart."""
    return f"{tag}-{sha256[:12]}.jsonl"


def is_file_of(name: str, tag: str) -> bool:
    """Whether ``file_name`` made it for the tag."""
    return re.fullmatch(rf"{re.escape(tag)}-[0-9a-f]{{12}}\.jsonl", name) is not None


def has_tag(raw: Any, tag: str, files: Iterable[str]) -> bool:
    """Whether the job was made with the tag.

    Its suffix says so; where Together does not repeat the suffix, the model's name, which ends with it, or else the
    training file, which was uploaded for this tag alone, though Together may share a file of the same bytes.
    """
    try:
        job = msgspec.convert(raw, _Job)
    except msgspec.ValidationError:
        return False
    if job.suffix:
        return job.suffix == tag
    if job.model_output_name:
        # a hash follows it
        return re.search(rf"-{re.escape(tag)}(-[0-9a-f]{{6,64}})?$", job.model_output_name) is not None
    return job.training_file is not None and job.training_file in files


def events_of(rows: Any) -> list[JobEvent]:
    """Events, oldest first; rows of another shape are left out."""
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            event = msgspec.convert(row, _Event)
        except msgspec.ValidationError:
            continue
        step = _number(event.step)
        found.append(
            JobEvent(
                at=_moment(event.created_at),
                kind=str(event.type or "").lower(),
                message=str(event.message or ""),
                level=str(event.level or "info").lower().removeprefix("legacy_").replace("iwarn", "warn"),
                step=None if step is None else int(step),
            )
        )
    return sorted(found, key=lambda event: event.at or datetime.min.replace(tzinfo=UTC))


def body_of(order: HostedOrder, training: str, validation: str | None, limits: Limits) -> dict[str, Any]:
    """What creates the job: parameters that the order leaves out are left to Together."""
    given = order.parameters
    body: dict[str, Any] = {
        "model": order.model,
        "training_file": training,
        "suffix": order.tag,
        "batch_size": given.get("batch_size", "max"),
        "training_type": training_type(order, limits),
        "training_method": {"method": "sft", "train_on_inputs": "auto"},
        **{sent: given[name] for name, sent in _SENT_AS.items() if name in given},
    }
    if "min_lr_ratio" in given:
        arguments = {"min_lr_ratio": given["min_lr_ratio"], "num_cycles": 0.5}
        body["lr_scheduler"] = {"lr_scheduler_type": "cosine", "lr_scheduler_args": arguments}
    if validation is not None:
        body |= {"validation_file": validation, "n_evals": evaluations(order, limits)}
    return body


def price_body(order: HostedOrder, training: str, validation: str | None, limits: Limits) -> dict[str, Any]:
    """What asks for the price of the same job."""
    body = body_of(order, training, validation, limits)
    names = ("model", "training_file", "validation_file", "n_evals", "training_type", "training_method")
    return {"n_epochs": body.get("n_epochs", 1), **{name: body[name] for name in names if name in body}}


def training_type(order: HostedOrder, limits: Limits) -> dict[str, Any]:
    """LoRA with the model's own rank and twice that as alpha, unless the order says otherwise (lib/resources)."""
    given = order.parameters
    rank = int(given.get("lora_rank", limits.lora_training.default_rank or 8))
    alpha = int(float(given.get("lora_alpha", 2 * rank)))
    return {
        "type": "Lora",
        "lora_r": rank,
        "lora_alpha": alpha,
        "lora_dropout": float(given.get("lora_dropout", 0.0)),
        "lora_trainable_modules": "all-linear",
    }


def evaluations(order: HostedOrder, limits: Limits) -> int:
    """Once an epoch: a validation file that is never looked at would be of no use."""
    epochs = int(order.parameters.get("epochs", 1))
    return epochs if limits.max_num_evals is None else min(epochs, limits.max_num_evals)


def model_of(name: str, shown: str, limits: Limits) -> HostedModel:
    """A base model with what Together allows for it, in Kiln's names."""
    lora = limits.lora_training
    ranges = {
        "learning_rate": (limits.min_learning_rate, limits.max_learning_rate),
        "epochs": (1, limits.max_num_epochs),
        "num_checkpoints": (1, limits.max_num_checkpoints),
        "batch_size": (lora.min_batch_size, lora.max_batch_size),
        "lora_rank": (1, lora.max_rank),
    }
    strategies: tuple[str, ...] = ("final_only", "two_message_cot")
    if limits.supports_reasoning or "-r1" in name.lower() or "qwq" in name.lower():
        strategies = (*strategies, "final_and_intermediate_r1_compatible")
    return HostedModel(
        id=name,
        name=shown or name,
        strategies=strategies,
        tools=limits.supports_tools,
        context_length=limits.max_seq_length_sft,
        limits={
            each: (float(low), float(high))
            for each, (low, high) in ranges.items()
            if low is not None and high is not None and low <= high
        },
    )


def _message(job: _Job, state: State | None) -> str | None:
    """Why it failed: a job has no field for it, its events have."""
    if state is not State.FAILED:
        return None
    said = [event.message for event in events_of(job.events) if event.level == "error" or "error" in event.kind]
    return next((text for text in reversed(said) if text), None)


def _progress(job: _Job) -> Progress:
    # a job that does not tell its steps tells them in its events
    step, total = (
        max((_number(each) or 0.0 for each in (told, *_told(job.events, name))), default=0.0)
        for name, told in (("step", job.steps_completed), ("total_steps", job.total_steps))
    )
    left = job.progress if isinstance(job.progress, dict) else {}
    return Progress(
        step=int(step),
        total_steps=int(total),
        epoch=_number(job.epochs_completed) or 0.0,
        seconds_left=_number(left.get("seconds_remaining")) if left.get("estimate_available") is True else None,
    )


def _told(events: Any, name: str) -> list[Any]:
    return [row.get(name) for row in events if isinstance(row, dict)] if isinstance(events, list) else []


def _number(value: Any) -> float | None:
    """A number of any use: finite, not negative, no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e18 and math.isfinite(value) else None


def _moment(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
