"""A fine-tuning job as a person sees it: found, followed to its end, told of."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, watching
from tunesmith.cli.screen import PROBLEM, language, line, note, say, show_json
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.problems import Invalid, NotFound, Problem

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.training.hosted.provider import Cost, JobEvent
    from tunesmith.training.jobs.job import Job, JobNotes

STATUSES = {
    "pending": ("等待中", "pending"),
    "running": ("训练中", "running"),
    "completed": ("已完成", "completed"),
    "failed": ("失败", "failed"),
    "cancelled": ("已取消", "cancelled"),
    "unknown": ("未知", "unknown"),
}
IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        autocompletion=completing.runs,
        help=say("作业 id，或只属于它的开头", "The job's id, or its beginning where unique."),
    ),
]
_POLL_S = 0.5  # our own record; the executor decides when a provider is asked
_MOST_SEARCHED = 1000


def find(services: "Services", text: str) -> "Job":
    """The job whose id is ``text``, or the only one whose id begins so. Blocking.

    Raises:
        NotFound: none. Invalid: several.
    """
    with suppress(NotFound, Invalid):
        return services.jobs.get(text, LOCAL)
    found = [job for job in services.jobs.list(LOCAL, limit=_MOST_SEARCHED) if text and job.run.id.startswith(text)]
    if len(found) > 1:
        raise Invalid(
            f"{text} 不唯一：{len(found)} 个作业以它开头",
            f"{text} is not unique: {len(found)} jobs begin so",
            field="id",
        )
    if not found:
        raise NotFound(f"作业不存在：{text}", f"there is no job {text}", job_id=text)
    return found[0]


async def followed(services: "Services", job: "Job") -> "Job":
    """The job once it has ended; every run is moved forward meanwhile, where no server does.

    What changes is told on standard error.
    """
    if job.hosted is None:
        with watching.shown() as seen:
            await watching.follow(services.training, job.run.id, seen)
        return await asyncio.to_thread(services.jobs.get, job.run.id, LOCAL)
    tell = _teller()
    while True:
        await services.training.reconcile()
        job = await asyncio.to_thread(services.jobs.get, job.run.id, LOCAL)
        tell(job)
        if job.run.state.final:
            return job
        await asyncio.sleep(_POLL_S)


async def deployment_looked_at(services: "Services", job: "Job") -> None:
    """Have the record say how the job's deployment stands now; what cannot be asked stays, and that is told."""
    try:
        await services.hosted.deployments.status(job.run.id, LOCAL)
    except Problem as problem:  # no key any more, say
        note(problem.message(language()))


def ended(job: "Job", *, as_json: bool) -> None:
    """Tell how the job ended, and what to do with what came of it.

    Raises:
        typer.Exit: 1, it failed.
    """
    if as_json:
        show_json(summary(job))
    else:
        line(say(f"作业 {job.run.id}：{say(*STATUSES[job.status.value])}", f"job {job.run.id}: {job.status.value}"))
        if said := _said(job):
            line(said)
        if job.status.value == "completed":
            _what_now(job)
    if job.status.value == "failed":
        raise typer.Exit(PROBLEM)


