"""Training for every caller: runs are recorded, moved forward by one reconciler, and never change once they ended."""

import asyncio
import math
import re
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any, cast

import structlog

from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.reading import read_examples, refusal
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.files import require_free
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, Unavailable
from tunesmith.settings import Settings
from tunesmith.training import limits, run_folder
from tunesmith.training.executor import Executor, Report
from tunesmith.training.places import Bases, Places
from tunesmith.training.run import Once, Recipe, Run, State
from tunesmith.training.store import LIVE, RunStore, key_used, missing

_ROOM = 64_000_000  # bytes free before a run is accepted; the trainer knows better once it has the model
_TRIES = 10
_DEFAULT_OUTPUT = "adapters/{dataset}"
_log = structlog.get_logger(__name__)


class TrainingService:
    """Starts, lists, cancels and follows runs. Another's run is answered like a missing one, but to an admin.

    Args:
        executors: by the name a run is recorded with.
        may_read: raises NotFound where the name is of data that the caller may not see; asked before it is opened.
    """

    def __init__(
        self,
        store: RunStore,
        executors: Mapping[str, Executor],
        registry: Bases,
        home: Home,
        settings: Settings,
        clock: Clock = utc_now,
        may_read: Callable[[str, Caller], None] = lambda name, caller: None,
    ) -> None:
        self._store, self._executors, self._registry = store, executors, registry
        self._home, self._settings, self._clock = home, settings, clock
        self._may_read = may_read
        self._places = Places(store, registry, home)
        self._orphans_stopped = False

    def start(
        self,
        recipe: Recipe | Callable[[], Recipe],
        *,
        output: str | None = None,
        executor: str = "local",
        caller: Caller = LOCAL,
        idempotency_key: str | None = None,
        asked: object = None,
    ) -> Run:
        """Check everything that can be known now, then record a run; it starts when its turn comes.

        Args:
            recipe: or what makes it, where that depends on what may have changed before the request is sent again.
            output: name under home for the adapter; None gives ``adapters/{dataset}``. A literal ``{dataset}`` in it
                stands for the name of the data with something that no other run has: ``town-1a2b3c4d``.
            idempotency_key: 1 to 255 printable ASCII characters. A repeated request of the caller with the same key
                gives the run that the first one made, wherever that stands by now.
            asked: the request as JSON holds it, for comparing repeated ones; needed where ``recipe`` is a function.

        Raises:
            Invalid: the recipe, a name or the key is malformed, or the dataset cannot be read.
            NotFound: no such base model, dataset or executor.
            Forbidden: a name leads through a symbolic link.
            Conflict: something lies at ``output``, or a run that has not ended writes there; or the caller has used
                the key for another request.
            Unavailable: the disk is nearly full.
        """
        if asked is None and isinstance(recipe, Recipe):
            asked = [asdict(recipe), output, executor]
        once = None if idempotency_key is None else Once.of(idempotency_key, asked)
        if (made := self._made(caller, once)) is not None:
            return made
        try:
            settled = recipe if isinstance(recipe, Recipe) else recipe()
            run = self._checked(settled, _DEFAULT_OUTPUT if output is None else output, executor, caller)
            self._store.add(run, once)
        except Problem:
            # another try of this very request may have come first, and its run be what is in the way
            if (made := self._made(caller, once)) is not None:
                return made
            raise
        return run

    def get(self, run_id: str, caller: Caller = LOCAL) -> Run:
        """The run of that id.

        Raises:
            NotFound: there is none.
        """
        run = self._store.get(run_id)
        if not caller.sees(run.owner):
            raise missing(run_id)
        return run

    def list(self, *, state: State | None = None, limit: int | None = 100, caller: Caller = LOCAL) -> Sequence[Run]:
        """The caller's runs, an admin's being all, the newest first."""
        return self._store.list(states=None if state is None else (state,), limit=limit, owner=caller.only)

    def latest_completed(self, caller: Caller = LOCAL, limit: int = 20) -> Sequence[Run]:
        """The caller's runs that published an adapter, the last to end first; it may have been deleted since."""
        return self._store.completed(owner=caller.only, limit=limit)

    def of_output(self, adapter: str, caller: Caller = LOCAL) -> Run | None:
        """The last run that published the adapter of that name, if the caller may see it."""
        return next(iter(self._store.completed(owner=caller.only, output=adapter, limit=1)), None)

    def cancel(self, run_id: str, caller: Caller = LOCAL) -> Run:
        """Ask a run to stop. A queued one is canceled at once; a running one when its trainer has ended.

        Raises:
            NotFound: there is no such run.
            Conflict: it completed or failed already.
        """
        for _ in range(_TRIES):
            run = self.get(run_id, caller)
            if run.state is State.CANCELED or (run.cancel_requested and not run.state.final):
                return run
            if run.state is State.QUEUED:
                wanted = run.to(State.CANCELED, cancel_requested=True, ended_at=self._clock())
            elif run.state is State.RUNNING:
                wanted = run.to(State.RUNNING, cancel_requested=True)
            else:
                raise Conflict(
                    f"任务 {run.id} 已经结束（{run.state}），不能取消",
                    f"run {run.id} has {run.state} already and cannot be canceled",
                    run_id=run.id,
                    state=str(run.state),
                )
            try:
                return self._store.save(wanted, was=run)
            except Conflict:
                continue  # its trainer told of another step meanwhile
        raise Unavailable("任务正在频繁更新，请重试", "the record keeps changing; try again", run_id=run_id)

    def resume(self, run_id: str, caller: Caller = LOCAL) -> Run:
        """Go on with a run that was canceled or failed, from its last checkpoint, as a new run with its recipe.

        What it gives is what the old one would have given.

        Raises:
            NotFound: there is no such run.
            Conflict: it has not ended, or completed; it left no checkpoint; or its output is in use by now.
        """
        old = self.get(run_id, caller)
        if old.state not in (State.CANCELED, State.FAILED) or not run_folder.checkpoints(self._home.runs / old.id):
            ended = old.state in (State.CANCELED, State.FAILED)
            raise Conflict(
                f"任务 {old.id} 没有检查点，请重新开始训练"
                if ended
                else f"任务 {old.id} 的状态是 {old.state}，只有已取消或失败的任务可以继续",
                f"run {old.id} left no checkpoint: start it anew"
                if ended
                else f"run {old.id} is {old.state}; only canceled and failed runs can be gone on with",
                run_id=old.id,
                state=str(old.state),
            )
        run = self._checked(old.recipe, old.output, old.executor, caller)
        # before the record: a run without its checkpoint would begin from nothing
        run_folder.go_on_from(self._home.runs / old.id, self._home.runs / run.id)
        self._store.add(run, None)
        return run

    def metrics(self, run_id: str, after: int = 0, caller: Caller = LOCAL) -> Sequence[dict[str, Any]]:
        """The points of the run's curves after step ``after``, in order.

        Each has ``step``, ``epoch`` and ``time`` (seconds since the epoch). A training step has ``loss``,
        ``learning_rate``, ``tokens_per_second``, ``seconds_left`` and ``grad_norm``; the end of an epoch with
        validation data has ``event`` "validation" and ``validation_loss``, and comes together with its last step.

        Raises:
            NotFound: there is no such run.
        """
        points = []
        for row in run_folder.metrics(self._home.runs / self.get(run_id, caller).id):
            step, event = row.get("step"), row.get("event")
            if not isinstance(step, int) or step <= after or event not in (None, "validation"):
                continue
            if event == "validation":
                row["validation_loss"] = row.pop("loss", None)
            points.append(row)
        return points

    def final_metrics(self, run: Run) -> dict[str, float]:
        """The last figures: ``train_loss``, ``val_loss`` and ``perplexity`` (exp of ``val_loss``), where known."""
        found: dict[str, float] = {}
        for row in run_folder.metrics(self._home.runs / run.id):
            event, loss = row.get("event"), row.get("loss")
            if event in (None, "validation") and isinstance(loss, int | float) and math.isfinite(loss):
                found["train_loss" if event is None else "val_loss"] = float(loss)
        if found.get("val_loss", math.inf) < 700:  # beyond, it is more than a float holds
            found["perplexity"] = math.exp(found["val_loss"])
        return found

    async def reconcile(self) -> None:
        """One pass: running runs are asked after, queued ones started while there is room, oldest first."""
        await self._stop_orphans()
        live = await asyncio.to_thread(self._store.list, states=LIVE, limit=None, oldest_first=True)
        running = [run for run in live if run.state is State.RUNNING]
        ended = await asyncio.gather(*(self._follow(run) for run in running), return_exceptions=True)
        faults = [fault for fault in ended if isinstance(fault, BaseException)]
        busy = Counter(run.executor for run, end in zip(running, ended, strict=True) if end is not True)
        for run in live:
            if run.state is State.QUEUED and busy[run.executor] < self._settings.concurrent_runs:
                busy[run.executor] += await self._submit(run)
        if faults:
            # raised only now: one run that cannot be asked after must not hold up the others
            raise faults[0]

    async def run_forever(self, interval_s: float = 0.5) -> None:
        """Reconcile again and again until canceled; nothing that goes wrong in a pass ends it."""
        while True:
            try:
                await self.reconcile()
            except Exception:
                _log.exception("reconcile_failed")
            await asyncio.sleep(interval_s)

    async def _submit(self, run: Run) -> bool:
        """Give a queued run to its executor; whether it takes up room there now."""
        executor = self._executors.get(run.executor)
        if executor is None:
            return False
        try:
            handle = await executor.submit(run)
        except Unavailable as problem:
            _log.warning("submit_postponed", run_id=run.id, reason=problem.en)
            return True  # those behind it wait their turn too
        except Problem as problem:
            await self._move(run, Report(State.FAILED, error=problem.en, error_zh=problem.zh))
            return False
        try:
            running = run.to(State.RUNNING, handle=handle, started_at=self._clock())
            await asyncio.to_thread(self._store.save, running, was=run)
        except Conflict:
            now = await asyncio.to_thread(self._store.get, run.id)
            if now.state.final:  # canceled while we submitted: nobody would ever ask after it
                await executor.cancel(replace(run, handle=handle))
        return True

    async def _follow(self, run: Run) -> bool:
        """Ask after a running run; whether it has ended."""
        executor = self._executors.get(run.executor)
        if executor is None:
            return False  # of an executor that is not configured now: the record stays as it is
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
        failed = report.state is State.FAILED
        changes: dict[str, object] = {
            "progress": report.progress if report.progress.step or not run.progress.step else run.progress,
            "error": (report.error or "no reason was given") if failed else None,
            "error_zh": (report.error_zh or report.error or "未说明原因") if failed else None,
        }
        if report.state.final:
            changes["ended_at"] = self._clock()
        # an executor that has it but not started it yet: for us it runs
        state = State.RUNNING if report.state is State.QUEUED else report.state
        moved = run.to(state, **changes)
        if moved == run:
            return False
        try:
            await asyncio.to_thread(self._store.save, moved, was=run)
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

    def _made(self, caller: Caller, once: Once | None) -> Run | None:
        """The run that an earlier try of the same request made."""
        found = None if once is None else self._store.made_by(caller.name, once.key)
        if once is None or found is None:
            return None
        run, digest = found
        if digest != once.digest:
            raise key_used(once.key)
        return run

    def _checked(self, recipe: Recipe, output: str, executor: str, caller: Caller) -> Run:
        """The run to record; raises as ``start``."""
        if executor not in self._executors:
            raise NotFound(f"没有名为 {executor} 的执行器", f"there is no executor {executor}", field="executor")
        base = self._registry.base(recipe.base_model)
        recipe = replace(recipe, base_model=base.name)
        limits.check(recipe, base.context_length)
        self._check_readable(recipe.dataset, recipe.dataset_format, recipe.skip_bad, caller)
        for name in (recipe.validation, recipe.replay, recipe.control):
            if name is not None:
                self._check_readable(name, None, recipe.skip_bad, caller)
        run_id, now = uuid.uuid4().hex, self._clock()
        place = self._places.free(output.replace("{dataset}", f"{_stem(recipe.dataset)}-{run_id[:8]}"), caller)
        require_free(self._home.root, _ROOM)
        return Run(
            id=run_id,
            recipe=recipe,
            output=place,
            executor=executor,
            owner=caller.name,
            created_at=now,
            updated_at=now,
        )

    def _check_readable(self, name: str, kind: str | None, skip_bad: bool, caller: Caller) -> None:
        """The caller may read the file, it is there and its first row can be used; the trainer reads the rest."""
        self._may_read(name, caller)
        bad: list[BadRow] = []

        def refuse(row: BadRow) -> None:
            if skip_bad:
                return
            bad.append(row)
            raise refusal(bad, name)

        found = read_examples(self._home, name, format=kind, on_bad=refuse)
        with closing(cast("Generator[Example, None, None]", found)) as examples:
            if next(examples, None) is None:
                raise Invalid(f"{name} 中没有可用的样本", f"{name} holds no usable example", field="dataset")


def _stem(dataset: str) -> str:
    """A short name for what is learned from ``dataset``: ``town`` for ``town/train`` and for ``data/town.jsonl``."""
    parts = [part for part in PurePosixPath(dataset).parts if part not in ("train", "all")]
    stem = re.sub(r"[^\w-]+", "-", PurePosixPath(parts[-1]).stem if parts else "")[:40].strip("-_")
    return stem or "adapter"
