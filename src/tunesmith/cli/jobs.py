"""``tunesmith jobs``: fine-tuning at a provider or here, and the models that come of it."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import deploying, following, ordering
from tunesmith.cli.following import STATUSES, find, summary
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    aligned,
    line,
    note,
    plain,
    say,
    show_json,
    table,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import opened, run_inside
from tunesmith.kernel.caller import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunesmith.app import Services
    from tunesmith.training.jobs.job import Job

app = typer.Typer(
    no_args_is_help=True,
    help=say("微调作业：在提供商处或本机训练，并使用得到的模型", "Fine-tuning jobs, at a provider or here."),
)
app.command("create", help=ordering.CREATE_HELP)(ordering.create)
app.command("estimate", help=ordering.ESTIMATE_HELP)(ordering.estimate)
app.command("deploy", help=deploying.DEPLOY_HELP)(deploying.deploy)
app.command("undeploy", help=deploying.UNDEPLOY_HELP)(deploying.undeploy)
app.command("download", help=deploying.DOWNLOAD_HELP)(deploying.download)

_EVENTS = 5  # of the last, where a job is shown
UpdateOption = Annotated[
    bool, typer.Option("--update/--no-update", help=say("是否现在询问提供商", "Whether the provider is asked now."))
]


@app.command("list", help=say("列出作业，新的在前", "List jobs, newest first."))
@verb
def list_(
    project: Annotated[
        str | None, typer.Option(help=say("只列此项目的，须同时给出 --task", "Those of a project's task alone."))
    ] = None,
    task: Annotated[str | None, typer.Option(help=say("项目中的任务", "The task, with --project."))] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help=say("最多显示几个", "Most jobs shown."))] = 20,
    update: UpdateOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Also runs that were started in another way; providers are asked with --update alone."""
    from tunesmith.cli.projects import project_and_task

    if (project is None) != (task is None):
        raise wrong_usage("--project 与 --task 须同时给出", "--project and --task are given together")

    async def work(services: "Services") -> "Sequence[Job]":
        scope = project_and_task(services, project, task)
        found = await asyncio.to_thread(services.jobs.list, LOCAL, project_id=scope[0], task_id=scope[1], limit=limit)
        return await services.jobs.refresh(found, LOCAL) if update else found

    found = run_inside(home, work)
    if as_json:
        show_json({"jobs": [summary(job) for job in found]})
        return
    columns = ["id", say("名称", "name"), say("提供商", "provider"), say("模型", "model"), say("状态", "status")]
    columns += [say("进度", "done"), say("费用", "cost"), say("创建", "created")]
    table(columns, [_row(job) for job in found])


@app.command("show", help=say("查看一个作业", "Show a job."))
@verb
def show(
    job_id: following.IdArgument, update: UpdateOption = True, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """What was asked for, where it stands, and what came of it."""

    async def work(services: "Services") -> "Job":
        job = await asyncio.to_thread(find, services, job_id)
        if not update or job.hosted is None:
            return job
        if job.hosted.deployment is not None:
            await following.deployment_looked_at(services, job)
        if not job.run.state.final:
            await services.jobs.refresh([job], LOCAL)
        return await asyncio.to_thread(services.jobs.get, job.run.id, LOCAL)

    job = run_inside(home, work)
    if as_json:
        show_json(summary(job))
        return
    for text in aligned(following.facts(job)):
        line(text)
    for warning in following.warnings(job):
        line(say(f"注意：{warning}", f"note: {warning}"))
    for event in (job.hosted.events if job.hosted else ())[-_EVENTS:]:
        line(f"  {following.event_line(event)}")


@app.command(
    "watch", help=say("跟踪作业直到结束；Ctrl-C 只停止跟踪", "Follow a job to its end; Ctrl-C only stops looking.")
)
@verb
def watch(job_id: following.IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Moves the job forward too, where no server does: sends what has not been sent."""

    async def work(services: "Services") -> "Job":
        job = await asyncio.to_thread(find, services, job_id)
        return await following.followed(services, job)

    following.ended(run_inside(home, work), as_json=as_json)


@app.command("cancel", help=say("取消作业", "Cancel a job."))
@verb
def cancel(
    job_id: following.IdArgument,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help=say("是否等到它停止", "Whether to wait until it has stopped."))
    ] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was trained until then is paid for. Canceling twice is fine."""

    async def work(services: "Services") -> "Job":
        job = await asyncio.to_thread(find, services, job_id)
        job = await asyncio.to_thread(services.jobs.cancel, job.run.id, LOCAL)
        return await following.followed(services, job) if wait and not job.run.state.final else job

    job = run_inside(home, work)
    if as_json:
        show_json(summary(job))
    else:
        line(say(f"作业 {job.run.id}：{say(*STATUSES[job.status.value])}", f"job {job.run.id}: {job.status.value}"))
    if not job.run.state.final:
        note(
            say(
                f"提供商尚未得知：正在运行的服务或 tunesmith jobs watch {job.run.id} 会告诉它",
                f"its provider has not heard of it: a running server or tunesmith jobs watch {job.run.id} tells it",
            )
            if job.hosted
            else following.moved_by(job)
        )


@app.command("edit", help=say("修改作业的名称或说明", "Change what a job is called, or what is said of it."))
@verb
def edit(
    job_id: following.IdArgument,
    name: Annotated[str | None, typer.Option(help=say("新名称", "Its new name."))] = None,
    description: Annotated[str | None, typer.Option(help=say("新说明", "Its new description."))] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is not given stays; nothing is changed at the provider."""
    if name is None and description is None:
        raise wrong_usage("请给出 --name 或 --description", "give --name or --description")
    with opened(home) as services:
        job = find(services, job_id)
        job = services.jobs.edit(job.run.id, LOCAL, name=name, description=description)
    if as_json:
        show_json(summary(job))
    else:
        line(say(f"作业 {job.run.id} 现名 {job.notes.name}", f"job {job.run.id} is called {job.notes.name}"))


@app.command("delete", help=say("删除已结束的作业的记录", "Forget a job that has ended."))
@verb
def delete(
    job_id: following.IdArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("不询问", "Do not ask."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Its training file and checkpoints go; what it trained stays, here and at the provider."""
    with opened(home) as services:
        job = find(services, job_id)
        if sys.stdin.isatty() and not yes and not as_json:
            name = plain(job.notes.name)
            if not typer.confirm(say(f"删除作业 {name}（{job.run.id}）？", f"delete {name} ({job.run.id})?"), err=True):
                raise typer.Exit(PROBLEM)
        services.jobs.delete(job.run.id, LOCAL)
    if as_json:
        show_json({"deleted": job.run.id})
    else:
        line(say(f"已删除 {job.run.id}", f"deleted {job.run.id}"))


def _row(job: "Job") -> tuple[Any, ...]:
    run, hosted = job.run, job.hosted
    return (
        run.id[:8] if len(run.id) > 20 else run.id,
        job.notes.name,
        job.notes.provider,
        job.notes.model,
        say(*STATUSES[job.status.value]),
        f"{run.progress.fraction:.0%}" if run.progress.total_steps else "",
        following.money(hosted.cost) if hosted and hosted.cost else "",
        f"{run.created_at.astimezone():%m-%d %H:%M}",
    )
