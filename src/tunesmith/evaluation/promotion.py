"""Moving an alias only where nothing became worse: the new version against the one it would replace, question by question.

A report, as JSON: ``{"before": "town@2" or null, "after": "town@3", "sets": [...], "worse": [...]}``. Each set has
``role`` ("test" or "control"), ``dataset``, ``evaluations`` (ids, ``after`` and ``before``) and ``result``, of the shape
of ``metrics.result`` with the version before as its base. ``worse`` lists ``{"role", "dataset", "metric"}``.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.evaluation import metrics
from tunesmith.evaluation.evaluation import EvaluationRequest, Question
from tunesmith.evaluation.metrics import LOWER_IS_BETTER, Answers, Figure
from tunesmith.evaluation.service import Evaluation, EvaluationService
from tunesmith.inference.engine import Sampling, Score
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Conflict, Invalid, Problem, Unavailable
from tunesmith.models.aliases import Alias, Aliases, Kind
from tunesmith.models.model import Model
from tunesmith.models.registry import Registry
from tunesmith.models.versions import Version, Versions

# with fewer, not even a version that is wrong on every question differs significantly
FEWEST_QUESTIONS = 6
_POLL_S = 0.2

Report = dict[str, Any]
Told = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class TestSet:
    """Questions both versions are asked.

    Attributes:
        role: "test" is what was learned for; "control" what must not be forgotten.
        dataset: what a person calls it.
    """

    __test__ = False  # pytest's

    role: Literal["test", "control"]
    dataset: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Promotion:
    """What is asked for.

    Attributes:
        adapter: by any name: of its folder, a version, another alias.
        sets: what is compared on; may be empty only where ``force`` is set.
        metrics: of ``metrics.NAMES``.
        sampling: how answers are drawn; greedy, or the same comparison may end otherwise.
        force: move it whatever the comparison says; the history keeps that it was so.
    """

    adapter: str
    alias: str
    sets: tuple[TestSet, ...]
    metrics: tuple[str, ...]
    sampling: Sampling
    force: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        moved: false where something became worse, or the alias pointed there already.
        alias: where it points now; None where there is none yet.
        report: None where nothing was measured.
    """

    moved: bool
    alias: Alias | None
    report: Report | None = None

    @property
    def refused(self) -> bool:
        """Whether it was left where it is because something became worse."""
        return not self.moved and self.report is not None


