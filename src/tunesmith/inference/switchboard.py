"""Which engine answers a row: this machine's, or the provider's that tuned the model.

A tuned model at a provider is a ``Model`` like any other: its base is ``hosted/<provider>/<the base's id there>``, what it
wears is ``hosted/<job id>``. So chat, compare and evaluation ask for it through the one port, and ``bare()`` is the base
at the same provider. The prefix is reserved: a base model in a folder ``models/hosted/<provider>`` cannot be asked for.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from tunesmith.inference.engine import Engine, Event, Reference, Request, Score
from tunesmith.inference.merge import merged
from tunesmith.models.model import Model

PREFIX = "hosted/"
_JOB = re.compile(r"[0-9A-Za-z-]{1,64}")


def tuned_model(job_id: str, provider: str, base: str) -> Model:
    """The model that the job made.

    Args:
        base: the base model's id at the provider.
    """
    return Model(f"{PREFIX}{provider}/{base}", f"{PREFIX}{job_id}")


def job_of(name: str) -> str | None:
    """The job id in ``hosted/<job id>``; None where the name is none of these."""
    job_id = name.removeprefix(PREFIX)
    return job_id if job_id != name and _JOB.fullmatch(job_id) else None


def provider_of(model: Model) -> str | None:
    """The provider that answers for the model; None where this machine does, and has its folders."""
    provider, slash, _ = model.base.removeprefix(PREFIX).partition("/")
    return provider if slash and model.base.startswith(PREFIX) else None


class HostedNames:
    """What ``hosted/<job id>`` means, for whoever turns names into models. Blocking.

    Args:
        origin: the provider and the base model's id there of a hosted job; None where there is no such job.
        deployed: ids of the jobs whose model is deployed.
    """

    def __init__(
        self, origin: Callable[[str], tuple[str, str] | None], deployed: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._origin, self._deployed = origin, deployed

    def find(self, name: str) -> Model | None:
        """The tuned model of that name; None where it names none."""
        job_id = job_of(name)
        origin = self._origin(job_id) if job_id else None
        return tuned_model(job_id, *origin) if job_id and origin else None

    def list(self) -> list[str]:
        """Names of the tuned models that are deployed."""
        return [f"{PREFIX}{job_id}" for job_id in self._deployed()]


class Switchboard:
    """An ``Engine`` over several: rows of a hosted base go to its provider's, all others to ``local``.

    Args:
        hosted: by the provider's name.
    """

    def __init__(self, local: Engine, hosted: Mapping[str, Engine]) -> None:
        self._local, self._hosted = local, hosted

    def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Rows of several engines run side by side."""
        rows_of: dict[Engine, list[int]] = {}
        for row, request in enumerate(requests):
            rows_of.setdefault(self._engine(request.model), []).append(row)
        if len(rows_of) == 1:  # nearly every call: nothing between the engine and its reader
            [engine] = rows_of
            return engine.generate(requests)
        return merged([_part(engine, rows, requests) for engine, rows in rows_of.items()])

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """See ``Engine.score``."""
        indexes_of: dict[Engine, list[int]] = {}
        for index, reference in enumerate(references):
            indexes_of.setdefault(self._engine(reference.model), []).append(index)
        found: dict[int, Score] = {}
        for engine, indexes in indexes_of.items():
            scores = await engine.score([references[index] for index in indexes])
            found |= dict(zip(indexes, scores, strict=True))
        return [found[index] for index in range(len(references))]

    def _engine(self, model: Model) -> Engine:
        provider = provider_of(model)
        return self._local if provider is None else self._hosted.get(provider, self._local)


async def _part(engine: Engine, rows: Sequence[int], requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
    """The rows of one engine, numbered as in the whole call."""
    async with aclosing(engine.generate([requests[row] for row in rows])) as events:
        async for event in events:
            yield replace(event, row=rows[event.row])
