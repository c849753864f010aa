"""``tunesmith train``: tune a base model on a dataset and watch it."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, data, pairs, planning, repeating, watching
from tunesmith.cli.screen import (
    INTERRUPTED,
    PROBLEM,
    HomeOption,
    JsonOption,
    aligned,
    duration,
    line,
    note,
    say,
    show_json,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import Session
from tunesmith.kernel.problems import Conflict, Problem

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.training.run import Recipe, Run

HELP = say(
    "在数据集上微调基座模型；Ctrl-C 取消训练（--detach 则让它在后台继续）",
    "Tune a base model on a dataset. Ctrl-C cancels the run; --detach leaves it running behind.",
)
_START_WAIT_S = 10.0


@verb
def train(
    dataset: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completing.datasets,
            help=say(
                "数据集、主目录下的文件，或任意文件（会先保存为数据集）",
                "Dataset, file under home, or any file (kept as a dataset first).",
            ),
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            autocompletion=completing.bases, help=say("基座模型，默认 tunesmith-small", "Base model; tunesmith-small.")
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help=say("适配器名称，默认 adapters/<数据集>-<任务>", "Adapter under home; adapters/<dataset>-<run>.")
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help=say("轮数", "Times through the data."))] = None,
    batch_size: Annotated[int | None, typer.Option(help=say("每步样本数", "Examples a step."))] = None,
    learning_rate: Annotated[float | None, typer.Option(help=say("学习率", "Learning rate."))] = None,
    rank: Annotated[int | None, typer.Option(help=say("LoRA 的秩", "LoRA rank."))] = None,
    alpha: Annotated[
        float | None, typer.Option(help=say("LoRA 的 alpha，默认为秩的 2 倍", "LoRA alpha; twice the rank."))
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout.")] = None,
    max_length: Annotated[int | None, typer.Option(help=say("样本的最多词元数", "Most tokens of an example."))] = None,
    validation: Annotated[str | None, typer.Option(help=say("验证集", "Dataset scored during training."))] = None,
    replay: Annotated[
        str | None,
        typer.Option(help=say("混入的通用数据，防止遗忘", "Dataset of general examples mixed in against forgetting.")),
    ] = None,
    replay_share: Annotated[
        float | None,
        typer.Option(help=say("通用数据的占比，默认 0.25", "Their share; 0.25 when --replay is given.")),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help=say("训练前后各评一次的数据，看忘了什么", "Dataset scored before and after: what is forgotten?")
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=say("sft（学回答）或 dpo（学偏好：chosen/rejected）", "sft, or dpo for chosen/rejected rows.")
        ),
    ] = None,
    dpo_beta: Annotated[float | None, typer.Option(help=say("DPO 的 beta", "DPO's beta."))] = None,
    use_dora: Annotated[bool | None, typer.Option("--dora", help=say("使用 DoRA", "Weight-decomposed LoRA."))] = None,
    use_rslora: Annotated[
        bool | None, typer.Option("--rslora", help=say("使用 rsLoRA", "Rank-stabilized LoRA."))
    ] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(help=say("LoRA 模块，逗号分隔，默认全部线性层", "Modules, by commas; all linear ones.")),
    ] = None,
    gradient_accumulation: Annotated[
        int | None, typer.Option(help=say("每次更新累积的步数", "Batches to one update of the weights."))
    ] = None,
    warmup_ratio: Annotated[
        float | None, typer.Option(help=say("预热步数的占比", "Share of the steps spent warming up."))
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help=say("权重衰减", "Weight decay."))] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help=say("每多少步评估一次，默认每轮", "Steps between scorings; each epoch."))
    ] = None,
    keep_best: Annotated[
        bool | None, typer.Option("--keep-best", help=say("保留评估最好的权重", "Keep the best scored weights."))
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help=say("多少次评估无改进后停止", "Scorings without gain to stop at."))
    ] = None,
    seed: Annotated[int | None, typer.Option(help=say("随机种子", "Random seed."))] = None,
    scheduler: Annotated[str | None, typer.Option(help="cosine, linear, constant")] = None,
    quantization: Annotated[
        str | None, typer.Option(help=say("基座的量化：int8、int4", "Of the frozen base: int8, int4."))
    ] = None,
    format_: data.FormatOption = None,
    skip_bad: data.SkipBadOption = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADAPTER",
            autocompletion=completing.adapters,
            help=say(
                "原样重复一个适配器的训练，并比较字节", "Repeat the run that made an adapter, and compare the bytes."
            ),
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help=say("开始后立即返回", "Return once it has started."))
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help=say(
                "只试跑几步，说明这次训练需要多少时间、内存与磁盘",
                "Only try some steps, and say what time, memory and disk the run would take.",
            ),
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    chosen = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "rank": rank, "alpha": alpha,
        "dropout": dropout, "max_length": max_length, "seed": seed, "scheduler": scheduler,
        "quantization": quantization, "objective": objective, "dpo_beta": dpo_beta, "use_dora": use_dora,
        "use_rslora": use_rslora, "gradient_accumulation": gradient_accumulation, "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay, "evaluate_every": evaluate_every, "keep_best": keep_best,
        "early_stopping": early_stopping,
        "target_modules": tuple(target_modules.replace(",", " ").split()) if target_modules else None,
    }  # fmt: skip
    if replay_share is not None and replay is None and from_ is None:
        raise wrong_usage("--replay-share 需要同时给出 --replay", "--replay-share needs --replay beside it")
    others = {**chosen, "base": base, "validation": validation, "replay": replay, "replay_share": replay_share, "format": format_,
              "control": control}  # fmt: skip
    repeating.check_usage(dataset, from_, others | {"skip_bad": skip_bad, "detach": detach})
    if dataset is None:
        assert from_ is not None
        _repeat(home, from_, output, dry_run=dry_run, as_json=as_json)
        return
    with Session(home) as session:
        services = session.services
        base = base or "tunesmith-small"
        services.registry.base(base)  # before anything is copied
        pairs_wanted = objective == "dpo"
        kept = (
            pairs.kept_name(services, dataset)
            if pairs_wanted
            else data.kept_name(services, dataset, format=format_, skip_bad=skip_bad)
        )
        recipe = replace(recipe_for(services, base, kept, chosen), dataset_format=format_, skip_bad=skip_bad)
        if validation:
            kept = (pairs if pairs_wanted else data).kept_name(services, validation)
            recipe = replace(recipe, validation=kept)
        if control:
            recipe = replace(recipe, control=data.kept_name(services, control))
        if replay:
            share = 0.25 if replay_share is None else replay_share
            recipe = replace(recipe, replay=data.kept_name(services, replay), replay_share=share)
        if dry_run:
            planning.show(session.run(services.planner.plan(recipe, output=output)), as_json=as_json)
            return
        run = services.training.start(recipe, output=output)
        note(say(f"任务 {run.id}", f"run {run.id}"))
        ended = session.run(_started(services, run)) if detach else _watched(session, run)
        version = _version_made(services, ended)
    _report(services, ended, version, detached=detach, as_json=as_json)


def _repeat(home: Path | None, adapter: str, output: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Make ``adapter`` again; exit 1 where other bytes came out."""
    with Session(home) as session:
        services = session.services
        original = repeating.checked(services, adapter)
        if dry_run:
            planning.show(session.run(services.planner.plan(original.recipe, output=output)), as_json=as_json)
            return
        run = services.training.start(original.recipe, output=output)
        note(say(f"任务 {run.id}", f"run {run.id}"))
        ended = _watched(session, run)
        version = _version_made(services, ended)
    facts = repeating.compared(services, original, ended) if ended.state.value == "completed" else {}
    _report(services, ended, version, detached=False, as_json=as_json, more=facts)
    if not as_json:
        repeating.show(facts)
    if not facts["same_bytes"]:
        raise typer.Exit(PROBLEM)


