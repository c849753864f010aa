"""``/jobs/{job_id}/deploy`` and beside it: a tuned model kept ready at its provider, or its adapter fetched; an addition."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from tunesmith.dialects.finetune.openapi import example, failures
from tunesmith.dialects.finetune.wire import Answer, Body, plain, say
from tunesmith.http.door import caller_of
from tunesmith.http.sse import unless_left
from tunesmith.training.hosted.deployments import DeploymentService
from tunesmith.training.hosted.provider import Deployment


class DeployRequest(Body):
    """``confirm``: the caller knows that a deployment is paid for as long as it is there."""

    model_config = example({"confirm": True})

    confirm: bool = False


class DeploymentShown(Answer):
    """``model`` is its name at the provider, ``chat_model`` the one to ask this server for; ``state`` the provider's word."""

    id: str
    model: str
    chat_model: str
    ready: bool
    state: str
    raw: dict[str, Any]


class DeploymentAnswer(Answer):
    """``deployment`` is null where there is none."""

    deployment: DeploymentShown | None


class AdapterAnswer(Answer):
    """``path`` is the adapter's name under home; ``message`` says why it cannot be asked here yet, where it cannot."""

    path: str
    message: str | None


def routes(service: DeploymentService) -> APIRouter:
    """The paths."""
    router = APIRouter(tags=["deployments"])

    @router.post("/jobs/{job_id}/deploy", response_model=DeploymentAnswer, responses=failures(403, 404, 409, 503, 504))
    async def deploy_job(request: Request, job_id: str, body: DeployRequest | None = None) -> DeploymentAnswer:
        """Have the provider keep the tuned model ready, which costs money: 409 tells what is known of it, until confirmed."""
        made = await service.deploy(job_id, caller_of(request), confirm=body is not None and body.confirm)
        return DeploymentAnswer(deployment=_shown(job_id, made))

    @router.get("/jobs/{job_id}/deployment", response_model=DeploymentAnswer, responses=failures(404, 503, 504))
    async def deployment_status(request: Request, job_id: str) -> Any:
        """Where the deployment stands now."""

        async def whole() -> DeploymentAnswer:
            found = await service.status(job_id, caller_of(request))
            return DeploymentAnswer(deployment=None if found is None else _shown(job_id, found))

        return await unless_left(request, whole())

    @router.post("/jobs/{job_id}/undeploy", response_model=DeploymentAnswer, responses=failures(404, 503, 504))
    async def undeploy_job(request: Request, job_id: str) -> DeploymentAnswer:
        """End the deployment; twice is fine."""
        await service.undeploy(job_id, caller_of(request))
        return DeploymentAnswer(deployment=None)

    @router.post("/jobs/{job_id}/adapter", response_model=AdapterAnswer, responses=failures(404, 409, 503, 504))
    async def download_adapter(request: Request, job_id: str) -> AdapterAnswer:
        """Fetch the tuned model's adapter to this machine, once, where the provider hands it out."""
        path = await service.download_adapter(job_id, caller_of(request))
        missing = await asyncio.to_thread(service.missing_base, path)
        return AdapterAnswer(path=path, message=None if missing is None else say(request, missing))

    return router


def _shown(job_id: str, found: Deployment) -> DeploymentShown:
    return DeploymentShown(
        id=found.id,
        model=found.model,
        chat_model=f"hosted/{job_id}",
        ready=found.ready,
        state=found.word,
        raw=plain(dict(found.raw)),
    )