class Promotions:
    """Compares two versions and moves an alias."""

    def __init__(
        self, evaluations: EvaluationService, registry: Registry, versions: Versions, aliases: Aliases
    ) -> None:
        self._evaluations, self._registry, self._versions, self._aliases = evaluations, registry, versions, aliases

    async def promote(self, asked: Promotion, caller: Caller = LOCAL, told: Told = lambda share: None) -> Outcome:
        """Measure the new version and the one the alias points at on the same questions; move it if none became worse.

        A figure became worse where the paired bootstrap says so (``bootstrap.Difference.significant``). An alias that
        is new has nothing to be compared with: its version is measured alone, so that its history begins with figures.
        Canceled at any moment, nothing has moved.

        Args:
            told: called with the share done, in [0, 1].

        Raises:
            NotFound, Invalid, Forbidden: no such adapter, or one that cannot be used; no alias may be called so, or it
                is another's; there is nothing to compare on, or too little to show anything.
            Conflict: the version it points at is gone (``force`` moves it all the same); somebody moved it meanwhile.
            Unavailable: a version could not be measured.
        """
        alias = await asyncio.to_thread(self._aliases.movable, asked.alias, caller)
        after = await asyncio.to_thread(self._found, asked.adapter)
        if alias is not None and alias.version == after:
            return Outcome(False, alias)
        _check_sets(asked)
        before = await asyncio.to_thread(self._before, alias, asked.force)
        report = await self._report(asked, after, before, caller, told) if asked.sets else None
        worse = bool(report and report["worse"])
        if worse and not asked.force:
            return Outcome(False, alias, report)
        moved = await asyncio.to_thread(
            lambda: self._aliases.move(
                asked.alias,
                after,
                expected=alias.serial if alias else 0,
                kind=Kind.FORCED if asked.force else Kind.PROMOTED,
                report=report,
                caller=caller,
            )
        )
        return Outcome(True, moved, report)

    def _found(self, adapter: str) -> Version:
        found = self._registry.adapter(adapter)
        self._registry.base(found.base)
        return self._versions.of(found)

    def _before(self, alias: Alias | None, force: bool) -> Version | None:
        """The version to be compared with; None where there is none, or none that can be asked and nobody minds."""
        if alias is None:
            return None
        try:
            self._versions.usable(alias.version)
        except Conflict as problem:
            if force:
                return None
            raise Conflict(
                f"无法比较：{problem.zh}（--force 可不经比较直接移动）",
                f"nothing to compare with: {problem.en} (forcing it moves the alias without)",
                **problem.details,
            ) from problem
        return alias.version

    async def _report(
        self, asked: Promotion, after: Version, before: Version | None, caller: Caller, told: Told
    ) -> Report:
        versions = [version for version in (before, after) if version is not None]
        parts = len(versions) * len(asked.sets)
        sets: list[Report] = []
        for test in asked.sets:
            done: list[Evaluation] = []
            for version in versions:
                number = len(sets) * len(versions) + len(done)
                moved: Told = lambda share, n=number: told((n + share) / parts)  # type: ignore[misc] # noqa: E731
                done.append(await self._measured(asked, test, version, caller, moved))
            sets.append(await asyncio.to_thread(self._compared, asked, test, done))
        worse = [
            {"role": each["role"], "dataset": each["dataset"], "metric": name}
            for each in sets
            for name, change in each["result"].get("difference", {}).items()
            if became_worse(name, change)
        ]
        return {"before": before.ref if before else None, "after": after.ref, "sets": sets, "worse": worse}

    async def _measured(
        self, asked: Promotion, test: TestSet, version: Version, caller: Caller, told: Told
    ) -> Evaluation:
        """A recorded evaluation of that version, completed."""
        model = Model(self._registry.base(version.base).name, version.adapter)
        label = f"{version.ref}: {test.dataset}"
        request = EvaluationRequest(model, test.questions, asked.metrics, asked.sampling, label=label)
        started = await asyncio.to_thread(self._evaluations.start, request, caller)
        work = asyncio.ensure_future(self._evaluations.execute(started.id))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_POLL_S)
                now = await asyncio.to_thread(self._evaluations.get, started.id)
                told(now.done / now.total if now.total else 0.0)
            ended = work.result()
        finally:
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError, Problem):
                    await work
        if ended.result is None:
            why = ended.failure
            raise Unavailable(
                f"{version.ref} 的评估 {ended.id} 未完成：{why.zh if why else ended.state}；别名未移动",
                f"evaluation {ended.id} of {version.ref} did not complete: {why.en if why else ended.state}; the "
                "alias was not moved",
                evaluation_id=ended.id,
            )
        return ended

    def _compared(self, asked: Promotion, test: TestSet, done: Sequence[Evaluation]) -> Report:
        """The figures of the last of ``done``, with the difference from the first where there are two."""
        references = [question.expected for question in test.questions]
        figures = [self._figures(asked.metrics, references, each) for each in done]
        result = metrics.result(figures[-1], figures[0] if len(figures) > 1 else None)
        ids = {"after": done[-1].id} | ({"before": done[0].id} if len(done) > 1 else {})
        return {"role": test.role, "dataset": test.dataset, "evaluations": ids, "result": result}

    def _figures(self, names: Sequence[str], references: Sequence[str], done: Evaluation) -> dict[str, Figure]:
        """From what was recorded, so that a report can be made again from it."""
        rows = self._evaluations.outputs(done.id)
        answers = Answers(
            [row["output"] for row in rows if "output" in row],
            [Score(row["logprob"], row["tokens"]) for row in rows if "logprob" in row],
        )
        return metrics.figures(names, references, answers)


def became_worse(metric: str, difference: dict[str, Any]) -> bool:
    """Whether the difference, after minus before, is a real one for the worse."""
    return bool(difference["significant"]) and (difference["value"] > 0) == (metric in LOWER_IS_BETTER)


def refusal(outcome: Outcome, alias: str) -> Conflict:
    """The Problem of a promotion that was refused: which figures became worse, from what to what."""
    assert outcome.report is not None
    said = []
    for each in outcome.report["worse"]:
        [result] = [s["result"] for s in outcome.report["sets"] if s["role"] == each["role"]]
        name = each["metric"]
        before, after, change = (result[part][name] for part in ("base", "metrics", "difference"))
        said.append(
            f"{each['dataset']} {name} {before['value']:.3f} → {after['value']:.3f}, "
            f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        )
    before, after = outcome.report["before"], outcome.report["after"]
    return Conflict(
        f"{alias} 未移动，仍指向 {before}：{after} 显著变差：{'；'.join(said)}",
        f"{alias} was not moved and still points at {before}: {after} is significantly worse: {'; '.join(said)}",
        alias=alias,
        version=before,
        refused=after,
        worse=outcome.report["worse"],
    )


def _check_sets(asked: Promotion) -> None:
    if asked.force:
        return
    if not any(test.role == "test" for test in asked.sets):
        raise Invalid(
            "请给出测试集（--on）：移动别名前要先比较",
            "name a test set (--on): it is compared before it moves",
            field="on",
        )
    for test in asked.sets:
        if len(test.questions) < FEWEST_QUESTIONS:
            raise Invalid(
                f"{test.dataset} 只有 {len(test.questions)} 题，少于 {FEWEST_QUESTIONS} 题时任何退步都不可能显著；"
                "请使用更大的测试集",
                f"{test.dataset} has {len(test.questions)} questions; with fewer than {FEWEST_QUESTIONS} no loss can "
                "be significant: use a larger one",
                field="on" if test.role == "test" else "control",
            )
