"""``tunesmith runs``: the record of every training."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, planning, watching
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    aligned,
    duration,
    language,
    line,
    note,
    say,
    show_json,
    table,
    verb,
)
from tunesmith.cli.session import opened, run_inside
from tunesmith.kernel.problems import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.training.run import Run, State
    from tunesmith.training.run_folder import Done
    from tunesmith.training.service import TrainingService

app = typer.Typer(
    no_args_is_help=True, help=say("训练任务：列出、查看、跟踪、取消", "Training runs: list, show, watch, cancel.")
)

IdArgument = Annotated[
    str,
    typer.Argument(
        autocompletion=completing.runs,
        help=say("任务 id，或只属于它的开头", "The run's id, or its beginning where unique."),
    ),
]
_MOST_SEARCHED = 1000


@app.command("list", help=say("列出任务，新的在前", "List runs, newest first."))
@verb
def list_(
    state: Annotated[str | None, typer.Option(help="queued, running, completed, failed, canceled")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help=say("最多显示几个", "Most runs shown."))] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """State, progress, loss and where the adapter lies."""
    wanted = _state(state)
    with opened(home) as services:
        found = [(run, services.training.silent_s(run)) for run in services.training.list(state=wanted, limit=limit)]
    if as_json:
        show_json({"runs": [summary(run, silent_s) for run, silent_s in found]})
        return
    columns = ["id", say("状态", "state"), say("进度", "done"), say("损失", "loss"), say("基座", "base")]
    columns += [say("数据集", "dataset"), say("适配器", "adapter"), say("创建", "created"), say("用时", "took")]
    table(columns, [_row(run, silent_s) for run, silent_s in found])


@app.command("show", help=say("查看一个任务", "Show a run."))
@verb
def show(run_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Its recipe, where it stands, and its files."""
    from tunesmith.training.data.findings import read_report
    from tunesmith.training.run_folder import read_done

    with opened(home) as services:
        run = find(services.training, run_id)
        silent_s = services.training.silent_s(run)
        curve = watching.Curve()
        for row in services.training.metrics(run.id):
            curve.take(row)
        folder = services.home.runs / run.id
        held = planning.held(folder)
        examined, done = read_report(folder), read_done(folder)
    if as_json:
        found = {"folder": folder, "losses": curve.losses, "plan": held, "data": examined}
        show_json(summary(run, silent_s) | found | {"done": done})
        return
    reason = run.reason(language())
    facts: list[tuple[str, object]] = [
        ("id", run.id),
        (say("状态", "state"), _standing(run, silent_s) + (f": {reason}" if reason else "")),
        (say("步数", "step"), f"{run.progress.step}/{run.progress.total_steps}"),
        (say("适配器", "adapter"), run.output),
        (say("目录", "folder"), folder),
        (say("用时", "took"), _took(run)),
    ]
    if losses := curve.losses:
        bars = watching.sparkline(losses, 60)
        facts.append((say("损失", "loss"), f"{bars}  {losses[0]:.3f} -> {losses[-1]:.3f}"))
    facts += _ending(run, done)
    if held is not None:
        facts.append((say("预测", "predicted"), planning.judged(held)))
    if examined is not None:
        facts.append((say("数据", "data"), examined.line(language())))
    for text in aligned(facts):
        line(text)
    line(say("配方", "recipe"))
    for text in aligned(_recipe(run).items()):
        line(f"  {text}")


def _ending(run: "Run", done: "Done | None") -> list[tuple[str, object]]:
    """What a trainer found out beside the loss."""
    from tunesmith.training.figures import ACCURACIES, MARGINS

    facts: list[tuple[str, object]] = []
    if done is None or run.state.value != "completed":
        return facts
    if done.validation_loss is not None:
        of = say(f"（第 {done.best_step} 步的权重）", f" (weights of step {done.best_step})") if done.best_step else ""
        facts.append((say("验证损失", "validation loss"), f"{done.validation_loss:.4f}{of}"))
    for prefix, zh, en in (("", "最后一轮", "last epoch"), ("eval_", "验证", "validation")):
        figures = [done.figures.get(f"{prefix}{name}") for name in (ACCURACIES, MARGINS)]
        if figures[0] is not None and figures[1] is not None:
            facts.append((say(f"偏好（{zh}）", f"preferences ({en})"), watching.rewards((figures[0], figures[1]))))
    if run.progress.step < run.progress.total_steps:
        said = say("验证损失不再下降", "the validation loss fell no more")
        facts.append((say("提前停止", "stopped early"), said))
    if done.control_before is not None and done.control_after is not None:
        facts.append((say("对照集损失", "control loss"), f"{done.control_before:.4f} -> {done.control_after:.4f}"))
    return facts


