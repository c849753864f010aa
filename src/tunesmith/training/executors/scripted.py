"""A FAKE executor, for tests of whatever speaks the port: it trains nothing and reports what it is told to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.kernel.problems import Problem
from tunesmith.training import limits
from tunesmith.training.executor import Parameter, Report
from tunesmith.training.run import Progress, Run, State


@dataclass(slots=True)
class ScriptedExecutor:
    """Reports ``script`` one entry a poll, the last for ever; obeys cancel at the next poll.

    Attributes:
        script: what runs report, in order; an entry may be a Problem, which is raised.
        refusal: raised by ``submit`` while it is not None.
        submitted: ids in the order they were first submitted.
        canceled: ids that were asked to stop.
    """

    script: Sequence[Report | Problem] = (
        Report(State.RUNNING, Progress(1, 2)),
        Report(State.COMPLETED, Progress(2, 2)),
    )
    refusal: Problem | None = None
    name: str = "scripted"
    submitted: list[str] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    _polls: dict[str, int] = field(default_factory=dict)

    def parameters(self) -> Sequence[Parameter]:
        """The local executor's."""
        return limits.parameters()

    async def base_models(self) -> Sequence[str]:
        """One that is not there."""
        return ["scripted"]

    async def submit(self, run: Run) -> str:
        """Remember the run."""
        if self.refusal is not None:
            raise self.refusal
        if run.id not in self.submitted:
            self.submitted.append(run.id)
        return f"scripted-{run.id}"

    async def poll(self, run: Run) -> Report:
        """The next entry of the script, or that the run was canceled."""
        at = self._polls.get(run.id, 0)
        entry = self.script[min(at, len(self.script) - 1)]
        if run.id in self.canceled and not (isinstance(entry, Report) and entry.state.final):
            return Report(State.CANCELED)
        self._polls[run.id] = at + 1
        if isinstance(entry, Problem):
            raise entry
        return entry

    async def cancel(self, run: Run) -> None:
        """Remember that it was asked."""
        if run.id not in self.canceled:
            self.canceled.append(run.id)
