"""Runs recipes at a provider: record, upload, create, answer, each step written down before it is taken and after.

``submit`` only records; what takes time, and what costs money, begins when the run is first asked after. So a run is
leased from its record on, canceling it is kept until the provider has heard of it, and a slow or absent provider holds
nobody else up. Whoever finds that a job may have been asked for looks for its tag before asking for another.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, TimedOut, Unavailable
from tunesmith.training.executor import Parameter, Report
from tunesmith.training.hosted.keeping import events_kept, plain, struck
from tunesmith.training.hosted.provider import Estimate, HostedJob, HostedOrder, JobEvent, Provider, TrainingFile
from tunesmith.training.hosted.store import HostedStore, Kept
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.run import Progress, Run, State

_LONG_AGO = float("-inf")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """What this process knows of a run it follows; all of it may be lost. Times are of a clock that nobody sets.

    Attributes:
        lost_at: since when a job that may have been asked for is looked for.
    """

    next_at: float = _LONG_AGO
    stop_at: float = _LONG_AGO
    lost_at: float | None = None
    task: "asyncio.Task[Report | None] | None" = None
    report: Report | None = None
    stopping: bool = False
    uploading: bool = False
    failures: int = 0


class _Refused(Exception):
    """The provider will have no job of this order; it has none, unless an earlier request went unanswered."""

    def __init__(self, kept: Kept, problem: Problem) -> None:
        super().__init__(problem.en)
        self.kept, self.problem, self.asked_before = kept, problem, False


class HostedExecutor:
    """Tunes at one provider; the runs' records and this table are all that must survive.

    Args:
        home: where the runs' files are.
        clock: "now" for what is recorded.
        seconds: for every wait; no setting of the clock changes it.
    """

    def __init__(
        self,
        provider: Provider,
        store: HostedStore,
        home: Home,
        clock: Clock = utc_now,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.label = provider.name, provider.label
        self._provider, self._store, self._home, self._clock, self._timing = provider, store, home, clock, timing
        self._seconds = seconds
        self._watches: dict[str, _Watch] = {}
        self._troubles: dict[str, tuple[str, str]] = {}
        self._turn, self._upload_turn = asyncio.Semaphore(timing.at_once), asyncio.Semaphore(timing.uploads_at_once)

    def parameters(self) -> Sequence[Parameter]:
        """What a job may set at the provider."""
        return self._provider.parameters()

    async def base_models(self) -> Sequence[str]:
        """Ids of the models that the provider tunes now."""
        return [model.id for model in await self._provider.models()]

    async def estimate(self, order: HostedOrder) -> Estimate:
        """What the provider says a job would take; nothing is made there."""
        return await self._provider.estimate(order, None)

    async def submit(self, run: Run) -> str:
        """Record that the run is to be had at the provider; the handle is the tag that finds it there."""
        kept = await asyncio.to_thread(self._store.begin, run.id, self.name, run.output.rpartition("/")[2], {})
        return kept.news.tag

    async def poll(self, run: Run) -> Report:
        """Where the run stands as last told; takes the next step towards its job, or asks after it, when it is time."""
        watch = self._watch(run)
        await self._go_on(run, watch)
        report, watch.report = watch.report, None
        if report is not None and report.state.final:
            del self._watches[run.id]
            self._troubles.pop(run.id, None)
        # told once: somebody else may have learned more since, which an older report must not undo
        return report or Report(State.RUNNING, run.progress)

    async def cancel(self, run: Run) -> None:
        """Have the job stopped at the next step, which is taken now; a job whose id was lost is looked for."""
        watch = self._watch(run)
        if not watch.stopping:
            watch.stopping, watch.next_at = True, _LONG_AGO
            if watch.uploading and watch.task is not None:
                watch.task.cancel()  # nobody waits for a file of gigabytes that is not wanted any more
        await self._go_on(replace(run, cancel_requested=True), watch)
        if run.state is not State.RUNNING and watch.task is None:
            self._watches.pop(run.id, None)  # nobody asks after it

    async def ask(self, run: Run) -> Report | None:
        """Where the run's job stands now, asked this moment; None where there is no job yet or nobody answers.

        Changes nothing at the provider.
        """
        try:
            kept = await asyncio.to_thread(self._store.get, run.id)
            if kept is None or kept.news.job_id is None:
                return None
            async with asyncio.timeout(self._timing.ask_s):  # also for its turn: others may be waiting for no answer
                report = await self._looked(run, kept, kept.news.job_id)
            watch = self._watches.get(run.id)
            if report.state.final and watch is not None and watch.task is None:
                del self._watches[run.id]  # nobody will follow it any more
            return report
        except Conflict:
            return None  # somebody else was faster: theirs is as new
        except TimeoutError:
            self._told_trouble(run, TimedOut(f"{self.label} 没有及时应答", f"{self.label} did not answer in time"))
            return None
        except (Problem, OSError, SQLAlchemyError) as error:
            self._told_trouble(run, error)
            return None

    def trouble(self, run_id: str) -> tuple[str, str] | None:
        """Why the provider could not be asked about the run the last time, Chinese and English; None where it could."""
        return self._troubles.get(run_id)

    async def close(self) -> None:
        """End what is under way here and give connections back; every run can be gone on with."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._provider.close()

    def _watch(self, run: Run) -> _Watch:
        return self._watches.setdefault(run.id, _Watch())

    async def _go_on(self, run: Run, watch: _Watch) -> None:
        """Take the run's next step when it is time, and see what became of the last; never waits long."""
        if watch.task is None:
            if self._seconds() < watch.next_at:
                return
            watch.task = asyncio.create_task(self._step(run, watch))
            await asyncio.wait({watch.task}, timeout=self._timing.patience_s)
        if watch.task is not None and watch.task.done():
            task, watch.task = watch.task, None
            watch.report = None if task.cancelled() else (task.result() or watch.report)

    async def _step(self, run: Run, watch: _Watch) -> Report | None:
        """One step, and when the next is due."""
        stopping = watch.stopping
        try:
            report = await self._advanced(run, watch)
            self._troubles.pop(run.id, None)
        except _Refused as refused:
            report = await self._failed(refused)
        except Conflict:
            report = None  # somebody else was faster: what they wrote is read next time
        except Exception as error:
            self._told_trouble(run, error)
            watch.failures += 1
            watch.next_at = self._seconds() + self._wait_s(watch.failures, error)
            return None
        watch.failures = 0
        watch.next_at = self._seconds() + (self._timing.stopping_s if stopping else self._timing.poll_s)
        if watch.stopping and not stopping:
            watch.next_at = _LONG_AGO  # somebody asked meanwhile
        return report

    def _wait_s(self, failures: int, error: Exception) -> float:
        """Seconds until a call that failed so often in a row is made again."""
        wait_s = min(self._timing.first_s * 2.0 ** min(failures - 1, 30), self._timing.longest_s)
        asked_s = error.details.get("retry_after") if isinstance(error, Problem) else None
        return max(wait_s, min(asked_s, self._timing.longest_s)) if isinstance(asked_s, int | float) else wait_s

    async def _advanced(self, run: Run, watch: _Watch) -> Report | None:
        kept = await asyncio.to_thread(self._store.begin, run.id, self.name, run.output.rpartition("/")[2], {})
        job_id = kept.news.job_id
        if job_id is None and kept.news.tried_at is not None:
            found = await self._found(kept, watch)
            if isinstance(found, HostedJob):
                kept, job_id = await self._noted(kept, found), found.id
            elif not found:
                return None  # too early to tell whether there is one
        if job_id is None:
            if run.cancel_requested:
                return Report(State.CANCELED, run.progress)
            try:
                kept, job = await self._created(run, kept, watch)
            except _Refused as refused:
                refused.asked_before = kept.news.tried_at is not None
                raise
            return self._report(run, kept, job)
        if run.cancel_requested and self._seconds() >= watch.stop_at:
            await self._stopped(job_id)
            watch.stop_at = self._seconds() + self._timing.poll_s
        try:
            return await self._looked(run, kept, job_id)
        except NotFound as gone:
            # one answer may be wrong, or too early; two of different kinds end what nobody wants any more
            if not run.cancel_requested or await self._found(kept, watch) not in (True, False):
                raise
            await asyncio.to_thread(self._store.save, kept, replace(kept.news, message=f"{gone.en} / {gone.zh}"))
            return Report(State.CANCELED, run.progress)

    async def _found(self, kept: Kept, watch: _Watch) -> HostedJob | bool:
        """The job that was asked for; False where it may still turn up, True where there is none."""
        # before asking: what the list does not show then will not come any more. Since when is of this process alone:
        # what was written down was read from a clock that may have been set since
        watch.lost_at = self._seconds() if watch.lost_at is None else watch.lost_at
        settled = self._seconds() >= watch.lost_at + self._timing.settle_s
        async with self._turn:
            found = await self._provider.find(kept.news.tag)
        return settled if found is None else found

    async def _created(self, run: Run, kept: Kept, watch: _Watch) -> tuple[Kept, HostedJob]:
        """Upload what is not there yet, then ask for the job.

        Raises:
            _Refused: the provider will not have it; there is no job.
            Unavailable: it may or may not exist.
        """
        watch.uploading = True
        try:
            async with self._upload_turn:  # the files are read for it: one after the other, too
                order = await asyncio.to_thread(self._order, run, kept)
                kept = await self._uploaded(order, kept)
        except (NotFound, Forbidden, Invalid) as problem:  # of our own file: it will not come back
            raise _Refused(kept, problem) from problem
        finally:
            watch.uploading = False
        async with self._turn:
            before, tried = kept.news, replace(kept.news, tried_at=self._clock())
            kept, watch.lost_at = await asyncio.to_thread(self._store.save, kept, tried), None
            assert tried.training_file is not None
            try:
                async with asyncio.timeout(self._timing.create_s):
                    job = await self._provider.create(order, tried.training_file, tried.validation_file)
            except TimeoutError as error:
                raise TimedOut(f"{self.label} 没有及时应答", f"{self.label} did not answer in time") from error
            except Unavailable as problem:
                if problem.details.get("upstream_status") == 429:  # the one answer that says that nothing was done
                    await asyncio.to_thread(self._store.save, kept, before)
                raise
            except Conflict as problem:  # there is something of that name already: it is looked for
                raise Unavailable(problem.zh, problem.en, **problem.details) from problem
            except Problem as problem:
                raise _Refused(kept, problem) from problem
        return await self._noted(kept, job), job

    async def _uploaded(self, order: HostedOrder, kept: Kept) -> Kept:
        news, verb = kept.news, self._provider.upload
        try:
            if news.training_file is None:
                news = replace(news, training_file=await verb(order.tag, order.training))
                kept = await asyncio.to_thread(self._store.save, kept, news)
            if news.validation_file is None and order.validation is not None:
                news = replace(news, validation_file=await verb(f"{order.tag}-v", order.validation))
                kept = await asyncio.to_thread(self._store.save, kept, news)
        except (Unavailable, Conflict):
            raise
        except Problem as problem:
            raise _Refused(kept, problem) from problem
        return kept

    async def _stopped(self, job_id: str) -> None:
        try:
            async with self._turn:
                await self._provider.stop(job_id)
        except Unavailable:
            raise
        except Problem as problem:
            _log.warning("job_not_stopped", job=job_id, reason=problem.en)  # how it ended is seen next

    async def _looked(self, run: Run, kept: Kept, job_id: str) -> Report:
        async with self._turn:
            try:
                job = await self._provider.look(job_id)
            except NotFound as problem:
                raise NotFound(
                    f"{self.label} 没有此任务：它在那里已被删除，或密钥属于另一个账户；取消任务即放弃它（{problem.zh}）",
                    f"{self.label} has no such job: it was deleted there, or the key is of another account; cancel the "
                    f"run to give it up ({problem.en})",
                    **problem.details,
                ) from problem
            try:
                events = events_kept(await self._provider.events(job_id))
            except Problem:
                events = ()  # the state is worth more than what led to it
        kept = await self._noted(kept, job, events)
        self._troubles.pop(run.id, None)
        return self._report(run, kept, job)

    async def _noted(self, kept: Kept, job: HostedJob, events: tuple[JobEvent, ...] = ()) -> Kept:
        """Record what the provider said; what it said before and does not repeat stays."""
        was = kept.news
        news = replace(
            was,
            job_id=job.id,
            word=plain(job.word),
            known=job.state is not None,
            # what has begun has begun: a job that is queued again is not one that nobody has looked at
            pending=was.pending and job.state in (State.QUEUED, None),
            message=plain(job.message) if job.message else None,
            output_model=plain(job.output_model) if job.output_model else was.output_model,
            cost=job.cost or was.cost,
            tokens=was.tokens if job.tokens is None else job.tokens,
            events=events or was.events,
            raw=struck(dict(job.raw)),
        )
        return await asyncio.to_thread(self._store.save, kept, news)

    def _report(self, run: Run, kept: Kept, job: HostedJob) -> Report:
        progress = job.progress if job.progress.step >= run.progress.step else run.progress
        if job.state is None or not job.state.final:
            return Report(State.RUNNING, progress)  # an unknown word, or one that goes backwards, changes nothing
        if job.state is not State.FAILED:
            return Report(job.state, progress)
        why = kept.news.message or f"{kept.news.word}"
        return Report(State.FAILED, progress, f"{self.label}: {why}", f"{self.label}：{why}")

    async def _failed(self, refused: _Refused) -> Report:
        """The order was refused: why, and the raw answer, are kept."""
        kept, problem = refused.kept, refused.problem
        zh, en = plain(problem.zh), plain(problem.en)
        raw = struck(problem.details.get("raw"))
        news = replace(kept.news, message=en or None, raw=raw if isinstance(raw, dict) else {"raw": raw})
        with suppress(Conflict):
            await asyncio.to_thread(self._store.save, kept, news)
        silent_en = f"{self.label} refused the job without saying why; look at the key and the credit there"
        silent_zh = f"{self.label} 拒绝了任务，没有说明原因；请检查那里的密钥与余额"
        en, zh, tag = en or silent_en, zh or silent_zh, kept.news.tag
        if refused.asked_before:  # of another account, say, if the key was changed since
            en += f" An earlier request was not answered: see that there is no job named {tag} in any account of yours"
            zh += f"。此前有一次请求没有得到应答：请确认您的各个账户中没有名为 {tag} 的任务"
        return Report(State.FAILED, Progress(), en, zh)

    def _told_trouble(self, run: Run, error: Exception) -> None:
        if isinstance(error, Problem):
            told = (plain(error.zh), plain(error.en))
        else:
            told = (f"出现意外：{plain(str(error))}", f"something unexpected: {plain(str(error))}")
        if self._troubles.get(run.id) != told:  # once, and not at every try
            fault = None if isinstance(error, Problem | OSError | SQLAlchemyError) else error
            _log.warning("provider_not_asked", provider=self.name, run_id=run.id, reason=told[1], exc_info=fault)
        self._troubles[run.id] = told

    def _order(self, run: Run, kept: Kept) -> HostedOrder:
        validation = run.recipe.validation
        return HostedOrder(
            tag=kept.news.tag,
            title=kept.title,
            model=run.recipe.base_model,
            parameters=kept.parameters,
            training=training_file(self._home, run.recipe.dataset),
            validation=None if validation is None else training_file(self._home, validation),
        )


def training_file(home: Home, name: str) -> TrainingFile:
    """The file of that name under home, read once for its digest and its lines.

    Raises:
        NotFound, Forbidden, Invalid: it is not there, or may not be read.
    """
    digest, size, examples = hashlib.sha256(), 0, 0
    with home.open(name, "dataset") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size, examples = size + len(chunk), examples + chunk.count(b"\n")
    return TrainingFile(home.path(name, "dataset"), digest.hexdigest(), size, examples)