def summary(job: "Job") -> dict[str, Any]:
    """The JSON form of a job."""
    import msgspec

    run, notes, hosted = job.run, job.notes, job.hosted
    found: dict[str, Any] = msgspec.to_builtins(notes, enc_hook=str)
    del found["run_id"], found["properties"]
    here = hosted is None and job.status.value == "completed"
    of_provider = {
        "provider_id": hosted.job_id if hosted else None,
        "provider_status": hosted.word if hosted else None,
        "output_model": hosted.output_model if hosted else None,
        "cost": hosted.cost if hosted else None,
        "tokens": hosted.tokens if hosted else None,
        "deployment": dict(hosted.deployment) if hosted and hosted.deployment else None,
        "events": hosted.events if hosted else (),
    }
    return {
        "id": run.id,
        **found,
        "status": job.status.value,
        "status_message": _said(job),
        "adapter": run.output if here else None,
        "rows": notes.properties.get("rows"),
        "validation_rows": notes.properties.get("validation_rows"),
        "warnings": list(warnings(job)),
        "progress": run.progress,
        **of_provider,
        "cancel_requested": run.cancel_requested,
        "owner": run.owner,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def facts(job: "Job") -> list[tuple[str, object]]:
    """Names and values, for a person; what is not known is left out."""
    run, hosted = job.run, job.hosted
    standing = say(*STATUSES[job.status.value])
    asked = say("，已要求取消", ", asked to stop") if run.cancel_requested and not run.state.final else ""
    here = run.output if hosted is None and job.status.value == "completed" else None
    told: list[tuple[str, object]] = [
        ("id", run.id),
        (say("状态", "status"), standing + asked + (f": {said}" if (said := _said(job)) else "")),
        *asked_for(job.notes, run.recipe.dataset),
        (say("步数", "step"), f"{run.progress.step}/{run.progress.total_steps}" if run.progress.total_steps else None),
        (say("提供商的 id", "provider's id"), hosted.job_id if hosted else None),
        (say("提供商的状态", "provider's word"), hosted.word if hosted else None),
        (say("费用", "cost"), money(hosted.cost) if hosted and hosted.cost else None),
        (say("词元", "tokens"), hosted.tokens if hosted else None),
        (say("得到的模型", "model made"), hosted.output_model if hosted else here),
        (say("部署", "deployed"), _deployment(hosted.deployment) if hosted and hosted.deployment else None),
    ]
    return [(name, value) for name, value in told if value not in (None, "")]


def asked_for(notes: "JobNotes", dataset: str = "") -> list[tuple[str, object]]:
    """What a job was, or will be, made of.

    Args:
        dataset: what it was trained on, where the notes say nothing of it.
    """
    split = f"{notes.project_id}/{notes.task_id}/{notes.split_id}" if notes.split_id else None
    return [
        (say("名称", "name"), notes.name),
        (say("说明", "description"), notes.description),
        (say("提供商", "provider"), notes.provider),
        (say("模型", "model"), notes.model),
        (say("数据", "data"), f"{split or notes.dataset_path or dataset} ({notes.train_split})"),
        (say("样本", "examples"), notes.properties.get("rows")),
        (say("验证样本", "validation"), notes.properties.get("validation_rows") or None),
        (say("策略", "strategy"), str(notes.strategy)),
        (say("系统消息", "system message"), notes.system_message),
        (say("思考指令", "thinking"), notes.thinking_instructions),
        (say("参数", "parameters"), ", ".join(f"{name}={value}" for name, value in notes.parameters.items())),
    ]


def warnings(job: "Job") -> Iterator[str]:
    """What a person should know of its data, in their language."""
    yield from warnings_of(job.notes)


def warnings_of(notes: "JobNotes") -> Iterator[str]:
    """The same, of notes alone."""
    for zh, en in notes.properties.get("warnings", ()):
        yield say(zh, en)


def moved_by(job: "Job") -> str:
    """Who will do something for the job, where nobody waits for it here."""
    if job.hosted is not None and job.hosted.job_id is not None:
        return say(
            f"作业在提供商处继续；正在运行的 tunesmith serve 或 tunesmith jobs watch {job.run.id} 会记录它的结果",
            f"the job goes on at its provider; a running tunesmith serve, or tunesmith jobs watch {job.run.id}, records how "
            "it ends",
        )
    zh, en = ("发送", "sends") if job.hosted else ("启动", "starts")
    return say(
        f"现在没有谁推进它：正在运行的 tunesmith serve 或 tunesmith jobs watch {job.run.id} 会{zh}并跟踪它",
        f"nothing moves it from here: a running tunesmith serve, or tunesmith jobs watch {job.run.id}, {en} and follows it",
    )


def money(cost: "Cost") -> str:
    """A sum as a person reads it: ``1.25 USD``, ``about 1.25 USD``."""
    amount = f"{cost.amount:,.2f} {cost.currency}"
    return say(f"约 {amount}", f"about {amount}") if cost.estimated else amount


def event_line(event: "JobEvent") -> str:
    """Something that happened, on one line."""
    at = f"{event.at.astimezone():%m-%d %H:%M:%S}  " if event.at else ""
    return f"{at}{event.message or event.kind}".replace("\n", " ")


def _said(job: "Job") -> str | None:
    from tunesmith.training.jobs.status import said_of

    said = said_of(job)
    return say(*said) or None if said else None


def _deployment(kept: Mapping[str, Any]) -> str:
    ready = say("可用", "ready") if kept.get("ready") else say("未就绪", "not ready")
    return say(
        f"{kept.get('word')}（{ready}），在计费：tunesmith jobs undeploy",
        f"{kept.get('word')} ({ready}), paid for until tunesmith jobs undeploy",
    )


def _teller() -> "Callable[[Job], None]":
    """Writes a line when something changed, and each event once."""
    last, events = "", 0

    def tell(job: "Job") -> None:
        nonlocal last, events
        hosted, progress = job.hosted, job.run.progress
        assert hosted is not None  # of a job at a provider
        for event in hosted.events[events:]:
            note(f"  {event_line(event)}")
        events = max(events, len(hosted.events))
        parts = [say(*STATUSES[job.status.value])]
        if hosted.job_id is None and not job.run.state.final:
            parts.append(say("正在把数据与作业交给提供商", "its data and the job are on their way to the provider"))
        elif hosted.word:
            parts.append(hosted.word)
        if progress.total_steps:
            parts.append(
                say(f"第 {progress.step}/{progress.total_steps} 步", f"step {progress.step}/{progress.total_steps}")
            )
        if said := _said(job):
            parts.append(said)
        text = "  ".join(parts)
        if text != last:
            last = text
            note(text)

    return tell


def _what_now(job: "Job") -> None:
    if job.hosted is None:
        line(say(f"试一试：tunesmith compare {job.run.output}", f"try it: tunesmith compare {job.run.output}"))
        return
    zh = f"使用它：tunesmith jobs deploy {job.run.id}（部署按时间计费），或 tunesmith jobs download {job.run.id}"
    en = f"use it: tunesmith jobs deploy {job.run.id} (paid for by time), or tunesmith jobs download {job.run.id}"
    line(say(zh, en))
