"""What a run would take, and how right that was, as a person reads it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tunesmith.cli.screen import PROBLEM, aligned, duration, language, line, megabytes, say, show_json

if TYPE_CHECKING:
    from tunesmith.training.plan.accuracy import Held
    from tunesmith.training.plan.prediction import Plan


def show(plan: "Plan", *, as_json: bool) -> None:
    """Print the plan; exit with 1 where the run would not fit, so that a script can ask.

    Raises:
        typer.Exit: it would not fit.
    """
    if as_json:
        import msgspec

        found = msgspec.to_builtins(plan)
        more = {"seconds": plan.seconds, "fits": plan.fits, "message": plan.message(language())}
        show_json(found | more)
    else:
        for text in aligned(_facts(plan)):
            line(text)
        line(plan.message(language()))
        for remedy in plan.remedies:
            line(f"  {remedy.message(language())}")
    if not plan.fits:
        raise typer.Exit(PROBLEM)


def held(folder: Path) -> "Held | None":
    """How right the plan of the run in ``folder`` was, where that is known."""
    from tunesmith.training.plan import accuracy

    return accuracy.read(folder)


def judged(held: "Held") -> str:
    """One line: predicted, taken, and by how much that was wrong."""
    by = say("试跑", "rehearsal") if held.predicted.by == "rehearsal" else say("前几步", "its first steps")
    text = f"{duration(held.predicted.seconds)} -> {duration(held.seconds)} ({held.seconds_error:+.0%})"
    if held.memory_error is not None and held.predicted.memory_bytes is not None:
        memory = f"{megabytes(held.predicted.memory_bytes)} -> {megabytes(held.memory_bytes)}"
        text += f", {memory} ({held.memory_error:+.0%})"
    return say(f"{text}，依据{by}", f"{text}, from {by}")


def _facts(plan: "Plan") -> list[tuple[str, object]]:
    how = plan.note(language()) or say("由实际走过的几步测得", "measured on steps really taken")
    cut = f"{plan.cut:.1%}"
    lost = f"{plan.cut_tokens:.1%}"
    skipped = say(f"，跳过 {plan.skipped} 行", f", {plan.skipped} rows left out") if plan.skipped else ""
    examples = say(f"每轮 {plan.examples} 个", f"{plan.examples} an epoch") + skipped
    return [
        (say("依据", "basis"), how),
        (say("步数", "steps"), say(f"{plan.steps}（每轮 {plan.updates_per_epoch}）", f"{plan.steps} ({plan.updates_per_epoch} an epoch)")),
        (say("样本", "examples"), examples),
        (say("词元", "tokens"), say(f"{plan.tokens:,}，其中学习 {plan.supervised:,}", f"{plan.tokens:,}, {plan.supervised:,} of them learned")),
        (say("截断", "cut"), say(f"{cut} 的样本，{lost} 的词元", f"{cut} of the examples, {lost} of the tokens")),
        (
            say("时间", "time"),
            say(
                f"约 {duration(plan.seconds)}（{plan.tokens_per_second:,.0f} 词元/秒）",
                f"about {duration(plan.seconds)} ({plan.tokens_per_second:,.0f} tokens/s)",
            ),
        ),
        (
            say("内存", "memory"),
            say(
                f"{megabytes(plan.memory_bytes)}，{plan.room.device} 可用 {megabytes(plan.room.memory_bytes)}",
                f"{megabytes(plan.memory_bytes)} of {megabytes(plan.room.memory_bytes)} free on {plan.room.device}",
            ),
        ),
        (
            say("磁盘", "disk"),
            say(
                f"{megabytes(plan.disk_bytes)}，剩余 {megabytes(plan.room.disk_bytes)}",
                f"{megabytes(plan.disk_bytes)} of {megabytes(plan.room.disk_bytes)} free",
            ),
        ),
    ]  # fmt: skip
