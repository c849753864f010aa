"""Fine-tuning jobs for every caller: a job is a run like any other, here or at a provider, and what is said of it."""

import asyncio
import math
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import IntegrityError

from tunesmith.datasets.folder import room
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import UNPRINTABLE, Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.projects.checks import check_description, check_name
from tunesmith.training import limits
from tunesmith.training.hosted import store as hosted_jobs
from tunesmith.training.hosted.catalog import Offer
from tunesmith.training.hosted.executor import HostedExecutor, training_file
from tunesmith.training.hosted.parameters import recipe_values
from tunesmith.training.hosted.provider import Cost, Estimate, HostedOrder
from tunesmith.training.hosted.store import HostedStore, tag_of
from tunesmith.training.jobs import store as job_notes
from tunesmith.training.jobs.job import LOCAL, Job, JobNotes, NewJob
from tunesmith.training.jobs.making import Exports, Making, Places, Projects, Settled, Written, number
from tunesmith.training.jobs.status import status_of
from tunesmith.training.jobs.store import JobStore
from tunesmith.training.reconciler import after
from tunesmith.training.run import Once, Recipe, Run, State
from tunesmith.training.service import TrainingService
from tunesmith.training.store import LIVE, RunStore

_SHOWN = 10  # models named to who asks for another
_DEPLOYED = "的模型仍在部署（计费），请先停止部署", "is deployed and paid for; undeploy it first"
_USUAL_LENGTH = 1024  # tokens of an example on this machine, where nothing else is asked for


class Bases(Protocol):
    """Where base models are found by name."""

    def base(self, name: str) -> BaseModel: ...


class Offers(Places, Protocol):
    """The providers, and what they train now."""

    async def offer(self, provider: str) -> Offer: ...


