"""Pulls of Ollama models as jobs: recorded first, then asked of Ollama, gone on with after a crash of either.

    running → completed | failed | canceled

A final state never changes. Several servers may share one database: a model is pulled by one job, whoever asks.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.inference.model_ids import pull_name
from tunesmith.inference.ollama import OllamaServer, PullProgress
from tunesmith.inference.pull_store import Pull, PullState, PullStore
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, Problem, Unavailable

__all__ = ["Pull", "PullState", "Pulls"]

_AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_WRITE_S = 1.0  # between two writes of one pull's progress
_ALIVE_S = 15.0  # so often is written at least, as a sign that somebody is at it
_LEFT_FOR_DEAD = timedelta(seconds=60)
_FRAME_S = 0.1
_GATEWAY = frozenset({502, 503, 504})
_FAILURES_KEPT = 256
_log = structlog.get_logger(__name__)


class Pulls:
    """Begins, follows and ends pulls. ``get`` and ``list`` read the database: call them in a thread from async code.

    Args:
        on_success: told after each pull that completed here.
        again_s: seconds before each further try after the connection broke; begun anew whenever bytes have come.
        write_s: between two writes of one pull's progress.
    """

    def __init__(
        self,
        database: Database,
        server: OllamaServer,
        clock: Clock = utc_now,
        *,
        on_success: Callable[[], None] = lambda: None,
        again_s: Sequence[float] = _AGAIN_S,
        write_s: float = _WRITE_S,
    ) -> None:
        self._store = PullStore(database, clock)
        self._server, self._clock, self._on_success = server, clock, on_success
        self._again_s, self._write_s = again_s, write_s
        self._jobs: dict[str, _Job] = {}
        self._failures: dict[str, Problem] = {}  # the newest; the record keeps their words, not their kind
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def begin(self, model_name: str, caller_name: str) -> Pull:
        """Record a pull and start it, or give back the one that runs for this model.

        Raises:
            Invalid: see ``model_ids.pull_name``. Unavailable: this server is stopping.
        """
        model = pull_name(model_name)
        if self._closing:
            raise Unavailable("服务正在停止，请稍后重试", "the server is stopping; ask again later")
        # whoever asked may leave meanwhile: a recorded pull is started all the same
        return await asyncio.shield(self._task(self._begin(model, caller_name)))

    def get(self, pull_id: str) -> Pull:
        """As it stands now.

        Raises:
            NotFound: there is none of that id.
        """
        return self._newest(self._store.get(pull_id))

    def list(self, limit: int = 100) -> Sequence[Pull]:
        """The newest first."""
        return [self._newest(pull) for pull in self._store.newest(limit)]

    async def cancel(self, pull_id: str) -> Pull:
        """Hang up for good. Twice is fine.

        Raises:
            NotFound: there is none of that id. Conflict: it has completed or failed.
        """
        job = self._jobs.get(pull_id)
        reached = None if job is None else job.pull
        # the record first: killed in between, it is not taken up again
        await asyncio.to_thread(self._store.end, pull_id, PullState.CANCELED, reached=reached)
        pull = await asyncio.to_thread(self._store.get, pull_id)
        if pull.state is not PullState.CANCELED:
            raise Conflict(
                f"拉取任务 {pull.id} 的状态是 {pull.state}，已经结束，不能取消",
                f"pull {pull.id} is {pull.state}: it has ended and cannot be canceled",
                pull_id=pull.id,
                state=str(pull.state),
            )
        if job is not None and job.task is not None:
            job.show(pull)
            job.task.cancel()
            await asyncio.wait({job.task})
        return pull

    async def watch(self, pull_id: str) -> AsyncGenerator[Pull, None]:
        """The pull as it stands, again after each change, at most ten times a second; the last is final.

        Leaving does not stop the pull. Where this server stops before the pull has ended, the last is not final.

        Raises:
            NotFound: there is none of that id.
        """
        shown: Pull | None = None
        while True:
            job = self._jobs.get(pull_id)
            pull = job.pull if job is not None else await asyncio.to_thread(self.get, pull_id)
            if pull != shown:
                yield pull
            shown = pull
            if pull.state.final or self._closing:
                return
            if job is None:  # another server's
                await asyncio.sleep(self._write_s)
            else:
                await asyncio.sleep(_FRAME_S)
                await job.changed_since(pull)

    async def settled(self, pull_id: str, within_s: float) -> Pull:
        """The pull as soon as the size of a layer is known or it has ended, or as it stands after ``within_s``.

        Raises:
            NotFound: there is none of that id.
        """
        pull = await asyncio.to_thread(self.get, pull_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s), aclosing(self.watch(pull_id)) as frames:
                async for pull in frames:
                    if pull.state.final or pull.total_bytes:
                        break
        return pull

    async def reconcile(self) -> Sequence[str]:
        """Go on with what a stopped or killed server left running; call once, at start-up.

        Ollama goes on from the parts it has, and joins two pulls of one model: where another server is at it, nothing
        is fetched twice.

        Returns:
            The ids taken up, oldest first.
        """
        left = await asyncio.to_thread(self._store.running)
        for pull in left:
            self._start(pull, resumed=True)
        return [pull.id for pull in left]

    async def close(self) -> None:
        """Hang up everywhere; what runs stays so in the record, and the next ``reconcile`` goes on with it."""
        self._closing = True
        jobs = [job.task for job in self._jobs.values() if job.task is not None]
        for task in jobs:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _begin(self, model: str, caller_name: str) -> Pull:
        pull, new = await asyncio.to_thread(self._store.begin, model, caller_name)
        abandoned = self._clock() - pull.updated_at > _LEFT_FOR_DEAD
        if new or abandoned:
            self._start(pull, resumed=not new)
        return self._newest(pull)

    def _newest(self, pull: Pull) -> Pull:
        """What is known here is newer than a record that says it runs, and more than one that says it failed."""
        if pull.state is PullState.FAILED:
            return replace(pull, failure=self._failures.get(pull.id, pull.failure))
        job = self._jobs.get(pull.id)
        return pull if job is None or pull.state.final else job.pull

    def _start(self, pull: Pull, *, resumed: bool) -> None:
        if pull.id in self._jobs or self._closing:
            return
        job = self._jobs[pull.id] = _Job(pull)
        job.task = self._task(self._execute(job, resumed))
        job.task.add_done_callback(lambda _: self._leave(job))

    def _task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        # a context of its own: what is logged of it belongs to no single request
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _leave(self, job: "_Job") -> None:
        del self._jobs[job.pull.id]
        job.leave()

    async def _execute(self, job: "_Job", resumed: bool) -> None:
        """Pull, and keep the record; what ends it is in the record before anybody hears of it."""
        pulling = self._task(self._pull(job, resumed))
        try:
            if await self._recorded_until_done(job, pulling):
                await self._end(job, pulling.result())
            else:
                job.show(await asyncio.to_thread(self._store.get, job.pull.id))
        except Exception:  # the database: the record stays as it is, and the next start goes on
            _log.exception("a pull could not be recorded", pull_id=job.pull.id)
        finally:
            pulling.cancel()
            await asyncio.wait({pulling})

    async def _recorded_until_done(self, job: "_Job", pulling: "asyncio.Task[Problem | None]") -> bool:
        """Write its progress now and then; False where another server has ended it."""
        clock = asyncio.get_running_loop().time
        written, at = job.pull, clock()
        while not (await asyncio.wait({pulling}, timeout=self._write_s))[0]:
            if job.pull is written and clock() - at < _ALIVE_S:
                continue
            written, at = job.pull, clock()
            try:
                if not await asyncio.to_thread(self._store.advance, written):
                    return False
            except SQLAlchemyError:  # the pull itself goes on
                _log.exception("progress of a pull could not be recorded", pull_id=written.id)
        return True

    async def _pull(self, job: "_Job", resumed: bool) -> Problem | None:
        """Pull until it is done, or there is no hope; says why."""
        reached, tries = job.pull.completed_bytes, iter(self._again_s)
        heard = resumed  # where nothing ever came, whoever began it is told at once
        while True:
            try:
                async with aclosing(self._server.pull(job.pull.model)) as progress:
                    async for each in progress:
                        heard = True
                        self._note(job, each)
                return None
            except Problem as problem:
                if job.pull.completed_bytes > reached:
                    reached, tries = job.pull.completed_bytes, iter(self._again_s)
                wait_s = next(tries, None) if heard and _broke_off(problem) else None
                if wait_s is None:
                    return problem
                _log.warning("a pull broke off", pull_id=job.pull.id, reason=problem.en, again_s=wait_s)
                await asyncio.sleep(wait_s)
            except Exception as error:
                _log.exception("a pull broke", pull_id=job.pull.id)
                cause = f"{type(error).__name__}: {error}"[:300]
                return Unavailable(f"拉取模型时出现内部错误：{cause}", f"pulling the model broke: {cause}")

    def _note(self, job: "_Job", progress: PullProgress) -> None:
        old = job.pull
        new = replace(old, status=progress.status)
        if progress.total_bytes:  # a further try begins from nothing, and soon knows better
            new = replace(new, completed_bytes=progress.completed_bytes, total_bytes=progress.total_bytes)
        if new != old:
            job.show(replace(new, updated_at=self._clock()))

    async def _end(self, job: "_Job", problem: Problem | None) -> None:
        state = PullState.FAILED if problem else PullState.COMPLETED
        if problem is not None:
            self._failures[job.pull.id] = problem
            if len(self._failures) > _FAILURES_KEPT:
                del self._failures[next(iter(self._failures))]
        await asyncio.to_thread(self._store.end, job.pull.id, state, reached=job.pull, problem=problem)
        ended = await asyncio.to_thread(self.get, job.pull.id)  # or somebody else ended it before
        job.show(ended)
        if ended.state is PullState.COMPLETED:
            self._on_success()


class _Job:
    """A pull under way on this server, and who waits for news of it."""

    def __init__(self, pull: Pull) -> None:
        self.pull = pull
        self.task: asyncio.Task[Any] | None = None
        self._left = False
        self._changed = asyncio.Event()

    def show(self, pull: Pull) -> None:
        """This is how it stands."""
        self.pull = pull
        self._changed.set()
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """No more news will come."""
        self._left = True
        self._changed.set()

    async def changed_since(self, pull: Pull) -> None:
        """Return once it stands otherwise, or no more news will come."""
        while self.pull is pull and not self._left:
            await self._changed.wait()


def _broke_off(problem: Problem) -> bool:
    """The way to Ollama is at fault, not the pull."""
    status = problem.details.get("upstream_status")
    return isinstance(problem, Unavailable) and (status is None or status in _GATEWAY)