def recipe_for(services: "Services", base: str, dataset: str, chosen: dict[str, Any]) -> "Recipe":
    """The recipe with what was chosen; the rest suits the base.

    The shipped model is three orders of magnitude smaller than what the usual values were found on and learns nothing
    from them, so it gets the demo's.

    Raises:
        NotFound, Invalid: the base model cannot be used.
    """
    from tunesmith.models.registry import SHIPPED
    from tunesmith.training.first_recipe import RECIPE
    from tunesmith.training.run import Recipe

    found = services.registry.base(base)
    usual = Recipe(found.name, dataset)
    if found.name == SHIPPED:
        usual = replace(RECIPE, dataset=dataset, replay=None, replay_share=0.0, validation=None)
    usual = replace(usual, max_length=min(Recipe(base, dataset).max_length, found.context_length))
    given = {name: value for name, value in chosen.items() if value is not None}
    if "rank" in given:
        given.setdefault("alpha", 2.0 * given["rank"])
    return replace(usual, **given)


def _watched(session: Session, run: "Run") -> "Run":
    """The run at its end; Ctrl-C asks the trainer to stop and waits for it, a second one leaves it running."""
    training = session.services.training
    try:
        with watching.shown() as seen:
            return session.run(watching.follow(training, run.id, seen))
    except KeyboardInterrupt:
        # an impatient second Ctrl-C must not leave the trainer running: nobody else may come to tell it
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with suppress(Conflict):  # it ended at that very moment
                training.cancel(run.id)
            session.run(training.reconcile())
        finally:
            signal.signal(signal.SIGINT, before)
    note(say("正在取消……（再按一次 Ctrl-C 则不再等待）", "canceling ... (Ctrl-C again stops waiting)"))
    return session.run(watching.follow(training, run.id, lambda run, curve: None))


