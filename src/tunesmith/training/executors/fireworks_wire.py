"""Fireworks' words in ours: resource names, states, models, jobs and deployments as its REST API tells them.

Names and meanings are of api.fireworks.ai as its official client of version 1.2 knows it. A job's state decides; all
beside it (progress, cost) is read where it can be and left out where it cannot.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid
from tunesmith.training.hosted.keeping import struck
from tunesmith.training.hosted.provider import Cost, Deployment, HostedJob, HostedModel, HostedOrder
from tunesmith.training.run import Progress, State

JOBS, DATASETS, MODELS, DEPLOYMENTS = "supervisedFineTuningJobs", "datasets", "models", "deployments"
NOT_READY = 9  # gRPC's FAILED_PRECONDITION: the thing is in the wrong state
_PREFIX = "JOB_STATE_"
_LONGEST_DISPLAY = 60  # characters of a display name
_NAME = re.compile(r"accounts/[A-Za-z0-9][\w.-]{0,127}/([A-Za-z]+)/[A-Za-z0-9][\w.-]{0,255}", re.ASCII)
_JOB = rf"^accounts/[A-Za-z0-9][A-Za-z0-9_.-]{{0,127}}/{JOBS}/[A-Za-z0-9][A-Za-z0-9_.-]{{0,255}}\Z"  # what can be kept and asked for
_STATES: Mapping[str, State] = {
    **dict.fromkeys(("CREATING", "PENDING", "VALIDATING", "RE_QUEUEING", "CREATING_INPUT_DATASET"), State.QUEUED),
    **dict.fromkeys(("RUNNING", "WRITING_RESULTS", "IDLE", "CANCELLING", "PAUSED"), State.RUNNING),
    **dict.fromkeys(("COMPLETED", "EARLY_STOPPED"), State.COMPLETED),
    **dict.fromkeys(("FAILED", "EXPIRED", "DELETING", "DELETING_CLEANING_UP"), State.FAILED),
    "CANCELLED": State.CANCELED,
}
_SENT_AS = {"epochs": "epochs", "learning_rate": "learningRate", "batch_size": "batchSize", "lora_rank": "loraRank"}


class Status(msgspec.Struct):
    """What an operation ended with."""

    code: str | None = None
    message: str | None = None


class Dataset(msgspec.Struct, rename="camel"):
    """A dataset; ``state`` READY means whole and checked."""

    name: str
    state: str | None = None
    status: Status | None = None
    estimated_token_count: str | int | None = None

    @property
    def fault(self) -> str | None:
        """Why it never becomes ready; None where nothing is said against it."""
        if self.status is None or self.status.code in (None, "OK", ""):
            return None
        return self.status.message or self.status.code


class JobAnswer(msgspec.Struct, rename="camel"):
    """A job; ``output_model`` is named long before it exists."""

    name: Annotated[str, msgspec.Meta(pattern=_JOB)]
    state: str | None = None
    status: Status | None = None
    dataset: str | None = None
    base_model: str | None = None
    display_name: str | None = None
    output_model: str | None = None
    epochs: Any = None
    job_progress: Any = None
    estimated_cost: Any = None


class ModelAnswer(msgspec.Struct, rename="camel"):
    """A model of the library."""

    name: str
    display_name: str | None = None
    context_length: int | None = None
    training_context_length: int | None = None
    supports_tools: bool | None = None
    supervised_lora_tunable: bool | None = None
    supervised_full_parameter_tunable: bool | None = None


class DeploymentAnswer(msgspec.Struct, rename="camel"):
    """A deployment; a deleted one is still told of for a while."""

    name: str
    base_model: str
    state: str | None = None


def resource(name: str, kind: str) -> str:
    """The path of a resource by its name, ``accounts/acme/models/town``.

    Raises:
        Invalid: it names something else.
    """
    found = _NAME.fullmatch(name)
    if found is None or found[1] != kind:
        raise Invalid(
            f"不是 Fireworks 的资源名：{name[:80]!r}，应为 accounts/…/{kind}/…",
            f"{name[:80]!r} names nothing at Fireworks: accounts/…/{kind}/… is expected",
            field="id",
        )
    return f"/v1/{name}"


def last(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rsplit("/", 1)[-1]


def base_model(model: str) -> str:
    """A base model's resource name, whether it is named whole or by its id in Fireworks' library alone."""
    return model if "/" in model else f"accounts/fireworks/models/{model}"


def display(title: str, tag: str) -> str:
    """A name for people that still tells the tag: it is found again by that, should the id not be ours."""
    return f"{UNPRINTABLE.sub(' ', title).strip()[: _LONGEST_DISPLAY - len(tag) - 1]} {tag}".strip()


def has_tag(job: JobAnswer, tag: str) -> bool:
    """Whether the job was made with the tag."""
    shown = job.display_name or ""
    return last(job.name) == tag or shown == tag or shown.endswith(f" {tag}")


def job_body(order: HostedOrder, training: str, validation: str | None) -> dict[str, Any]:
    """What a job is created with; what is not set is Fireworks' own default."""
    return {
        "dataset": training,
        "baseModel": base_model(order.model),
        "displayName": display(order.title, order.tag),
        **({"evaluationDataset": validation} if validation is not None else {}),
        **{wire: order.parameters[name] for name, wire in _SENT_AS.items() if name in order.parameters},
    }


