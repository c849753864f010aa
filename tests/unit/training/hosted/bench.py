"""A job that completed at a scripted provider, on real folders and tables."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tunesmith.datasets.export.sample import Strategy
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import NotFound, Problem
from tunesmith.models.registry import Registry
from tunesmith.training.hosted.deployments import DeploymentService
from tunesmith.training.hosted.provider import Deployment
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.jobs.job import Job, JobNotes, Status
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import RunStore

OWNER, OTHER = Caller("ada"), Caller("bob")
RUN = "0123456789abcdef0123456789abcdef"
REMOTE, MINE = "together_ai", "local"


class Scripted:
    """A scripted provider's deployments and adapter files; the rest of the port is not asked here.

    Attributes:
        there: deployments by id, with the tag they were made for.
        made: how many were made.
        fails: raised by the next call of the verb of that name, before or ("after_…") after it did its work.
        files: what ``download`` writes.
    """

    name, label = REMOTE, "Together AI"

    def __init__(self) -> None:
        self.there: dict[str, tuple[str, Deployment]] = {}
        self.made = 0
        self.fails: dict[str, Problem] = {}
        self.files: Callable[[Path], None] = lambda to: None
        self.ready, self.called, self.gate = True, asyncio.Event(), asyncio.Event()
        self.gate.set()

    def _may_fail(self, verb: str) -> None:
        if verb in self.fails:
            raise self.fails.pop(verb)

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        self._may_fail("deploy")
        self.called.set()
        await self.gate.wait()
        found = next((each for of, each in self.there.values() if of == tag), None)
        if found is None:
            self.made += 1
            found = Deployment(f"dep-{self.made}", f"{output_model}#live", self.ready, "STARTED", {"since": 1})
            self.there[found.id] = tag, found
        self._may_fail("after_deploy")
        return found

    async def find_deployment(self, tag: str) -> Deployment | None:
        self._may_fail("find_deployment")
        return next((each for of, each in self.there.values() if of == tag), None)

    async def deployment(self, deployment_id: str) -> Deployment | None:
        self._may_fail("deployment")
        found = self.there.get(deployment_id)
        return found and found[1]

    async def undeploy(self, deployment_id: str) -> None:
        self._may_fail("undeploy")
        self.there.pop(deployment_id, None)

    async def download(self, job_id: str, to: Path) -> None:
        assert job_id == "ft-1"
        await asyncio.to_thread(self.files, to)
        self._may_fail("download")


class Kept:
    """Jobs as their service reads them, over the real tables."""

    def __init__(self, database: Database, provider: str) -> None:
        self._runs, self.hosted, self._provider = RunStore(database), HostedStore(database), provider

    def get(self, job_id: str, caller: Caller) -> Job:
        run = self._runs.get(job_id)
        if not caller.sees(run.owner):
            raise NotFound(f"没有 {job_id}", f"no {job_id}")
        notes = JobNotes(
            run_id=run.id,
            name="town",
            provider=self._provider,
            model="acme/base-Reference",
            strategy=Strategy.TWO_MESSAGE,
            parameters={},
            system_message="你是客服。",
            thinking_instructions="想一想",
        )
        kept = self.hosted.get(job_id)
        status = Status.COMPLETED if run.state is State.COMPLETED else Status.RUNNING
        return Job(run, notes, status, kept.news if kept else None)


class Bench:
    """The service on real folders and tables, with one job that has completed; ``again`` is another process."""

    def __init__(self, home: Home, *, provider: str = REMOTE, state: State = State.COMPLETED) -> None:
        self.home, self.at, self.scripted = home, provider, Scripted()
        self.database = Database(f"sqlite:///{home.root}/tunesmith.db")
        self.database.migrate()
        run = Run(
            id=RUN,
            recipe=Recipe("acme/base", "data/town.jsonl"),
            output="adapters/town",
            executor=provider,
            created_at=datetime.now(UTC),
            state=state,
            owner=OWNER.name,
        )
        RunStore(self.database).add(run)
        if provider == REMOTE:
            store = HostedStore(self.database)
            kept = store.begin(RUN, provider, "town", {})
            store.save(kept, replace(kept.news, job_id="ft-1", output_model="acme/town-tuned"))
        self.service = self.again()

    def again(self, later: timedelta = timedelta()) -> DeploymentService:
        self.jobs = Kept(self.database, self.at)
        places, registry = {REMOTE: self.scripted}, Registry(self.home)
        clock = lambda: datetime.now(UTC) + later  # noqa: E731
        return DeploymentService(places, self.jobs, self.jobs.hosted, self.home, registry, clock)  # type: ignore[arg-type]

    @property
    def record(self) -> Any:
        kept = self.jobs.hosted.get(RUN)
        return kept and kept.news.deployment
