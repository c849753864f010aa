"""The port to a provider of hosted fine-tuning. One implementation a provider; everything above is shared.

A provider's job is found again by its tag, which we choose before it exists and which the provider stores: whoever dies
between asking for a job and writing down its id asks for the tag afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from tunesmith.training.executor import Parameter
from tunesmith.training.run import Progress, State

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A file of examples as the provider reads them, on this machine.

    Attributes:
        sha256: of its bytes, hexadecimal.
        examples: lines in it.
    """

    path: Path
    sha256: str
    size_bytes: int
    examples: int


@dataclass(frozen=True, slots=True)
class HostedOrder:
    """What a provider is asked to do.

    Attributes:
        tag: ours, unique, 1 to 32 of ``a-z0-9-``, beginning with a letter; stored by the provider with all it makes.
        title: what a person called the job.
        model: the base model's id at the provider.
        parameters: as checked against ``Provider.parameters``; what is absent is the provider's own default.
    """

    tag: str
    title: str
    model: str
    parameters: Mapping[str, Value]
    training: TrainingFile
    validation: TrainingFile | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money, as the provider tells it.

    Attributes:
        amount: in units of ``currency`` (ISO 4217), e.g. 1.25 USD.
        estimated: it may still change.
    """

    amount: float
    currency: str = "USD"
    estimated: bool = True


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job, in the provider's words."""

    at: datetime | None
    kind: str
    message: str
    level: str = "info"
    step: int | None = None


@dataclass(frozen=True, slots=True)
class HostedJob:
    """Where a provider's job stands.

    Attributes:
        word: the provider's own name of its state, as it came.
        state: what that means; None where we have never seen the word.
        message: why it failed, or what it says, in the provider's language.
        output_model: the tuned model's id at the provider, once there is one.
        tokens: trained tokens that are billed.
        raw: the provider's answer, whole.
    """

    id: str
    word: str
    state: State | None
    message: str | None = None
    progress: Progress = field(default_factory=Progress)
    output_model: str | None = None
    cost: Cost | None = None
    tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A base model that the provider tunes.

    Attributes:
        strategies: values of ``Strategy`` that training for it accepts.
        tools: whether examples may call tools.
        limits: what the provider says of its parameters, in our parameters' names; empty where it says nothing.
    """

    id: str
    name: str
    strategies: tuple[str, ...] = ("final_only",)
    tools: bool = False
    context_length: int | None = None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would take.

    Attributes:
        cost: None where the provider does not say; ``reason`` then says why, Chinese and English.
        tokens: trained tokens over all epochs.
    """

    cost: Cost | None
    tokens: int | None
    steps: int | None = None
    reason: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A tuned model kept ready at the provider, paid for by the minute.

    Attributes:
        id: what undeploying names.
        model: what is asked for in a chat request.
        ready: whether it answers now.
        word: the provider's own name of its state.
    """

    id: str
    model: str
    ready: bool
    word: str
    raw: Mapping[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """One provider of hosted fine-tuning.

    Every verb raises ``Unavailable`` where trying later may help (429, 5xx, no connection, no answer in time), and
    another ``Problem`` where it will not (401, 402, 403, 404, 400, 422), with the provider's own words in ``en`` and
    ``zh`` and the raw answer in ``details["raw"]``. No key is ever part of a message.
    """

    name: str
    label: str

    def parameters(self) -> Sequence[Parameter]:
        """What a job may set here, by Kiln's names, with default, range and choices."""
        ...

    async def models(self) -> Sequence[HostedModel]:
        """The base models that can be tuned now."""
        ...

    async def upload(self, tag: str, file: TrainingFile) -> str:
        """The provider's id of the file, which is uploaded unless one of this tag is there already and whole."""
        ...

    async def find(self, tag: str) -> HostedJob | None:
        """The job that was made with the tag; None where there is none. Reads every page of the list."""
        ...

    async def create(self, order: HostedOrder, training: str, validation: str | None) -> HostedJob:
        """A new job with those uploaded files.

        A time-out raises ``TimedOut``: the job may exist all the same, and ``find`` tells.
        """
        ...

    async def look(self, job_id: str) -> HostedJob:
        """Where the job stands. Only reads."""
        ...

    async def stop(self, job_id: str) -> None:
        """Ask the job to stop; stopping one that has ended is fine."""
        ...

    async def events(self, job_id: str) -> Sequence[JobEvent]:
        """What happened to the job, oldest first; empty where the provider does not tell."""
        ...

    async def estimate(self, order: HostedOrder, training: str | None) -> Estimate:
        """What the job would take; ``training`` is the uploaded file where there is one. Creates nothing."""
        ...

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        """Keep the tuned model ready for chat; costs money. Finds the deployment of this tag where there is one.

        Raises:
            Unavailable: something may be there and cost money all the same; ``find_deployment`` tells.
            Problem: refused, and nothing that costs money is left of it.
        """
        ...

    async def find_deployment(self, tag: str) -> Deployment | None:
        """The deployment of this tag, or the beginning of one; None where there is none. Only reads."""
        ...

    async def deployment(self, deployment_id: str) -> Deployment | None:
        """Where a deployment stands; None where it is gone."""
        ...

    async def undeploy(self, deployment_id: str) -> None:
        """End a deployment; ending one that is gone is fine."""
        ...

    async def download(self, job_id: str, to: Path) -> None:
        """The adapter's files as PEFT keeps them, into the empty folder ``to``.

        Raises:
            Unsupported: the provider does not hand adapters out.
        """
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
