"""Moves runs forward, those alone that it has a lease on: one of several servers on one database does so for each run.

Every pass looks at the record anew and remembers nothing. A lease is renewed long before it is over. When its holder
dies, another server takes the run as soon as the kernel has told of it (see ``holder``), or when the lease is over.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.kernel.clock import Clock
from tunesmith.kernel.problems import Conflict, Problem, Unavailable
from tunesmith.settings import Settings
from tunesmith.training.executor import Executor, Report
from tunesmith.training.holder import Holder
from tunesmith.training.run import Run, State
from tunesmith.training.store import Lease, RunStore

_RENEWED = 2 / 3  # of a lease are left when it is renewed
_log = structlog.get_logger(__name__)


class Reconciler:
    """Asks executors how their runs are, and starts queued ones.

    Args:
        me: in whose name leases are taken.
        rooms: how many runs an executor has under way at once, by its name; ``concurrent_runs`` where it has no entry.
    """

    def __init__(
        self,
        store: RunStore,
        executors: Mapping[str, Executor],
        me: Holder,
        settings: Settings,
        clock: Clock,
        rooms: Mapping[str, int],
    ) -> None:
        self._store, self._executors, self._me, self._clock = store, executors, me, clock
        self._rooms = {name: rooms.get(name, settings.concurrent_runs) for name in executors}
        self._lease = timedelta(seconds=settings.lease_s)
        self._orphans_stopped = False
        self._wake: Callable[[], object] = lambda: None

    async def once(self) -> None:
        """One pass: running runs are asked after, queued ones started while there is room, oldest first.

        There is room while fewer runs of an executor than it has room for are under way in the whole database, whoever
        holds them.
        """
        await self._stop_orphans()
        live, mine = await asyncio.to_thread(self._look)
        ended = await asyncio.gather(*(self._follow(run) for run in mine), return_exceptions=True)
        faults = [fault for fault in ended if isinstance(fault, BaseException)]
        busy = Counter(run.executor for run in live if run.state is State.RUNNING)
        busy.subtract(run.executor for run, end in zip(mine, ended, strict=True) if end is True)
        waiting = {run.executor for run in live if run.state is State.QUEUED}
        for name in self._executors:
            # looked at first: a claim takes the write lock of the database
            if name in waiting and busy[name] < self._rooms[name]:
                await self._start_queued(name)
        if faults:
            # raised only now: one run that cannot be asked after must not hold up the others
            raise faults[0]

    async def forever(self, interval_s: float) -> None:
        """One pass after the other until canceled, the next when ``wake`` is called or ``interval_s`` later.

        Nothing that goes wrong in one ends it.
        """
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        try:
            while True:
                woken.clear()
                try:
                    await self.once()
                except Exception:
                    _log.exception("reconcile_failed")
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):  # wait_for would make a task each time
                        await woken.wait()
        finally:
            self._wake = lambda: None

    def wake(self) -> None:
        """There is something to do; from any thread."""
        self._wake()

    def release(self) -> None:
        """End every lease of ours, so that others need not wait for that."""
        try:
            self._store.release(self._me.name)
        except SQLAlchemyError as error:
            _log.warning("leases_not_released", reason=str(error))  # they end by themselves
        self._me.end()

    def _look(self) -> tuple[list[Run], list[Run]]:
        """All runs that have not ended, and the running ones among them that are ours to move forward."""
        found = self._store.leased()
        now = self._clock()
        holders = {lease.holder for _, lease in found if lease is not None and lease.until > now}
        for name in holders - {self._me.name}:
            if self._me.gone(name):
                _log.warning("leases_taken_over", holder=name)
                self._store.release(name)
                self._me.forget(name)
                found = self._store.leased()
        running = [
            (run, lease) for run, lease in found if run.state is State.RUNNING and run.executor in self._executors
        ]
        held = {run.id for run, lease in running if lease is not None and lease.holder == self._me.name}
        if any(self._due(lease) for _, lease in running):
            held = set(self._store.hold(tuple(self._executors), self._new_lease(), now=self._clock()))
        return [run for run, _ in found], [run for run, _ in running if run.id in held]

    def _due(self, lease: Lease | None) -> bool:
        """Whether the run is to be had, or our lease on it to be renewed."""
        if lease is None:
            return True
        left = lease.until - self._clock()
        return left < self._lease * _RENEWED if lease.holder == self._me.name else left <= timedelta()

    def _new_lease(self) -> Lease:
        self._me.begin()
        return Lease(self._me.name, self._clock() + self._lease)

    async def _start_queued(self, executor: str) -> None:
        while (run := await asyncio.to_thread(self._claim, executor)) is not None:
            if not await self._submit(run, self._executors[executor]):
                return  # those behind it wait their turn too

    def _claim(self, executor: str) -> Run | None:
        return self._store.claim(executor, self._new_lease(), now=self._clock(), room=self._rooms[executor])

    async def _submit(self, run: Run, executor: Executor) -> bool:
        """Give a queued run of ours to its executor; False where that must be tried again later."""
        try:
            handle = await executor.submit(run)
        except (Unavailable, OSError) as problem:  # OSError: no room to write the order, say
            _log.warning("submit_postponed", run_id=run.id, reason=str(problem))
            await asyncio.to_thread(self._store.release, self._me.name, run.id)
            return False
        except Problem as problem:
            await self._move(run, Report(State.FAILED, error=problem.en, error_zh=problem.zh))
            return True
        try:
            running = run.to(State.RUNNING, handle=handle, started_at=self._clock())
            await asyncio.to_thread(self._store.save, running, was=run, holder=self._me.name)
        except Conflict:
            now = await asyncio.to_thread(self._store.get, run.id)
            if now.state.final:  # canceled while we submitted: nobody would ever ask after it
                await executor.cancel(replace(run, handle=handle))
            return now.state is not State.QUEUED
        return True

    async def _follow(self, run: Run) -> bool:
        """Ask after a running run of ours; whether it has ended."""
        executor = self._executors[run.executor]
        try:
            if run.cancel_requested:
                await executor.cancel(run)
            report = await executor.poll(run)
        except Unavailable as problem:
            _log.warning("poll_postponed", run_id=run.id, reason=problem.en)
            return False
        except Problem as problem:
            report = Report(State.FAILED, run.progress, problem.en, problem.zh)
        return await self._move(run, report)

    async def _move(self, run: Run, report: Report) -> bool:
        """Record what was reported; whether the run has ended. A final record is left alone."""
        moved = after(run, report, self._clock)
        if moved == run:
            return False
        try:
            await asyncio.to_thread(self._store.save, moved, was=run, holder=self._me.name)
        except Conflict:
            return False  # somebody was faster; the next pass reads what they wrote
        return moved.state.final

    async def _stop_orphans(self) -> None:
        """Once after a start: stop trainers whose run was canceled between their start and our record of it."""
        if self._orphans_stopped:
            return
        for run in await asyncio.to_thread(self._store.list, states=(State.CANCELED,)):
            executor = self._executors.get(run.executor)
            if run.handle is None and executor is not None:
                try:
                    await executor.cancel(run)
                except Unavailable as problem:
                    _log.warning("orphan_not_stopped", run_id=run.id, reason=problem.en)
        self._orphans_stopped = True


def after(run: Run, report: Report, clock: Clock) -> Run:
    """The running run as it is after the report; itself where that says nothing new.

    Raises:
        Conflict: the run has ended.
    """
    failed = report.state is State.FAILED
    changes: dict[str, object] = {
        "progress": report.progress if report.progress.step or not run.progress.step else run.progress,
        "error": (report.error or "no reason was given") if failed else None,
        "error_zh": (report.error_zh or report.error or "未说明原因") if failed else None,
    }
    if report.state.final:
        changes["ended_at"] = clock()
    # an executor that has it but not started it yet: for us it runs
    return run.to(State.RUNNING if report.state is State.QUEUED else report.state, **changes)
