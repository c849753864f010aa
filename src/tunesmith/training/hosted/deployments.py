"""A tuned model comes home: kept ready at its provider, which costs money, or its adapter fetched to this machine.

deploy      recorded as asked for, asked for, recorded as it stands; found again by the run's tag after any crash
undeploy    recorded as ending, ended, forgotten; one whose id was lost is found by the run's tag
status      asks the provider where a deployment stands
asked       what a chat with it sends
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from tunesmith.datasets.export.sample import Strategy
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound, Problem, Unavailable, Unsupported
from tunesmith.models.registry import Registry
from tunesmith.training.hosted import homecoming
from tunesmith.training.hosted.provider import Deployment, Provider
from tunesmith.training.jobs.job import HostedNews, Job
from tunesmith.training.run import State

_ASKED, _ENDING = "ASKED", "ENDING"  # our words, while the provider has said none
_PRICES = {"together_ai": "https://www.together.ai/pricing", "fireworks_ai": "https://fireworks.ai/pricing"}
_LAST_S = 5.0
_SETTLE = timedelta(seconds=120)  # what was asked for without an answer is there by then, or never will be
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_Found = TypeVar("_Found")


class Jobs(Protocol):
    """Where jobs are read; blocking."""

    def get(self, job_id: str, caller: Caller) -> Job:
        """The job; NotFound where the caller sees none of that id."""
        ...


class Record(Protocol):
    """Where a hosted job's deployment is kept; blocking."""

    def deployed(self, run_id: str, deployment: Mapping[str, Any] | None) -> None:
        """Keep that as the run's ``HostedNews.deployment``."""
        ...

    def deployments(self) -> Mapping[str, Mapping[str, Any]]:
        """What is kept, by run."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """How a tuned model is asked: by which name at the provider, and as it was trained."""

    model: str
    strategy: Strategy
    system_message: str | None = None
    thinking_instructions: str | None = None


class DeploymentService:
    """Deployments of tuned models, and their adapters. Another's job is answered like a missing one.

    Args:
        providers: by name: "together_ai", "fireworks_ai".
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        jobs: Jobs,
        record: Record,
        home: Home,
        registry: Registry,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._providers, self._jobs, self._record = providers, jobs, record
        self._home, self._registry, self._clock = home, registry, clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def deploy(self, job_id: str, caller: Caller, *, confirm: bool) -> Deployment:
        """Have the provider keep the tuned model ready for chat; costs money until ``undeploy``.

        What is deployed and ready is not deployed again; of what is there and is not ready the provider is asked once
        more. It goes on when the caller leaves.

        Raises:
            NotFound: no such job. Unsupported: a job of this machine needs no deployment.
            Conflict: it has not completed; or ``confirm`` is false, and what is known of the cost.
            Unavailable: the provider does not answer. It may have deployed all the same: ask again, which finds it.
            Problem: what else the provider says; nothing was deployed.
        """
        return await self._to_the_end(self._deploy(job_id, caller, confirm=confirm))

    async def undeploy(self, job_id: str, caller: Caller) -> None:
        """End the deployment; twice is fine.

        Raises:
            NotFound: no such job.
            Unavailable: the provider does not answer, or what was asked for a moment ago may yet turn up there: it may
                cost money still, so ask again.
        """
        await self._to_the_end(self._undeploy(job_id, caller))

    async def status(self, job_id: str, caller: Caller) -> Deployment | None:
        """Where the deployment stands now; None where there is none. Only reads at the provider.

        One whose deploying was cut off is found by the run's tag; its id is "" while it may yet turn up there.

        Raises:
            NotFound: no such job. Unavailable: the provider does not answer; what is recorded stays.
        """
        lock = self._lock(job_id)
        if lock.locked():  # it is being deployed or ended: what is recorded says so
            return _recorded((await self._job(job_id, caller)).hosted)
        async with lock:
            job = await self._job(job_id, caller)
            known = _recorded(job.hosted)
            return None if known is None else await self._looked(job, known)

    async def asked(self, job_id: str) -> Asked:
        """What a chat with the tuned model sends.

        Raises:
            NotFound: no hosted job of that id. Conflict: it is not deployed.
            Unavailable: it is deployed and does not answer yet.
        """
        job = await self._job(job_id, LOCAL)
        known = _recorded(job.hosted)
        if known is not None and not known.ready and known.word != _ENDING:
            known = await self.status(job_id, LOCAL)
        if known is None or known.word == _ENDING:
            raise Conflict(
                f"模型 hosted/{job_id} 未部署：部署会产生费用，请先确认部署该微调作业",
                f"hosted/{job_id} is not deployed: deploying costs money, so deploy the job's model first and confirm it",
                job_id=job_id,
            )
        if not known.id:
            raise Unavailable(
                f"模型 hosted/{job_id} 正在部署，或部署中途被打断：若迟迟不就绪，请再次部署（会找到已有的，不会重复）或取消部署",
                f"hosted/{job_id} is being deployed, or its deploying was cut off: where it does not become ready, deploy it "
                "again (which finds what is there already) or undeploy it",
                job_id=job_id,
                state=known.word,
            )
        if not known.ready:
            raise Unavailable(
                f"模型 hosted/{job_id} 已部署但尚未就绪（{known.word}），请稍后重试；若一直如此，请再次部署或取消部署",
                f"hosted/{job_id} is deployed and not ready ({known.word}): ask again later, and where that lasts, deploy it "
                "again or undeploy it",
                job_id=job_id,
                state=known.word,
            )
        notes = job.notes
        return Asked(known.model, notes.strategy, notes.system_message, notes.thinking_instructions)

    def origin(self, job_id: str) -> tuple[str, str] | None:
        """The provider of a hosted job and the base model's id there; None where there is no such job. Blocking."""
        try:
            job = self._jobs.get(job_id, LOCAL)
        except NotFound:
            return None
        return (job.notes.provider, job.notes.model) if job.notes.provider in self._providers else None

    def deployed(self) -> list[str]:
        """Ids of the jobs whose model is deployed, as last told. Blocking."""
        return [run_id for run_id, kept in self._record.deployments().items() if kept.get("ready") is True]

    async def download_adapter(self, job_id: str, caller: Caller) -> str:
        """The name under home of the tuned model's adapter, fetched unless it is there: an adapter like any other.

        ``missing_base`` says whether it can be asked on this machine.

        Raises:
            NotFound: no such job. Unsupported: it is of this machine, or the provider does not hand adapters out.
            Conflict: it has not completed, or something else lies where the adapter belongs.
            Invalid: what the provider gave is no usable adapter, and why; nothing of it is kept.
            Unavailable: the provider does not answer, or the disk is nearly full.
        """
        async with self._lock(f"{job_id}/adapter"):
            job, provider, hosted, _ = await self._completed(job_id, caller)
            if await asyncio.to_thread(homecoming.is_here, self._home, job):
                return job.run.output
            assert hosted.job_id is not None  # a job that has completed has one
            folder = await asyncio.to_thread(self._scratch, job.run.id)
            try:
                await provider.download(hosted.job_id, folder)
                return await asyncio.to_thread(homecoming.publish, self._home, self._registry, job, folder)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def missing_base(self, adapter: str) -> tuple[str, str] | None:
        """Why the adapter of that name cannot be asked on this machine, Chinese and English; None where it can."""
        return homecoming.missing_base(self._registry, adapter)

    async def close(self) -> None:
        """Wait a moment for what was begun at a provider; what takes longer is recorded as begun and found again."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_LAST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _deploy(self, job_id: str, caller: Caller, *, confirm: bool) -> Deployment:
        async with self._lock(job_id):
            job, provider, hosted, output_model = await self._completed(job_id, caller)
            known = _recorded(hosted)
            if known is not None and known.word != _ENDING:
                known = await self._looked(job, known)
                if known is not None and known.id and (known.ready or not confirm):
                    return known
            if not confirm:
                raise _unconfirmed(provider, output_model)
            before = _fields(known) if known is not None and known.id else None
            asked = {"word": _ASKED, "model": output_model, "ready": False, "asked_at": self._clock().isoformat()}
            await self._note(job, (before or {}) | asked)
            try:
                made = await provider.deploy(hosted.tag, output_model)
            except Unavailable:
                raise  # it may be there all the same: the record says that it was asked for
            except Problem:
                await self._note(job, before)
                raise
            await self._note(job, _fields(made))
            return made

    async def _undeploy(self, job_id: str, caller: Caller) -> None:
        async with self._lock(job_id):
            job = await self._job(job_id, caller)
            known = _recorded(job.hosted)
            if known is None or job.hosted is None:
                return
            provider = self._provider(job)
            if not known.id:
                found = await self._looked(job, known)
                if found is None:
                    return
                if not found.id:
                    raise _may_turn_up(provider, job_id)
                known = found
            await self._note(job, _fields(known) | {"ready": False, "word": _ENDING})
            await provider.undeploy(known.id)
            await self._note(job, None)

    async def _looked(self, job: Job, known: Deployment) -> Deployment | None:
        """Where it stands at the provider, recorded; one that is gone is forgotten.

        One whose id we never learned is looked for by its tag, and given back as it is while it may yet turn up.
        """
        provider = self._provider(job)
        if known.id:
            found = await provider.deployment(known.id)
        else:
            assert job.hosted is not None  # or nothing were recorded
            early = self._clock() < _asked_at(job.hosted) + _SETTLE  # before looking, or what comes meanwhile is missed
            found = await provider.find_deployment(job.hosted.tag) or (known if early else None)
        if found is not None and known.word == _ENDING:
            return known  # asked to end, and not known to have: so it is told until it is gone
        if found != known:
            await self._note(job, None if found is None else _fields(found))
        return found

    async def _completed(self, job_id: str, caller: Caller) -> tuple[Job, Provider, HostedNews, str]:
        """The job, its provider, what is known there, and the tuned model's id."""
        job = await self._job(job_id, caller)
        provider = self._provider(job)
        output_model = job.hosted.output_model if job.hosted is not None else None
        if job.hosted is None or job.run.state is not State.COMPLETED or not output_model:
            raise Conflict(
                f"微调作业 {job_id} 尚未完成（{job.status}），还没有可用的模型",
                f"fine-tuning job {job_id} has not completed ({job.status}): there is no model yet",
                job_id=job_id,
                status=str(job.status),
            )
        return job, provider, job.hosted, output_model

    def _provider(self, job: Job) -> Provider:
        found = self._providers.get(job.notes.provider)
        if found is None:
            raise Unsupported(
                f"微调作业 {job.run.id} 不在提供商处运行：它的适配器已在本机（{job.run.output}），无需部署或下载",
                f"fine-tuning job {job.run.id} does not run at a provider: its adapter is on this machine "
                f"({job.run.output}) and needs neither deploying nor fetching",
                job_id=job.run.id,
            )
        return found

    async def _job(self, job_id: str, caller: Caller) -> Job:
        return await asyncio.to_thread(self._jobs.get, job_id, caller)

    async def _note(self, job: Job, deployment: Mapping[str, Any] | None) -> None:
        await asyncio.to_thread(self._record.deployed, job.run.id, deployment)

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            self._locks[name] = lock = asyncio.Lock()
        return lock

    def _scratch(self, run_id: str) -> Path:
        folder = self._home.runs / run_id
        folder.mkdir(exist_ok=True, mode=0o700)
        return Path(tempfile.mkdtemp(prefix="adapter-", dir=folder))

    async def _to_the_end(self, work: Coroutine[Any, Any, _Found]) -> _Found:
        """Its result. Cancelling the caller leaves it running: between asking and recording nobody may stop."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)


def _fields(deployment: Deployment) -> dict[str, Any]:
    """As the record keeps it; JSON values."""
    return {
        "id": deployment.id,
        "model": deployment.model,
        "ready": deployment.ready,
        "word": deployment.word,
        "raw": dict(deployment.raw),
    }


def _recorded(hosted: HostedNews | None) -> Deployment | None:
    kept = hosted.deployment if hosted is not None else None
    if not kept:
        return None
    texts = {name: str(kept.get(name) or "") for name in ("id", "model", "word")}
    raw = kept.get("raw")
    return Deployment(**texts, ready=kept.get("ready") is True, raw=raw if isinstance(raw, Mapping) else {})


def _asked_at(hosted: HostedNews) -> datetime:
    """When the deployment was last asked for; long ago where that is not known."""
    try:
        asked = datetime.fromisoformat(str((hosted.deployment or {}).get("asked_at")))
    except ValueError:
        return _LONG_AGO
    return asked if asked.tzinfo is not None else _LONG_AGO


def _may_turn_up(provider: Provider, job_id: str) -> Unavailable:
    seconds = int(_SETTLE.total_seconds())
    return Unavailable(
        f"{provider.label} 上还没有此部署，但刚刚请求过，可能仍会出现并计费：请在 {seconds} 秒后再次取消部署",
        f"{provider.label} has no such deployment yet, but it was asked for a moment ago and may turn up, and cost money: "
        f"undeploy it again in {seconds} seconds",
        job_id=job_id,
        retry_after=seconds,
    )


def _unconfirmed(provider: Provider, model: str) -> Conflict:
    page = _PRICES.get(provider.name, "")
    return Conflict(
        f"部署会产生费用，请确认（confirm=true）：{provider.label} 按 {model} 保持就绪的时间计费，没有请求时也可能计费，"
        f"直到取消部署（undeploy）；单价未知，请查看 {provider.label} 的价目 {page}".rstrip(),
        f"deploying costs money and wants a confirmation (confirm=true): {provider.label} charges for the time that {model} "
        f"is kept ready, even idle, until it is undeployed; its price is not known here, see {provider.label}'s prices "
        f"{page}".rstrip(),
        field="confirm",
        needs_confirmation=True,
        price=None,
        prices=page or None,
    )