@app.command(
    "watch", help=say("跟踪任务直到结束；Ctrl-C 只停止跟踪", "Follow a run to its end; Ctrl-C only stops looking.")
)
@verb
def watch(run_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """With --json every row of metrics is one line, and the record the last."""

    async def work(services: "Services") -> "Run":
        run = await asyncio.to_thread(find, services.training, run_id)
        on_row = show_json if as_json else lambda row: None
        with watching.shown() as seen:
            return await watching.follow(services.training, run.id, seen, on_row=on_row)

    run = run_inside(home, work)
    if as_json:
        show_json(summary(run))
    else:
        line(say(f"任务 {run.id}：{say(*watching.STATES[run.state.value])}", f"run {run.id}: {run.state.value}"))
    if run.state.value == "failed":
        raise typer.Exit(PROBLEM)


@app.command("cancel", help=say("取消任务", "Cancel a run."))
@verb
def cancel(run_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Waits until the trainer has stopped."""

    async def work(services: "Services") -> "Run":
        run = await asyncio.to_thread(find, services.training, run_id)
        if run.state.final:
            raise Conflict(
                f"任务 {run.id} 已经结束：{say(*watching.STATES[run.state.value])}",
                f"run {run.id} has ended already: {run.state.value}",
                run_id=run.id,
                state=run.state.value,
            )
        await asyncio.to_thread(services.training.cancel, run.id)
        return await watching.follow(services.training, run.id, lambda run, curve: None)

    run = run_inside(home, work)
    if as_json:
        show_json(summary(run))
    else:
        line(say(f"任务 {run.id}：{say(*watching.STATES[run.state.value])}", f"run {run.id}: {run.state.value}"))


@app.command(
    "resume", help=say("从检查点继续已取消或失败的任务", "Go on with a canceled or failed run from its checkpoint.")
)
@verb
def resume(run_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Makes a new run and follows it; where a server runs on this home, that one trains."""

    async def work(services: "Services") -> "Run":
        old = await asyncio.to_thread(find, services.training, run_id)
        run = await asyncio.to_thread(services.training.resume, old.id)
        note(
            say(
                f"新任务 {run.id}，从任务 {old.id} 的检查点继续",
                f"run {run.id} goes on from the checkpoint of {old.id}",
            )
        )
        return await watching.follow(services.training, run.id, lambda run, curve: None)

    run = run_inside(home, work)
    if as_json:
        show_json(summary(run))
    else:
        line(say(f"任务 {run.id}：{say(*watching.STATES[run.state.value])}", f"run {run.id}: {run.state.value}"))
    if run.state.value == "failed":
        raise typer.Exit(PROBLEM)


def find(training: "TrainingService", text: str) -> "Run":
    """The run whose id is ``text``, or the only one whose id begins so.

    Raises:
        NotFound: none. Invalid: several.
    """
    try:
        return training.get(text)
    except (NotFound, Invalid):
        pass
    found = [run for run in training.list(limit=_MOST_SEARCHED) if text and run.id.startswith(text)]
    if len(found) > 1:
        raise Invalid(
            f"{text} 不唯一：{len(found)} 个任务以它开头",
            f"{text} is not unique: {len(found)} runs begin so",
            field="id",
        )
    if not found:
        raise NotFound(f"任务不存在：{text}", f"there is no run {text}", run_id=text)
    return found[0]


def summary(run: "Run", silent_s: float | None = None) -> dict[str, Any]:
    """The JSON form of a run.

    Args:
        silent_s: for so long its trainer has shown no sign of life, where that is unusual.
    """
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(run, enc_hook=str)
    return found | {"seconds": _seconds(run), "seconds_silent": silent_s}


def _state(text: str | None) -> "State | None":
    from tunesmith.training.run import State

    if text is None:
        return None
    try:
        return State(text)
    except ValueError:
        known = ", ".join(State)
        raise Invalid(f"状态应为 {known} 之一，得到 {text!r}", f"state must be one of {known}, got {text!r}") from None


def _standing(run: "Run", silent_s: float | None) -> str:
    state = say(*watching.STATES[run.state.value])
    if silent_s is None:
        return state
    return state + say(f"（{duration(silent_s)}没有动静）", f" (no sign of life for {duration(silent_s)})")


def _row(run: "Run", silent_s: float | None) -> tuple[object, ...]:
    return (
        run.id[:8] if len(run.id) > 20 else run.id,
        _standing(run, silent_s),
        f"{run.progress.fraction:.0%}",
        "" if run.progress.loss is None else f"{run.progress.loss:.3f}",
        run.recipe.base_model,
        run.recipe.dataset,
        run.output,
        f"{run.created_at.astimezone():%m-%d %H:%M}",
        _took(run),
    )


def _recipe(run: "Run") -> dict[str, Any]:
    from dataclasses import asdict

    return {name: value for name, value in asdict(run.recipe).items() if value not in (None, ())}


def _seconds(run: "Run") -> float | None:
    if run.started_at is None:
        return None
    return ((run.ended_at or datetime.now(run.started_at.tzinfo)) - run.started_at).total_seconds()


def _took(run: "Run") -> str:
    seconds = _seconds(run)
    return "" if seconds is None else duration(max(0.0, seconds))