async def _started(services: "Services", run: "Run") -> "Run":
    """The run once a trainer has it, or still queued behind another after some seconds."""
    deadline = asyncio.get_running_loop().time() + _START_WAIT_S
    while run.state.value == "queued" and asyncio.get_running_loop().time() < deadline:
        await services.training.reconcile()
        run = await asyncio.to_thread(services.training.get, run.id)
        await asyncio.sleep(0.1)
    return run


def _version_made(services: "Services", run: "Run") -> str | None:
    """What the adapter of a completed run is called: ``town@3``; None where there is none, or it is gone already."""
    if run.state.value != "completed":
        return None
    services.versions.take_in()  # those made before it get their numbers before it
    try:
        return services.versions.of(services.registry.adapter(run.output)).ref
    except Problem:
        return None


def _report(
    services: "Services",
    run: "Run",
    version: str | None,
    *,
    detached: bool,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    from tunesmith.cli.runs import summary

    folder = services.home.runs / run.id
    if run.state.value == "canceled":
        note(say(f"任务 {run.id} 已取消", f"run {run.id} is canceled"))
        raise typer.Exit(INTERRUPTED)
    if not (detached and not run.state.final):
        watching.completed(run)
    facts = summary(run)
    if as_json:
        made = {"adapter": run.output, "adapter_version": version}
        show_json(facts | made | {"folder": folder, "loss_png": folder / "loss.png"} | dict(more or {}))
        return
    if not run.state.final:
        queued = run.state.value == "queued"
        line(say(
            f"任务 {run.id} {'在排队，前面的结束后由服务或 runs watch 启动' if queued else '在后台训练'}；tunesmith runs watch {run.id}",
            f"run {run.id} {'is queued; a server or runs watch starts it' if queued else 'is training'}: tunesmith runs watch {run.id}",
        ))  # fmt: skip
        return
    took = duration(facts["seconds"] or 0.0)
    line(say(f"完成，用时 {took}", f"completed in {took}"))
    for text in aligned(
        [
            (say("适配器", "adapter"), services.home.root / run.output),
            *([(say("版本", "version"), version)] if version else []),
            (say("损失图", "loss"), folder / "loss.png"),
            (say("试一试", "try it"), f"tunesmith compare {run.output}"),
        ]
    ):
        line(text)