def deployment_body(tag: str, output_model: str) -> dict[str, Any]:
    """What keeps a tuned model ready: nothing runs, and nothing is paid, while nobody asks.

    The shape is the service's choice: it knows which hardware takes the model, and warns of deployments without one.
    """
    return {
        "baseModel": output_model,
        "displayName": display(last(output_model), tag) if last(output_model) != tag else tag,
        "description": f"tunesmith {tag}",
        "deploymentShape": "default",
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleUpWindow": "30s", "scaleDownWindow": "300s", "scaleToZeroWindow": "300s"},
    }


def hosted_job(job: JobAnswer, raw: Mapping[str, Any]) -> HostedJob:
    """The job as every provider's is told of."""
    word = job.state or f"{_PREFIX}UNSPECIFIED"
    state = _STATES.get(word.removeprefix(_PREFIX))
    status = job.status or Status()
    tokens = _number(_of(job.job_progress, "inputTokens"))
    return HostedJob(
        id=job.name,
        word=word,
        state=state,
        message=status.message or None,
        progress=_progress(job, state),
        output_model=job.output_model if state is State.COMPLETED else None,
        cost=_cost(job.estimated_cost, final=state is not None and state.final),
        tokens=int(tokens) if tokens else None,
        raw=raw,
    )


def hosted_model(model: ModelAnswer) -> HostedModel | None:
    """The model, if it can be tuned."""
    if not (model.supervised_lora_tunable or model.supervised_full_parameter_tunable):
        return None
    tail = last(model.name)
    return HostedModel(
        id=model.name,
        name=f"{model.display_name} ({tail})" if model.display_name else tail,
        strategies=strategies(tail),
        tools=bool(model.supports_tools),
        context_length=model.training_context_length or model.context_length or None,
    )


def strategies(model: str) -> tuple[str, ...]:
    """Which strategies training for a model accepts, by its id: some always think, some may, others never do."""
    r1 = "final_and_intermediate_r1_compatible"
    tail = last(model).lower()
    if "qwen3" in tail:
        return "final_only", r1
    if "r1" in tail or "qwq" in tail:
        return (r1,)
    return "final_only", "two_message_cot"


def hosted_deployment(deployment: DeploymentAnswer, raw: Mapping[str, Any]) -> Deployment:
    """The deployment as every provider's is told of; a chat asks for the model at this very deployment."""
    word = deployment.state or "STATE_UNSPECIFIED"
    return Deployment(
        id=deployment.name,
        model=f"{deployment.base_model}#{deployment.name}",
        ready=word == "READY",
        word=word,
        raw=struck(raw),
    )


def _progress(job: JobAnswer, state: State | None) -> Progress:
    """Percent of the whole as steps of a hundred: Fireworks tells percent of an epoch, and counts epochs from 0."""
    percent, epoch = _number(_of(job.job_progress, "percent")), _number(_of(job.job_progress, "epoch"))
    if percent is None:
        return Progress()
    epochs = max(1.0, _number(job.epochs) or 1.0)
    done = epochs if state is State.COMPLETED else min(epochs, max(0.0, epoch or 0.0) + min(100.0, percent) / 100)
    return Progress(step=math.floor(100 * done / epochs), total_steps=100, epoch=done)


def _cost(value: Any, *, final: bool) -> Cost | None:
    units, nanos = _number(_of(value, "units")), _number(_of(value, "nanos"))
    if units is None and nanos is None:
        return None
    currency = _of(value, "currencyCode")
    known = isinstance(currency, str) and re.fullmatch(r"[A-Z]{3}", currency)
    return Cost((units or 0.0) + (nanos or 0.0) / 1e9, str(currency) if known else "USD", estimated=not final)


def _of(value: Any, field: str) -> Any:
    return value.get(field) if isinstance(value, dict) else None


def _number(value: Any) -> float | None:
    """A number that is none below zero, however it is written; gRPC's gateway writes large ones as strings."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1e18 else None  # more is nonsense, and more than a database holds
