"""A run as it trains: step, loss, speed, time left and the loss as a sparkline."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.cli.screen import console, duration, note, say
from tunesmith.kernel.problems import Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tunesmith.training.run import Run
    from tunesmith.training.service import TrainingService

_POLL_S = 0.2
_LINE_EVERY_S = 5.0  # where there is no terminal to redraw

STATES = {
    "queued": ("排队中", "queued"),
    "running": ("训练中", "training"),
    "completed": ("已完成", "completed"),
    "failed": ("失败", "failed"),
    "canceled": ("已取消", "canceled"),
}


@dataclass(slots=True)
class Curve:
    """The losses seen so far, in order.

    Attributes:
        told_at: when the trainer told of the last (seconds since the epoch).
        rewards: accuracy and margin of the last step that learned preferences. scored: of their last scoring.
    """

    losses: list[float] = field(default_factory=list)
    told_at: float | None = None
    rewards: tuple[float, float] | None = None
    scored: tuple[float, float] | None = None

    def take(self, row: Mapping[str, Any]) -> None:
        """Add one row of metrics.jsonl; rows that tell of an event, such as a validation loss, are no step."""
        from tunesmith.training.figures import ACCURACIES, MARGINS

        if ACCURACIES in row and MARGINS in row:
            found = (float(row[ACCURACIES]), float(row[MARGINS]))
            if row.get("event") == "validation":
                self.scored = found
            else:
                self.rewards = found
        loss = row.get("loss")
        if isinstance(loss, int | float) and "event" not in row:
            self.losses.append(float(loss))
            self.told_at = row.get("time", self.told_at)


Seen = Callable[["Run", Curve], None]


async def follow(
    training: "TrainingService",
    run_id: str,
    seen: Seen,
    *,
    drive: bool = True,
    on_row: Callable[[Mapping[str, Any]], None] = lambda row: None,
) -> "Run":
    """The run once its state is final.

    Args:
        seen: called with the record and the losses whenever either may have changed.
        drive: move runs forward from here; needed where no server does it, harmless where one does.
        on_row: called with each row of metrics, in order.

    Raises:
        NotFound: no such run.
    """
    curve, after = Curve(), 0
    while True:
        if drive:
            await training.reconcile()
        # the record first: metrics read after a final state are all there will be
        run = await asyncio.to_thread(training.get, run_id)
        for row in await asyncio.to_thread(training.metrics, run_id, after):
            after = max(after, int(row.get("step", after)))
            curve.take(row)
            on_row(row)
        seen(run, curve)
        if run.state.final:
            return run
        await asyncio.sleep(_POLL_S)


@contextmanager
def shown() -> Iterator[Seen]:
    """Something to give ``follow``: draws on a terminal's standard error, writes a line now and then elsewhere."""
    from rich.live import Live

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _Lines()
        return
    with Live(console=screen, refresh_per_second=8, transient=False) as live:
        yield lambda run, curve: live.update(_drawn(run, curve, screen.width))


def completed(run: "Run") -> "Run":
    """``run`` if it completed.

    Raises:
        Unavailable: it failed or was canceled; the message says why.
    """
    if run.state.value == "completed":
        return run
    zh, en = STATES[run.state.value]
    why_zh, why_en = run.reason("zh"), run.reason("en")
    raise Unavailable(
        f"任务 {run.id} {zh}" + (f"：{why_zh}" if why_zh else ""),
        f"run {run.id} {en}" + (f": {why_en}" if why_en else ""),
        run_id=run.id,
        state=run.state.value,
    )


def rewards(found: tuple[float, float]) -> str:
    """How well chosen answers are told from rejected ones, as text."""
    accuracy, margin = found
    return say(f"奖励准确率 {accuracy:.0%}，差距 {margin:.2f}", f"reward accuracy {accuracy:.0%}, margin {margin:.2f}")


def sparkline(losses: list[float], width: int) -> str:
    """The losses as one line of bars."""
    from tunesmith.training.curve import sparkline as bars

    return bars(losses, width)


class _Lines:
    """A line when the state changes and every few seconds of training."""

    def __init__(self) -> None:
        self._state, self._said_at = "", 0.0

    def __call__(self, run: "Run", curve: Curve) -> None:
        now = time.monotonic()
        due = bool(run.progress.step) and run.state.value == "running" and now - self._said_at >= _LINE_EVERY_S
        if run.state.value != self._state or due:
            self._state, self._said_at = run.state.value, now
            note(_facts(run, curve))
        if run.state.final and curve.losses:
            note(f"{say('损失', 'loss')} {sparkline(curve.losses, 60)}")


def _facts(run: "Run", curve: Curve) -> str:
    """One line about where the run stands."""
    progress = run.progress
    parts = [say(*STATES[run.state.value])]
    if run.state.value == "running" and not progress.step:
        parts = [say("准备中：读取数据、加载模型", "preparing: reading the data, loading the model")]
    if progress.total_steps:
        parts.append(
            say(f"第 {progress.step}/{progress.total_steps} 步", f"step {progress.step}/{progress.total_steps}")
        )
    if progress.loss is not None:
        parts.append(say(f"损失 {progress.loss:.3f}", f"loss {progress.loss:.3f}"))
    if curve.rewards is not None:
        parts.append(rewards(curve.rewards))
    if curve.scored is not None:
        parts.append(say(f"验证：{rewards(curve.scored)}", f"validation: {rewards(curve.scored)}"))
    if progress.tokens_per_second and not run.state.final:
        parts.append(say(f"{progress.tokens_per_second:,.0f} 词元/秒", f"{progress.tokens_per_second:,.0f} tokens/s"))
    if progress.seconds_left is not None and not run.state.final:
        left = duration(progress.seconds_left)
        parts.append(say(f"剩余 {left}", f"{left} left"))
    elif run.state.value == "running" and run.progress.step and curve.told_at is not None:
        # the executor takes the time left back when no step comes any more
        quiet = duration(max(0.0, time.time() - curve.told_at))
        parts.append(say(f"已有 {quiet} 没有新的一步", f"no step for {quiet}"))
    return "  ".join(parts)


def _drawn(run: "Run", curve: Curve, width: int) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    columns = max(10, min(60, width - 2))
    full = round(run.progress.fraction * columns)
    rows = [
        Text("━" * full, style="green").append("━" * (columns - full), style="bright_black"),
        Text(_facts(run, curve)),
    ]
    if curve.losses:
        rows.append(Text(sparkline(curve.losses, columns), style="cyan"))
    return Group(*rows)
