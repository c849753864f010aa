"""``tunesmith jobs create`` and ``estimate``: a job looked over, priced, agreed to, made."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, following
from tunesmith.cli.consent import agreed, may_ask
from tunesmith.cli.screen import (
    INTERRUPTED,
    HomeOption,
    JsonOption,
    aligned,
    line,
    note,
    say,
    show_json,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import Session, run_inside
from tunesmith.kernel.caller import LOCAL

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.training.hosted.provider import Estimate
    from tunesmith.training.jobs.job import Job, JobNotes, NewJob

CREATE_HELP = say(
    "在提供商处（或本机）微调：先显示将发送什么、预计费用，再询问",
    "Tune at a provider, or here. Shows what will be sent and what it will cost, then asks.",
)
ESTIMATE_HELP = say("一个作业大约需要多少费用", "What a job would cost and take; makes nothing.")

ProviderOption = Annotated[
    str,
    typer.Option(
        autocompletion=completing.trainers, help=say("提供商，或 local", "together_ai, fireworks_ai or local.")
    ),
]
ModelOption = Annotated[
    str, typer.Option(help=say("提供商处的基座模型", "Base model, by its id there: tunesmith providers models."))
]
DataOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=completing.datasets,
        help=say("数据集、主目录下的文件，或任意文件", "Dataset, file under home, or any file."),
    ),
]
ProjectOption = Annotated[
    str | None, typer.Option(help=say("项目（id 或名称）", "Project whose split to train on, by id or name."))
]
TaskOption = Annotated[str | None, typer.Option(help=say("项目中的任务", "Task of the project."))]
SplitOption = Annotated[str | None, typer.Option(help=say("任务的数据集划分", "Dataset split of the task."))]
PartOption = Annotated[str, typer.Option(help=say("用哪一部分训练", "Part to train on."))]
ValidationOption = Annotated[str | None, typer.Option(help=say("用哪一部分验证", "Part to score during training."))]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help=say("参数，可重复", "A parameter; may be repeated.")),
]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=completing.strategies, help=say("训练样本的哪些内容", "What of an example is trained on.")
    ),
]
SystemOption = Annotated[str | None, typer.Option(help=say("每个样本的系统消息", "System message of every example."))]
GeneratorOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=completing.generators,
        help=say("由任务生成系统消息，如 simple_prompt_builder", "simple_prompt_builder, ...: from the task."),
    ),
]
ThinkingOption = Annotated[str | None, typer.Option(help=say("思考指令", "Thinking instructions."))]


@verb
def create(
    provider: ProviderOption,
    model: ModelOption,
    data: DataOption = None,
    project: ProjectOption = None,
    task: TaskOption = None,
    split: SplitOption = None,
    part: PartOption = "train",
    validation: ValidationOption = None,
    set_: SetOption = None,
    strategy: StrategyOption = None,
    system: SystemOption = None,
    generator: GeneratorOption = None,
    thinking: ThinkingOption = None,
    name: Annotated[str | None, typer.Option(help=say("作业名称", "What the job is called."))] = None,
    description: Annotated[str | None, typer.Option(help=say("说明", "What it is for."))] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=say("只显示，不创建", "Only show; make nothing."))] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help=say("同意费用，不询问", "Agree to the cost unasked."))
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help=say("是否跟踪到结束", "Whether to follow it to its end."))
    ] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """While it is followed Ctrl-C only stops looking: a job at a provider goes on, and costs."""
    with Session(home) as session:
        services = session.services
        paid = services.hosted.catalog.resolve(provider) != "local"
        if paid and not dry_run:
            may_ask(yes=yes)  # before anything is read
        new = _order(services, provider, model, data, project, task, split, part, validation, set_,
                     strategy, system, generator, thinking, name, description)  # fmt: skip
        session.run(services.jobs.check_model(new))
        notes = replace(services.jobs.check(new, LOCAL), name=new.name or "")  # the usual one has the run's id in it
        estimate = session.run(services.jobs.estimate(new, LOCAL))
        if dry_run and as_json:
            show_json({"job": _asked(notes), "estimate": _priced(estimate)})
            return
        for text in _shown(notes, estimate):
            (line if dry_run else note)(text)
        if dry_run:
            return
        if paid:
            agreed("创建并付费？", "make this job and pay for it?", yes=yes)
        job = services.jobs.create(new, LOCAL)
        note(say(f"作业 {job.run.id}", f"job {job.run.id}"))
        if wait:
            job = _waited(session, job)
    if wait:
        following.ended(job, as_json=as_json)
        return
    if as_json:
        show_json(following.summary(job))
    else:
        line(job.run.id)
    note(following.moved_by(job))


@verb
def estimate(
    provider: ProviderOption,
    model: ModelOption,
    data: DataOption = None,
    project: ProjectOption = None,
    task: TaskOption = None,
    split: SplitOption = None,
    part: PartOption = "train",
    validation: ValidationOption = None,
    set_: SetOption = None,
    strategy: StrategyOption = None,
    system: SystemOption = None,
    generator: GeneratorOption = None,
    thinking: ThinkingOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every example is checked, as creating the job would; what the provider does not tell is not guessed."""

    async def work(services: "Services") -> "Estimate":
        new = await asyncio.to_thread(
            _order, services, provider, model, data, project, task, split, part, validation, set_,
            strategy, system, generator, thinking,
        )  # fmt: skip
        return await services.jobs.estimate(new, LOCAL)

    found = run_inside(home, work)
    if as_json:
        show_json({"estimate": _priced(found)})
    else:
        for text in aligned(_price(found)):
            line(text)