class JobService:
    """Makes, lists, follows and ends jobs; another's is answered like a missing one, but to an admin.

    Blocking, but where it is said to be async.

    Args:
        hosted: what has the jobs of each provider, by its id.
    """

    def __init__(
        self,
        database: Database,
        training: TrainingService,
        catalog: Offers,
        projects: Projects,
        exports: Exports,
        hosted: Mapping[str, HostedExecutor],
        bases: Bases,
        home: Home,
        clock: Clock = utc_now,
    ) -> None:
        self._runs, self._notes, self._hosted_jobs = (
            RunStore(database, clock),
            JobStore(database),
            HostedStore(database),
        )
        self._training, self._catalog, self._projects = training, catalog, projects
        self._making = Making(catalog, projects, exports)
        self._hosted, self._bases, self._home, self._clock = hosted, bases, home, clock

    def create(self, new: NewJob, caller: Caller, *, idempotency_key: str | None = None) -> Job:
        """Check everything that can be known now, write the training file, then record the job; it starts in its turn.

        Args:
            idempotency_key: a repeated request of the caller with the same key gives the job that the first one made.

        Raises:
            Invalid: what is asked for is malformed, or a sample is; its id is named.
            NotFound: no such model, dataset, project, task or split.
            Conflict: the key was used for another request.
            Unavailable: the disk is full.
        """
        once = _once(new, idempotency_key)
        if (made := self._training.made(caller, once)) is not None:
            return self._job(made)
        run_id = uuid.uuid4().hex
        folder = self._home.runs / run_id
        try:
            settled = self._settled(new, caller, run_id)
            with room():
                written = self._making.write(settled, folder / "data")
            notes = _with_properties(settled.notes, written)
            recipe = self._recipe(notes, self._home.name(folder / "data"), written.validation_rows > 0)
            about = notes.dataset_path or notes.name
            run = self._training.prepared(recipe, run_id, notes.provider, about, caller)
            beside = [job_notes.recorded(notes)]
            if notes.provider != LOCAL:
                beside.append(hosted_jobs.recorded(run_id, notes.provider, notes.name, notes.parameters))
            self._training.record(run, once, beside)
        except BaseException as problem:
            shutil.rmtree(folder, ignore_errors=True)
            # another try of this very request may have come first
            if isinstance(problem, Problem) and (made := self._training.made(caller, once)) is not None:
                return self._job(made)
            raise
        return self._job(run)

    def made(self, new: NewJob, caller: Caller, *, idempotency_key: str | None) -> Job | None:
        """The job that an earlier try of this very request made; None where there is none, or no key.

        Raises:
            Invalid: the key is none. Conflict: it was used for another request.
        """
        found = self._training.made(caller, _once(new, idempotency_key))
        return None if found is None else self._job(found)

    def check(self, new: NewJob, caller: Caller) -> JobNotes:
        """What a job would be recorded with; raises as ``create``, and records and writes nothing."""
        settled = self._settled(new, caller, uuid.uuid4().hex)
        return _with_properties(settled.notes, self._making.write(settled, None))

    async def check_model(self, new: NewJob) -> None:
        """Ask the provider whether it trains such a model by such a strategy; what cannot be asked now is no fault.

        Raises:
            Forbidden: there is no key for the provider, or it is not accepted.
            NotFound: the provider trains no such model; some that it does are named.
            Invalid: there is no such provider, or the model is not trained by that strategy.
        """
        offer = await self._catalog.offer(new.provider)
        if offer.id == LOCAL:
            return
        if not offer.enabled and offer.problem is not None:
            raise offer.problem
        found = next((model for model in offer.models if model.id == new.model), None)
        if found is None and offer.models:
            known = ", ".join(model.id for model in offer.models[:_SHOWN])
            shown = UNPRINTABLE.sub("?", new.model)[:100]
            raise NotFound(
                f"{offer.label} 不训练模型 {shown}；可用的有：{known}",
                f"{offer.label} does not train the model {shown}; it does train {known}",
                field="model_name",
            )
        thinks = bool((new.thinking_instructions or "").strip())
        strategy = new.strategy or ("two_message_cot" if thinks else "final_only")
        if found is not None and strategy not in found.strategies:
            known = ", ".join(found.strategies)
            raise Invalid(
                f"模型 {found.id} 不支持策略 {strategy[:60]}；可用：{known}",
                f"the model {found.id} is not trained by the strategy {strategy[:60]}; known are {known}",
                field="data_strategy",
            )

    def list(
        self, caller: Caller, *, project_id: str | None = None, task_id: str | None = None, limit: int | None = 100
    ) -> Sequence[Job]:
        """The caller's jobs, the newest first, made in whatever dialect; or those of a task alone.

        Raises:
            NotFound: there is no such project or task.
        """
        among = None
        if project_id is not None and task_id is not None:
            self._projects.task(project_id, task_id, caller)
            among = job_notes.belonging(project_id, task_id)
        return self._jobs(self._runs.list(owner=caller.only, limit=limit, among=among))

    def get(self, job_id: str, caller: Caller, *, project_id: str | None = None, task_id: str | None = None) -> Job:
        """The job of that id.

        Raises:
            NotFound: there is none, or none of that project and task.
        """
        try:
            job = self._job(self._training.get(job_id, caller))
        except NotFound:
            raise _missing(job_id) from None
        if project_id not in (None, job.notes.project_id) or task_id not in (None, job.notes.task_id):
            raise _missing(job_id)
        return job

    async def refresh(self, jobs: Sequence[Job], caller: Caller) -> Sequence[Job]:
        """The jobs as they are now: providers are asked this moment; what cannot be asked stays as it was.

        Changes nothing at a provider.
        """
        mine = [job for job in jobs if caller.sees(job.run.owner)]
        await asyncio.gather(*(self._ask(job.run) for job in mine))
        found = await asyncio.to_thread(self._runs.list, limit=None, among=[job.run.id for job in mine])
        by_id = {job.run.id: job for job in await asyncio.to_thread(self._jobs, found)}
        return [by_id.get(job.run.id, job) for job in mine]  # one may have been deleted meanwhile

    async def _ask(self, run: Run) -> None:
        executor = self._hosted.get(run.executor)
        if executor is None or run.state is not State.RUNNING:
            return
        report = await executor.ask(run)
        if report is None or (moved := after(run, report, self._clock)) == run:
            return
        # no lease is needed: it says who acts on a run, and this only writes down what the provider tells anybody who
        # asks. An answer that is older than what somebody has recorded since fails to replace it.
        with suppress(Conflict):
            await asyncio.to_thread(self._runs.save, moved, was=run)

    def cancel(self, job_id: str, caller: Caller, *, project_id: str | None = None, task_id: str | None = None) -> Job:
        """Ask a job to stop, here or at its provider; canceling twice is fine.

        Raises:
            NotFound: there is no such job. Conflict: it completed or failed already.
        """
        job = self.get(job_id, caller, project_id=project_id, task_id=task_id)
        return self._job(self._training.cancel(job.run.id, caller))

    def edit(
        self,
        job_id: str,
        caller: Caller,
        *,
        name: str | None = None,
        description: str | None = None,
        project_id: str | None = None,
        task_id: str | None = None,
    ) -> Job:
        """Change what a job is called, or is said of it; what is None stays.

        Raises:
            NotFound: there is no such job. Invalid: the name or text cannot be kept.
        """
        job = self.get(job_id, caller, project_id=project_id, task_id=task_id)
        changes: dict[str, str | None] = {}
        if name is not None:
            changes["name"] = check_name(name)
        if description is not None:
            changes["description"] = check_description(description)
        return replace(job, notes=self._notes.edit(job.run, changes)) if changes else job

    def delete(self, job_id: str, caller: Caller, *, project_id: str | None = None, task_id: str | None = None) -> Job:
        """Forget a job that has ended: its record, training file and checkpoints. What it trained stays where it is.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended, its model is deployed, or another run goes on from it.
        """
        job = self.get(job_id, caller, project_id=project_id, task_id=task_id)
        run_id, folder = job.run.id, self._home.runs / job.run.id
        if not job.run.state.final:
            raise _in_use(run_id, "尚未结束，请先取消", "has not ended; cancel it first")
        if job.hosted is not None and job.hosted.deployment is not None:
            raise _in_use(run_id, *_DEPLOYED)
        if any(run.recipe.dataset.startswith(f"runs/{run_id}/") for run in self._runs.list(states=LIVE, limit=None)):
            raise _in_use(run_id, "正被另一个任务接着训练", "is being gone on with by another run")
        try:
            self._runs.delete(job.run, [job_notes.forgotten(run_id), hosted_jobs.forgotten(run_id)])
        except IntegrityError as error:  # somebody deployed it this moment
            raise _in_use(run_id, *_DEPLOYED) from error
        shutil.rmtree(folder, ignore_errors=True)
        return job

    async def estimate(self, new: NewJob, caller: Caller) -> Estimate:
        """What the job would take, where that is known, and why not where it is not; makes and records nothing.

        Raises:
            as ``create``.
        """
        with tempfile.TemporaryDirectory(prefix="tunesmith-estimate-") as text:
            settled = await asyncio.to_thread(self._settled, new, caller, uuid.uuid4().hex)
            notes, folder = settled.notes, Path(text) / "data"
            written = await asyncio.to_thread(self._making.write, settled, folder)
            recipe = self._recipe(notes, "data", written.validation_rows > 0)
            open_batch = notes.provider != LOCAL and "batch_size" not in notes.parameters
            a_step = recipe.batch_size * recipe.gradient_accumulation
            steps = None if open_batch else math.ceil(written.training_rows / a_step) * recipe.epochs
            if notes.provider == LOCAL:
                zh = "未统计词元；本机训练不收费，时间与内存可用 tunesmith train --dry-run 试算"
                en = "tokens were not counted; nobody is paid for this machine, and tunesmith train --dry-run tells time and memory"
                return Estimate(Cost(0.0, estimated=False), None, steps, (zh, en))
            files = [recipe.dataset, *([recipe.validation] if recipe.validation else [])]
            read = [await asyncio.to_thread(training_file, Home(Path(text)), name) for name in files]
            order = HostedOrder(tag_of(notes.run_id), notes.name, notes.model, notes.parameters, *read)
            try:
                told = await self._hosted[notes.provider].estimate(order)
            except Problem as problem:
                return Estimate(None, None, steps, (problem.zh, problem.en))
            return told if told.steps is not None else replace(told, steps=steps)

    def _settled(self, new: NewJob, caller: Caller, run_id: str) -> Settled:
        settled = self._making.settled(new, caller, run_id)
        if settled.notes.provider not in (LOCAL, *self._hosted):
            provider = settled.notes.provider
            raise Unavailable(f"{provider} 未启用", f"{provider} is not set up here", field="provider")
        if settled.notes.provider == LOCAL:  # before gigabytes are written
            recipe = self._recipe(settled.notes, "data", settled.validation is not None)
            limits.check(recipe, self._bases.base(recipe.base_model).context_length)
        return settled

    def _recipe(self, notes: JobNotes, folder: str, validated: bool) -> Recipe:
        """The recipe as every dialect shows it: what was given, else the default where it is trained."""
        files: dict[str, Any] = {"dataset": f"{folder}/train.jsonl"}
        if validated:
            files["validation"] = f"{folder}/validation.jsonl"
        if notes.provider == LOCAL:
            base = self._bases.base(notes.model)
            values: dict[str, Any] = {"max_length": min(_USUAL_LENGTH, base.context_length)}
            return Recipe(base_model=base.name, **files, **(values | recipe_values(notes.parameters)))
        allowed = {each.name: each for each in self._catalog.parameters(notes.provider)}

        def told(name: str, otherwise: float) -> float:
            return number(notes.parameters, allowed, name, otherwise)

        rank = int(told("lora_rank", 8))
        return Recipe(
            base_model=notes.model,
            **files,
            epochs=int(told("epochs", 1)),
            batch_size=int(told("batch_size", 8)),
            learning_rate=told("learning_rate", 1e-5),
            warmup_ratio=told("warmup_ratio", 0.0),
            weight_decay=told("weight_decay", 0.0),
            max_grad_norm=told("max_grad_norm", 1.0),
            rank=rank,
            alpha=told("lora_alpha", 2.0 * rank),
            dropout=told("lora_dropout", 0.0),
        )

    def _job(self, run: Run) -> Job:
        return self._jobs([run])[0]

    def _jobs(self, runs: Sequence[Run]) -> Sequence[Job]:
        notes = self._notes.of(runs)
        hosted = dict(self._hosted_jobs.of([run.id for run in runs if run.executor != LOCAL]))
        for run in runs:
            executor = self._hosted.get(run.executor)
            if executor is not None and run.id in hosted and not run.state.final:
                hosted[run.id] = replace(hosted[run.id], trouble=executor.trouble(run.id))
        return [Job(run, notes[run.id], status_of(run, hosted.get(run.id)), hosted.get(run.id)) for run in runs]


def _once(new: NewJob, key: str | None) -> Once | None:
    return None if key is None else Once.of(key, asdict(new))


def _with_properties(notes: JobNotes, written: Written) -> JobNotes:
    told = {"rows": written.training_rows, "validation_rows": written.validation_rows}
    return replace(
        notes, properties={**notes.properties, **told, "warnings": [list(each) for each in written.warnings]}
    )


def _missing(job_id: str) -> NotFound:
    shown = UNPRINTABLE.sub("?", job_id)[:64]
    return NotFound(f"微调任务不存在：{shown}", f"Finetune with ID '{shown}' not found", job_id=shown)


def _in_use(job_id: str, zh: str, en: str) -> Conflict:
    return Conflict(f"任务 {job_id} {zh}", f"job {job_id} {en}", job_id=job_id)
