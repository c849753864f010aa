"""``tunesmith jobs deploy`` and beside it: a tuned model kept ready at its provider, or its adapter fetched."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.consent import agreed
from tunesmith.cli.following import IdArgument, find
from tunesmith.cli.screen import HomeOption, JsonOption, language, line, note, say, show_json, verb
from tunesmith.cli.session import Session, run_inside
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.problems import Conflict

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.training.hosted.provider import Deployment

DEPLOY_HELP = say(
    "让提供商保持模型可用；在取消部署前按时间计费",
    "Have the provider keep a job's model ready; paid for by time until it is undeployed.",
)
UNDEPLOY_HELP = say("取消部署，停止计费", "End a deployment, and what it costs.")
DOWNLOAD_HELP = say("把适配器取到本机", "Fetch the adapter to this machine.")


@verb
def deploy(
    job_id: IdArgument,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help=say("同意费用，不询问", "Agree to the cost unasked."))
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asks on a terminal; elsewhere it wants --yes. What is deployed already is not deployed again."""
    with Session(home) as session:
        deployments = session.services.hosted.deployments
        job = find(session.services, job_id)
        try:
            made = session.run(deployments.deploy(job.run.id, LOCAL, confirm=yes))
        except Conflict as conflict:
            if not conflict.details.get("needs_confirmation"):
                raise
            note(_without_hint(conflict))
            agreed("部署？", "deploy it?", yes=False)
            made = session.run(deployments.deploy(job.run.id, LOCAL, confirm=True))
    if as_json:
        show_json({"id": job.run.id, "chat_model": f"hosted/{job.run.id}", "deployment": made})
        return
    _tell(job.run.id, made)


@verb
def undeploy(job_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Twice is fine."""

    async def work(services: "Services") -> str:
        job = await asyncio.to_thread(find, services, job_id)
        await services.hosted.deployments.undeploy(job.run.id, LOCAL)
        return job.run.id

    found = run_inside(home, work)
    if as_json:
        show_json({"id": found, "deployment": None})
    else:
        line(say(f"作业 {found} 的模型已取消部署", f"the model of {found} is not deployed any more"))


@verb
def download(job_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """An adapter like any other, where the provider hands it out; what is here already is not fetched again."""

    async def work(services: "Services") -> tuple[str, str, str | None]:
        job = await asyncio.to_thread(find, services, job_id)
        name = await services.hosted.deployments.download_adapter(job.run.id, LOCAL)
        missing = await asyncio.to_thread(services.hosted.deployments.missing_base, name)
        return name, str(services.home.root / name), None if missing is None else say(*missing)

    name, path, missing = run_inside(home, work)
    if as_json:
        show_json({"adapter": name, "path": path, "message": missing})
        return
    line(path)
    note(missing if missing else say(f"试一试：tunesmith compare {name}", f"try it: tunesmith compare {name}"))


def _without_hint(conflict: Conflict) -> str:
    """What is known of the cost; how a request confirms it is nothing to a person at a terminal."""
    return conflict.message(language()).replace("（confirm=true）", "").replace(" (confirm=true)", "")


def _tell(job_id: str, made: "Deployment") -> None:
    if made.ready:
        line(say(f"已部署，可用：hosted/{job_id}", f"deployed and ready: hosted/{job_id}"))
    else:
        line(say(f"正在部署（{made.word}）：hosted/{job_id}", f"being deployed ({made.word}): hosted/{job_id}"))
        note(say(f"进展：tunesmith jobs show {job_id}", f"how it stands: tunesmith jobs show {job_id}"))
    note(
        say(
            f"tunesmith chat hosted/{job_id}，以及对服务的请求，都可用该模型名；一直计费，直到 tunesmith jobs undeploy {job_id}",
            f"ask it: tunesmith chat hosted/{job_id}, or a server; it is paid for until tunesmith jobs undeploy {job_id}",
        )
    )
