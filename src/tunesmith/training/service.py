"""Training for every caller: runs are recorded, moved forward by a reconciler, and never change once they ended."""

import math
import re
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import Insert

from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference, read_preferences
from tunesmith.datasets.reading import read_examples, refusal
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.files import require_free
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, Unavailable
from tunesmith.settings import Settings
from tunesmith.training import limits, run_folder
from tunesmith.training.executor import Executor
from tunesmith.training.holder import Holder
from tunesmith.training.places import Bases, Places
from tunesmith.training.reconciler import Reconciler
from tunesmith.training.run import Once, Recipe, Run, State
from tunesmith.training.store import LIVE, RunStore, key_used, missing

_ROOM = 64_000_000  # bytes free before a run is accepted; the trainer knows better once it has the model
_TRIES = 10
_SILENT_S = 30.0  # a trainer shows a sign of life every two seconds, on a machine that has time for it
_DEFAULT_OUTPUT = "adapters/{dataset}"


class TrainingService:
    """Starts, lists, cancels and follows runs. Another's run is answered like a missing one, but to an admin.

    Args:
        executors: by the name a run is recorded with.
        may_read: raises NotFound where the name is of data that the caller may not see; asked before it is opened.
        is_alias: whether that name points at a version of an adapter; no adapter is published under it.
        rooms: how many runs an executor has under way at once, where that is not the settings' ``concurrent_runs``.
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
        is_alias: Callable[[str], bool] = lambda name: False,
        rooms: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._store, self._executors, self._registry = store, executors, registry
        self._home, self._settings, self._clock = home, settings, clock
        self._may_read = may_read
        self._places = Places(store, registry, home, is_alias)
        me = Holder(home.runs / "holders")
        self._reconciler = Reconciler(store, executors, me, settings, clock, rooms)

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
        if (made := self.made(caller, once)) is not None:
            return made
        try:
            settled = recipe if isinstance(recipe, Recipe) else recipe()
            run = self._checked(settled, _DEFAULT_OUTPUT if output is None else output, executor, caller)
            self.record(run, once)
        except Problem:
            # another try of this very request may have come first, and its run be what is in the way
            if (made := self.made(caller, once)) is not None:
                return made
            raise
        return run

    def prepared(self, recipe: Recipe, run_id: str, executor: str, about: str, caller: Caller) -> Run:
        """The run to ``record``, with an output called after ``about``; its files were made for it, below its folder.

        On this machine the recipe is checked as ``start`` checks it; that of another executor was checked before.

        Raises:
            as ``start``.
        """
        own = (recipe.dataset, recipe.validation)
        output = f"adapters/{_stem(about)}-{run_id[:8]}"
        if executor == "local":
            return self._checked(recipe, output, executor, caller, run_id, own)
        return self._placed(recipe, output, executor, caller, run_id)

    def record(self, run: Run, once: Once | None, beside: Sequence[Insert] = ()) -> None:
        """Record a run together with what others keep of it; it starts when its turn comes.

        Raises:
            Conflict: as ``start``.
        """
        self._store.add(run, once, beside)
        self._reconciler.wake()

    def checked(self, recipe: Recipe, *, output: str | None = None, caller: Caller = LOCAL) -> Recipe:
        """The recipe as a run would be recorded with it; raises as ``start``, and records nothing."""
        return self._checked(recipe, _DEFAULT_OUTPUT if output is None else output, "local", caller).recipe

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

    def idle(self) -> bool:
        """Whether no run of anybody is under way or waits on this machine; others may take days elsewhere."""
        return not any(run.executor == "local" for run in self._store.list(states=LIVE, limit=None))

    def latest_completed(self, caller: Caller = LOCAL, limit: int = 20) -> Sequence[Run]:
        """The caller's runs that published an adapter, the last to end first; it may have been deleted since."""
        return self._store.completed(owner=caller.only, limit=limit)

    def of_output(self, adapter: str, caller: Caller = LOCAL) -> Run | None:
        """The last run that published the adapter of that name, if the caller may see it."""
        return next(iter(self._store.completed(owner=caller.only, output=adapter, limit=1)), None)

    def published(self, run: Run) -> str | None:
        """Where the run's adapter is, a name under home; None before it is, and while its provider alone has it."""
        if run.state is not State.COMPLETED or not (run.executor == "local" or (self._home.root / run.output).is_dir()):
            return None
        return run.output

    def silent_s(self, run: Run) -> float | None:
        """Seconds for which the trainer of a running run has shown no sign of life, where they are unusually many.

        None where it showed one lately, or where no trainer should. It may be stopped, hang as a whole, or be gone with
        nobody there to start another.
        """
        if run.state is not State.RUNNING:
            return None
        silent_s = run_folder.silent_s(self._home.runs / run.id)
        return silent_s if silent_s is not None and silent_s >= _SILENT_S else None

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
                f"任务 {old.id} 在写下第一个检查点之前就结束了，没有可继续的内容："
                f"请用同一配方重新开始（tunesmith runs show {old.id} 可查看配方）"
                if ended
                else f"任务 {old.id} 的状态是 {old.state}，只有已取消或失败的任务可以继续",
                f"run {old.id} ended before its first checkpoint, so there is nothing to go on from: "
                f"start it anew with its recipe (tunesmith runs show {old.id} prints it)"
                if ended
                else f"run {old.id} is {old.state}; only canceled and failed runs can be gone on with",
                run_id=old.id,
                state=str(old.state),
            )
        own = (old.recipe.dataset, old.recipe.validation)
        run = self._checked(old.recipe, old.output, old.executor, caller, own=own)
        # before the record: a run without its checkpoint would begin from nothing
        run_folder.go_on_from(self._home.runs / old.id, self._home.runs / run.id)
        self._store.add(run, None)
        self._reconciler.wake()
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
        done = run_folder.read_done(self._home.runs / run.id)
        if done is not None and done.validation_loss is not None:
            found["val_loss"] = done.validation_loss  # of the published weights, which need not be the last
        # of a likelihood alone; beyond 700 it is more than a float holds
        if run.recipe.objective == "sft" and found.get("val_loss", math.inf) < 700:
            found["perplexity"] = math.exp(found["val_loss"])
        return found

    async def reconcile(self) -> None:
        """One pass of moving runs forward, those alone that no other server holds a lease on."""
        await self._reconciler.once()

    async def run_forever(self, interval_s: float = 0.5) -> None:
        """Reconcile again and again until canceled; nothing that goes wrong in a pass ends it."""
        await self._reconciler.forever(interval_s)

    def release(self) -> None:
        """Let go of the runs that were moved forward from here, for another server to follow; they train on."""
        self._reconciler.release()

    def made(self, caller: Caller, once: Once | None) -> Run | None:
        """The run that an earlier try of the same request made; None where there is none.

        Raises:
            Conflict: the caller has used the key for another request.
        """
        found = None if once is None else self._store.made_by(caller.name, once.key)
        if once is None or found is None:
            return None
        run, digest = found
        if digest != once.digest:
            raise key_used(once.key)
        return run

    def _checked(
        self,
        recipe: Recipe,
        output: str,
        executor: str,
        caller: Caller,
        run_id: str | None = None,
        own: tuple[str | None, ...] = (),
    ) -> Run:
        """The run to record; raises as ``start``. Whoever sees the run may read the files in ``own``, made for it."""
        if executor not in self._executors:
            raise NotFound(f"没有名为 {executor} 的执行器", f"there is no executor {executor}", field="executor")
        base = self._registry.base(recipe.base_model)
        recipe = replace(recipe, base_model=base.name)
        limits.check(recipe, base.context_length)
        files = (
            (recipe.dataset, recipe.dataset_format, True),
            (recipe.validation, None, True),
            (recipe.replay, None, False),
            (recipe.control, None, False),
        )
        for name, kind, learned in files:
            if name is not None:
                if name not in own or not name.startswith("runs/"):
                    self._may_read(name, caller)
                self._check_readable(name, kind, recipe, learned=learned)
        return self._placed(recipe, output, executor, caller, run_id or uuid.uuid4().hex)

    def _placed(self, recipe: Recipe, output: str, executor: str, caller: Caller, run_id: str) -> Run:
        now = self._clock()
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

    def _check_readable(self, name: str, kind: str | None, recipe: Recipe, *, learned: bool) -> None:
        """The file is there and its first row can be used; the trainer reads the rest."""
        bad: list[BadRow] = []

        def refuse(row: BadRow) -> None:
            if recipe.skip_bad:
                return
            bad.append(row)
            raise refusal(bad, name)

        read = read_preferences if recipe.objective == "dpo" and learned else read_examples
        found = read(self._home, name, format=kind, on_bad=refuse)
        with closing(cast("Generator[Example | Preference, None, None]", found)) as examples:
            if next(examples, None) is None:
                raise Invalid(f"{name} 中没有可用的样本", f"{name} holds no usable example", field="dataset")


def _stem(dataset: str) -> str:
    """A short name for what is learned from ``dataset``: ``town`` for ``town/train`` and for ``data/town.jsonl``."""
    parts = [part for part in PurePosixPath(dataset).parts if part not in ("train", "all")]
    stem = re.sub(r"[^\w-]+", "-", PurePosixPath(parts[-1]).stem if parts else "")[:40].strip("-_")
    return stem or "adapter"
