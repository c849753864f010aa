"""A FAKE provider, for tests of whatever speaks the port: it trains nothing, and its books outlive who asks.

The books are a file of JSON lines, appended to and never changed, so that a process that asks may be killed at any
moment while the provider, as a real one, remembers what it was asked for.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.kernel.problems import NotFound, Problem, Unsupported
from tunesmith.training.executor import Parameter
from tunesmith.training.hosted import parameters
from tunesmith.training.hosted.provider import (
    Cost,
    Deployment,
    Estimate,
    HostedJob,
    HostedModel,
    HostedOrder,
    JobEvent,
    TrainingFile,
)
from tunesmith.training.run import Progress, State

_STATES = {
    "pending": State.QUEUED,
    "running": State.RUNNING,
    "completed": State.COMPLETED,
    "error": State.FAILED,
    "cancelled": State.CANCELED,
}


@dataclass(slots=True)
class ScriptedProvider:
    """Jobs say ``script`` one word a look, the last for ever; a word it does not know itself has no state.

    Attributes:
        books: where it remembers; made when first written to.
        script: words of states, in order.
        refusals: raised by the verb of that name, once each, in order; a Problem of "create answered" is raised after
            the job was made.
        at: told of each point that is passed: "upload", "upload done", "create", "create done", "deploy", "deploy done".
        calls: verbs in the order they were called by this process.
    """

    books: Path
    script: Sequence[str] = ("pending", "running", "completed")
    refusals: dict[str, list[Problem]] = field(default_factory=dict)
    at: Callable[[str], None] = lambda point: None
    name: str = "together_ai"
    label: str = "Scripted (fake)"
    calls: list[str] = field(default_factory=list)

    def parameters(self) -> Sequence[Parameter]:
        """Together's."""
        return parameters.TOGETHER

    async def models(self) -> Sequence[HostedModel]:
        """One that is not there."""
        self._pass("models")
        return [HostedModel("scripted/model", "Scripted", ("final_only", "two_message_cot"))]

    async def upload(self, tag: str, file: TrainingFile) -> str:
        """Note the file unless one of this tag is there."""
        self._pass("upload")
        known = next((row for row in self._rows("file") if row["tag"] == tag), None)
        if known is None:
            size = file.path.stat().st_size
            known = self._note(kind="file", tag=tag, id=f"file-{tag}", sha256=file.sha256, bytes=size)
        self._pass("upload done")
        return str(known["id"])

    async def find(self, tag: str) -> HostedJob | None:
        """The job of that tag."""
        self._pass("find")
        return next((self._job(row["id"]) for row in self._rows("job") if row["tag"] == tag), None)

    async def create(self, order: HostedOrder, training: str, validation: str | None) -> HostedJob:
        """Note a job, however many of this tag there are: keeping them apart is not a provider's business."""
        self._pass("create")
        count = sum(1 for _ in self._rows("job"))
        asked = {"model": order.model, "parameters": dict(order.parameters), "title": order.title}
        self._note(kind="job", id=f"job-{count + 1}", tag=order.tag, files=[training, validation], **asked)
        self._pass("create done")
        return self._job(f"job-{count + 1}")

    async def look(self, job_id: str) -> HostedJob:
        """The next word of the script, or that the job was stopped."""
        self._pass("look")
        job = self._job(job_id)
        self._note(kind="look", id=job_id)
        return job

    async def stop(self, job_id: str) -> None:
        """Note it."""
        self._pass("stop")
        self._job(job_id)
        self._note(kind="stop", id=job_id)

    async def events(self, job_id: str) -> Sequence[JobEvent]:
        """One a look."""
        self._pass("events")
        return [JobEvent(None, "look", "looked at") for row in self._rows("look") if row["id"] == job_id]

    async def estimate(self, order: HostedOrder, training: str | None) -> Estimate:
        """A cent an example."""
        self._pass("estimate")
        return Estimate(Cost(order.training.examples / 100), None)

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        """Note it unless one of this tag is there."""
        self._pass("deploy")
        found = self._live(tag)
        if found is None:
            count = sum(1 for _ in self._rows("deployment"))
            self._note(kind="deployment", tag=tag, id=f"deployment-{count + 1}", model=output_model)
            found = self._live(tag)
        self._pass("deploy done")
        assert found is not None
        return found

    async def find_deployment(self, tag: str) -> Deployment | None:
        """The one of that tag that was not ended."""
        self._pass("find_deployment")
        return self._live(tag)

    async def deployment(self, deployment_id: str) -> Deployment | None:
        """The one of that id, until it is ended."""
        self._pass("deployment")
        if any(row["id"] == deployment_id for row in self._rows("undeploy")):
            return None
        found = (row for row in self._rows("deployment") if row["id"] == deployment_id)
        return next((Deployment(row["id"], row["model"], True, "READY", row) for row in found), None)

    async def undeploy(self, deployment_id: str) -> None:
        """Note it."""
        self._pass("undeploy")
        self._note(kind="undeploy", id=deployment_id)

    async def download(self, job_id: str, to: Path) -> None:
        """It trained nothing.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("此假提供商没有适配器", "this fake provider has no adapters")

    async def close(self) -> None:
        """Nothing is open."""

    def advance(self, job_id: str, word: str) -> None:
        """Have the job say that word from now on, whatever the script says."""
        self._note(kind="word", id=job_id, word=word)

    def jobs(self) -> Sequence[Mapping[str, Any]]:
        """Every job that was made, for tests."""
        return list(self._rows("job"))

    def _job(self, job_id: str) -> HostedJob:
        row = next((row for row in self._rows("job") if row["id"] == job_id), None)
        if row is None:
            raise NotFound(f"没有任务 {job_id}", f"there is no job {job_id}", raw={"id": job_id})
        looks = sum(each["id"] == job_id for each in self._rows("look"))
        end = len(self.script) - 1
        told = [each["word"] for each in self._rows("word") if each["id"] == job_id]
        word = told[-1] if told else self.script[min(looks, end)]
        state = _STATES.get(word)
        if any(each["id"] == job_id for each in self._rows("stop")) and not (state is not None and state.final):
            word, state = "cancelled", State.CANCELED
        return HostedJob(
            job_id,
            word,
            state,
            message="it did not converge" if state is State.FAILED else None,
            progress=Progress(min(looks, end), end, loss=1 / (1 + min(looks, end))),
            output_model=f"me/{row['tag']}" if state is State.COMPLETED else None,
            cost=Cost(1.25, estimated=state is not State.COMPLETED),
            tokens=1000 if state is State.COMPLETED else None,
            raw={**row, "word": word},
        )

    def _live(self, tag: str) -> Deployment | None:
        ended = {row["id"] for row in self._rows("undeploy")}
        found = (row for row in self._rows("deployment") if row["tag"] == tag and row["id"] not in ended)
        return next((Deployment(row["id"], row["model"], True, "READY", row) for row in found), None)

    def _pass(self, point: str) -> None:
        self.calls.append(point)
        self.at(point)
        if self.refusals.get(point):
            raise self.refusals[point].pop(0)

    def _rows(self, kind: str) -> Iterator[dict[str, Any]]:
        if not self.books.exists():
            return
        for line in self.books.read_bytes().splitlines():
            row = json.loads(line)
            if row["kind"] == kind:
                yield row

    def _note(self, **row: Any) -> dict[str, Any]:
        with self.books.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
        return row
