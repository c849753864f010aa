"""The providers that the contract is held against, each with its stand-in; the fake one with its books."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from tests.upstreams.fireworks_api import fireworks_api
from tests.upstreams.together_api import QWEN, together_api
from tunesmith.kernel.problems import Forbidden, Problem, TimedOut
from tunesmith.training.executors.fireworks import Fireworks
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.executors.together import Together
from tunesmith.training.hosted.provider import Provider
from tunesmith.training.hosted.wire import Waits
from tunesmith.training.run import State


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider and its stand-in.

    Attributes:
        words: of states queued, running and completed.
        model: that can be tuned there.
        sent: files that have arrived at a stand-in.
        create: the ``METHOD path`` that creates a job.
        deploying: those that change something where a model is deployed, in order.
        paid: deployments at a stand-in that are paid for.
    """

    name: str
    stand_in: Callable[[], AbstractContextManager[Any]]
    provider: Callable[[Any, Callable[[], str | None], Waits], Provider]
    words: Mapping[State, str]
    model: str
    sent: Callable[[Any], int]
    create: str
    deploying: tuple[str, ...]
    paid: Callable[[Any], int]


@dataclass(slots=True)
class ScriptedApi:
    """The books of a ``ScriptedProvider``, with a stand-in's verbs as far as it has anything like them."""

    books: Path
    refusals: dict[str, list[Problem]]
    calls: list[str]
    key: str = "none"

    def provider(self) -> ScriptedProvider:
        return ScriptedProvider(self.books, script=("pending",), refusals=self.refusals, calls=self.calls)

    @property
    def requests(self) -> list[str]:
        writing = ("upload", "create", "stop", "deploy", "undeploy")
        return [f"{'POST' if call.removesuffix(' done') in writing else 'GET'} {call}" for call in self.calls]

    @property
    def jobs(self) -> dict[str, Any]:
        return {str(row["id"]): row for row in self.provider().jobs()}

    @property
    def asked(self) -> dict[str, Any]:
        return self.jobs

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return list(self.provider()._rows(kind))

    def advance(self, job: str, word: str) -> None:
        self.provider().advance(job, word)

    def accept_then_hang(self, at: str = "create") -> None:
        self.refusals[f"{at} done"] = [TimedOut("没有回答", "no answer", uncertain=True)]

    accept_then_close = accept_then_hang

    def refuse(self, status: int, *, at: str, times: int) -> None:
        self.refusals[at] = [Forbidden("拒绝", "refused", upstream_status=status)] * times


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    with TemporaryDirectory() as folder:
        yield ScriptedApi(Path(folder) / "books", {}, [])


def url_of(address: str) -> Any:
    """A stand-in that is nowhere else than at that address."""
    return SimpleNamespace(url=address)


KINDS = (
    Kind(
        "together",
        together_api,
        lambda api, key, waits: Together(f"{api.url}/v1", key, waits=waits, again_s=0.01),
        {State.QUEUED: "queued", State.RUNNING: "running", State.COMPLETED: "completed"},
        QWEN,
        lambda api: len(api.files),
        "POST /v1/fine-tunes",
        ("POST */endpoints", "POST */deployments", "PATCH */endpoints/ep_*"),
        lambda api: sum(len(each["deployments"]) for each in api.endpoints.values()),
    ),
    Kind(
        "fireworks",
        fireworks_api,
        lambda api, key, waits: Fireworks(api.url, key, waits=waits, ready_s=0.0, poll_s=0.01),
        {State.QUEUED: "PENDING", State.RUNNING: "RUNNING", State.COMPLETED: "COMPLETED"},
        "accounts/fireworks/models/qwen3-8b",
        lambda api: sum(map(len, api.files.values())),
        "POST /v1/accounts/acme/supervisedFineTuningJobs",
        ("POST */deployments",),
        lambda api: sum(each["state"] != "DELETED" for each in api.deployments.values()),
    ),
    Kind(
        "scripted",
        scripted_api,
        lambda api, key, waits: api.provider(),
        {State.QUEUED: "pending", State.RUNNING: "running", State.COMPLETED: "completed"},
        "scripted/model",
        lambda api: len(api.rows("file")),
        "create",
        ("deploy",),
        lambda api: len(api.rows("deployment")) - len({row["id"] for row in api.rows("undeploy")}),
    ),
)
on_a_wire = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name != "scripted"], ids=lambda kind: kind.name
)