def _order(
    services: "Services",
    provider: str,
    model: str,
    data: str | None,
    project: str | None,
    task: str | None,
    split: str | None,
    part: str,
    validation: str | None,
    settings: list[str] | None,
    strategy: str | None,
    system: str | None,
    generator: str | None,
    thinking: str | None,
    name: str | None = None,
    description: str | None = None,
) -> "NewJob":
    """What the options ask for; a file from outside home is kept under it first. Blocking.

    Raises:
        typer.Exit: 2, they do not fit together. Problem: a name means nothing.
    """
    from tunesmith.cli.projects import project_and_task, split_of
    from tunesmith.training.jobs.job import NewJob

    if (data is None) == (split is None):
        raise wrong_usage("请给出 --data 或 --split 之一", "give either --data or --split")
    if (project is None) != (task is None) or (split and not project):
        raise wrong_usage(
            "--project 与 --task 须同时给出；--split 需要它们",
            "--project and --task are given together, and --split needs them",
        )
    project_id, task_id = project_and_task(services, project, task)
    split_id = split_of(services, project_id, task_id, split) if project_id and task_id and split else None
    return NewJob(
        provider=provider,
        model=model,
        parameters=_parameters(settings or []),
        name=name,
        description=description,
        dataset_path=None if data is None else _kept_file(services, data),
        split_name=part,
        train_split=part,
        validation_split=validation,
        project_id=project_id,
        task_id=task_id,
        split_id=split_id,
        strategy=strategy,
        system_message=system,
        system_message_generator=generator,
        thinking_instructions=thinking,
    )


def _parameters(given: list[str]) -> Mapping[str, Any]:
    """``epochs=3`` as a name and a number; what is no JSON value is text."""
    import msgspec

    found: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name.strip():
            raise wrong_usage(f"--set 应为 名称=值，得到 {each!r}", f"--set wants NAME=VALUE, got {each!r}")
        if name.strip() in found:
            raise wrong_usage(f"--set 重复给出 {name.strip()}", f"--set names {name.strip()} twice")
        try:
            found[name.strip()] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found[name.strip()] = text
    return found


def _kept_file(services: "Services", text: str) -> str:
    """The name a job knows ``text`` by. A file from outside home is copied beneath it, as it is: a dataset would lose
    its thinking and its tool calls."""
    import shutil

    from tunesmith.cli.data import name_of, outside_home
    from tunesmith.datasets.access import owner_folder
    from tunesmith.kernel.files import written_whole

    path = outside_home(services.home, text)
    if path is None:
        return text
    folder = services.home.formatted / owner_folder(LOCAL.name)
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"{name_of(path)}{_suffix(path)}"
    if not kept.exists():
        with written_whole(kept) as temporary:
            shutil.copyfile(path, temporary)
    return services.home.name(kept)


def _suffix(path: Path) -> str:
    """By which the format is told."""
    found = path.suffix.lower()
    return found if found[1:].isalnum() and len(found) < 10 else ""


def _waited(session: Session, job: "Job") -> "Job":
    try:
        return session.run(following.followed(session.services, job))
    except KeyboardInterrupt:
        job = session.services.jobs.get(job.run.id, LOCAL)
        note(following.moved_by(job))
        note(say(f"取消：tunesmith jobs cancel {job.run.id}", f"to end it: tunesmith jobs cancel {job.run.id}"))
        raise typer.Exit(INTERRUPTED) from None


def _shown(notes: "JobNotes", found: "Estimate") -> list[str]:
    known = [(name, value) for name, value in following.asked_for(notes) if value not in (None, "")]
    said = [say(f"注意：{text}", f"note: {text}") for text in following.warnings_of(notes)]
    return [*aligned([*known, *_price(found)]), *said]


def _price(found: "Estimate") -> list[tuple[str, object]]:
    """What it would take, with the reason where that is unknown."""
    cost = following.money(found.cost) if found.cost else say("未知", "unknown")
    reason = say(*found.reason) if found.reason else ""
    told: list[tuple[str, object]] = [(say("费用", "cost"), f"{cost} ({reason})" if reason else cost)]
    told += [(say("词元", "tokens"), found.tokens)] if found.tokens is not None else []
    return told + ([(say("步数", "steps"), found.steps)] if found.steps is not None else [])


def _priced(found: "Estimate") -> dict[str, Any]:
    reason = say(*found.reason) if found.reason else None
    return {"cost": found.cost, "tokens": found.tokens, "steps": found.steps, "reason": reason}


def _asked(notes: "JobNotes") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(notes, enc_hook=str)
    told = found.pop("properties")
    del found["run_id"]  # of no run
    return found | {
        "name": notes.name or None,
        "rows": told.get("rows"),
        "validation_rows": told.get("validation_rows"),
        "warnings": list(following.warnings_of(notes)),
    }
