"""Kiln's own paths for the same records, in Kiln's shapes: whoever speaks to Kiln's server can speak to this one.

    GET  /api/finetune_providers
    GET  /api/projects/{p}/tasks/{t}/finetunes[/{id}]          POST, PATCH
    GET  /api/projects/{p}/tasks/{t}/dataset_splits            POST
    GET  /api/projects/{p}/tasks/{t}/finetune_dataset_info
    GET  /api/download_dataset_jsonl

Kiln's ``/api/finetune/hyperparameters/{provider}`` is among the document's paths. Lists are bare, a job comes with its
status beside it, and a canceled job has failed: Kiln has no other word. Nothing tells where a record lies on the disk.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.dialects.finetune import jobs, splits, wire
from tunesmith.dialects.finetune.info import TagShown, tag_shown
from tunesmith.dialects.finetune.routes import Services
from tunesmith.dialects.finetune.splits import PartShown, part_shown
from tunesmith.dialects.finetune.wire import SAID, Answer, Body, Number, Time, say, time
from tunesmith.http import errors
from tunesmith.http.door import Door, caller_of
from tunesmith.http.errors import language_of
from tunesmith.http.sse import unless_left
from tunesmith.projects.project import DatasetSplit
from tunesmith.training.hosted.provider import Value
from tunesmith.training.jobs.job import Job, NewJob, Status
from tunesmith.training.jobs.status import said_of

ROOT = "/api"
PREFIXES = ("/api/finetune_providers", "/api/projects", "/api/download_dataset_jsonl")
_TASK = "/projects/{project_id}/tasks/{task_id}"
_MOST_JOBS = 10_000
Word = Annotated[Annotated[str, Field(max_length=1024)] | None, SAID]
Text = Annotated[Annotated[str, Field(max_length=200_000)] | None, SAID]
StatusWord = Literal["unknown", "pending", "running", "completed", "failed"]
_WORDS: Mapping[Status, StatusWord] = {
    Status.UNKNOWN: "unknown",
    Status.PENDING: "pending",
    Status.RUNNING: "running",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


class Model(Answer):
    name: str
    id: str
    data_strategies_supported: list[str]
    supports_function_calling: bool


class Provider(Answer):
    name: str
    id: str
    enabled: bool
    models: list[Model]


class FinetuneRequest(Body):
    """Kiln's body; ``run_config_properties`` is taken and not needed: a model is called as it was trained."""

    name: Word = None
    description: Text = None
    dataset_id: str
    train_split_name: str
    validation_split_name: Word = None
    parameters: Annotated[dict[str, bool | int | Number | str], Field(max_length=64)]
    provider: str
    base_model_id: str
    system_message_generator: Word = None
    custom_system_message: Text = None
    custom_thinking_instructions: Text = None
    data_strategy: str
    run_config_properties: dict[str, Any] | None = None


class FinetuneChanges(Body):
    """Unlike the document's, a description that is left out is none."""

    name: Annotated[str, Field(max_length=1024)]
    description: Text = None


class SplitRequest(Body):
    dataset_split_type: Annotated[str, Field(max_length=128)]
    filter_id: Annotated[str, Field(max_length=4096)]
    name: Word = None
    description: Text = None


class Finetune(Answer):
    v: int = 1
    id: str
    created_at: Time
    created_by: str
    name: str
    description: str | None
    structured_output_mode: None = None
    provider: str
    base_model_id: str
    provider_id: str | None
    fine_tune_model_id: str | None
    dataset_split_id: str
    train_split_name: str
    validation_split_name: str | None
    parameters: dict[str, str | int | float | bool]
    system_message: str
    thinking_instructions: str | None
    latest_status: StatusWord
    properties: dict[str, str | int | float]
    data_strategy: str
    run_config: None = None
    model_type: Literal["finetune"] = "finetune"


class StatusShown(Answer):
    status: StatusWord
    message: str | None
    error_details: str | None


class FinetuneWithStatus(Answer):
    finetune: Finetune
    status: StatusShown


class Split(Answer):
    v: int = 1
    id: str
    created_at: Time
    created_by: str
    name: str
    description: str | None
    splits: list[PartShown]
    split_contents: dict[str, list[str]]
    filter: str
    model_type: Literal["dataset_split"] = "dataset_split"


class DatasetInfo(Answer):
    """Tools have no ids here, so that nothing is less eligible than the rest."""

    existing_datasets: list[Split]
    existing_finetunes: list[Finetune]
    finetune_tags: list[TagShown]
    eligible_datasets: list[Split]
    eligible_finetune_tags: list[TagShown]


def build(services: Services, door: Door) -> ASGIApp:
    """The paths as an application; a request to any of ``PREFIXES`` is handed to it with its path whole."""
    app = FastAPI(title="Tunesmith: Kiln's paths", docs_url=None, redoc_url=None, openapi_url=None)
    errors.install(app, wire.respond, door=door)
    app.add_exception_handler(RequestValidationError, wire.malformed)
    router = APIRouter()
    _providers(router, services)
    _finetunes(router, services)
    _making(router, services)
    _splits(router, services)
    splits.download(router, services.projects, services.exports, services.turns)
    app.include_router(router)

    async def below_root(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": ROOT}, receive, send)

    return below_root


def _providers(router: APIRouter, services: Services) -> None:
    @router.get("/finetune_providers", response_model=list[Provider])
    async def finetune_providers(request: Request) -> Any:
        async def asked() -> list[Provider]:
            return [
                Provider(
                    name=offer.label,
                    id=offer.id,
                    enabled=offer.enabled,
                    models=[
                        Model(
                            name=model.name,
                            id=model.id,
                            data_strategies_supported=list(model.strategies),
                            supports_function_calling=model.tools,
                        )
                        for model in offer.models
                    ],
                )
                for offer in await services.catalog.offers()
            ]

        return await unless_left(request, asked())


def _finetunes(router: APIRouter, services: Services) -> None:
    service = services.jobs

    @router.get(f"{_TASK}/finetunes", response_model=list[Finetune])
    async def finetunes(request: Request, project_id: str, task_id: str, update_status: bool = False) -> Any:
        caller = caller_of(request)

        async def whole() -> list[Finetune]:
            scope = {"project_id": project_id, "task_id": task_id}
            found = await run_in_threadpool(service.list, caller, **scope, limit=_MOST_JOBS)
            return [_finetune(each) for each in (await service.refresh(found, caller) if update_status else found)]

        return await unless_left(request, whole())

    @router.get(f"{_TASK}/finetunes/{{finetune_id}}", response_model=FinetuneWithStatus)
    async def finetune(request: Request, project_id: str, task_id: str, finetune_id: str) -> Any:
        caller = caller_of(request)

        async def whole() -> FinetuneWithStatus:
            scope = {"project_id": project_id, "task_id": task_id}
            found = await run_in_threadpool(service.get, finetune_id, caller, **scope)
            if not found.run.state.final:
                asked = await service.refresh([found], caller)
                found = asked[0] if asked else found
            return FinetuneWithStatus(finetune=_finetune(found), status=_status(request, found))

        return await unless_left(request, whole())

    @router.patch(f"{_TASK}/finetunes/{{finetune_id}}", response_model=Finetune)
    def update_finetune(
        request: Request, project_id: str, task_id: str, finetune_id: str, body: FinetuneChanges
    ) -> Finetune:
        changes = {"name": body.name, "description": body.description or ""}
        scope = {"project_id": project_id, "task_id": task_id}
        return _finetune(service.edit(finetune_id, caller_of(request), **changes, **scope))

    @router.get(f"{_TASK}/finetune_dataset_info", response_model=DatasetInfo)
    def finetune_dataset_info(request: Request, project_id: str, task_id: str) -> DatasetInfo:
        caller = caller_of(request)
        owner = services.projects.project(project_id, caller).owner
        found = services.projects.info(project_id, task_id, caller)
        made = service.list(caller, project_id=project_id, task_id=task_id, limit=_MOST_JOBS)
        # Kiln leaves out what nothing was ever trained on
        used = {job.notes.split_id for job in made}
        datasets = [_split(each, owner) for each in found.splits if each.id in used]
        tags = [tag_shown(each) for each in found.tags]
        return DatasetInfo(
            existing_datasets=datasets,
            existing_finetunes=[_finetune(each) for each in made],
            finetune_tags=tags,
            eligible_datasets=datasets,
            eligible_finetune_tags=tags,
        )


def _making(router: APIRouter, services: Services) -> None:
    @router.post(f"{_TASK}/finetunes", response_model=Finetune)
    async def create_finetune(
        request: Request, project_id: str, task_id: str, body: FinetuneRequest, idempotency_key: jobs.Key = None
    ) -> Finetune:
        if body.system_message_generator is None and body.custom_system_message is None:
            raise splits.no_system()
        order = NewJob(
            provider=body.provider,
            model=body.base_model_id,
            parameters=body.parameters,
            name=body.name,
            description=body.description,
            project_id=project_id,
            task_id=task_id,
            split_id=body.dataset_id,
            train_split=body.train_split_name,
            validation_split=body.validation_split_name,
            strategy=body.data_strategy,
            system_message=body.custom_system_message,
            system_message_generator=body.system_message_generator,
            thinking_instructions=body.custom_thinking_instructions,
        )
        return _finetune(await jobs.make(services.jobs, services.turns, order, caller_of(request), idempotency_key))


def _splits(router: APIRouter, services: Services) -> None:
    service = services.projects

    @router.get(f"{_TASK}/dataset_splits", response_model=list[Split])
    def dataset_splits(request: Request, project_id: str, task_id: str) -> Sequence[Split]:
        caller = caller_of(request)
        owner = service.project(project_id, caller).owner
        return [_split(each, owner) for each in service.splits(project_id, task_id, caller)]

    @router.post(f"{_TASK}/dataset_splits", response_model=Split)
    def create_dataset_split(request: Request, project_id: str, task_id: str, body: SplitRequest) -> Split:
        caller = caller_of(request)
        owner = service.project(project_id, caller).owner
        made = service.create_split(
            project_id,
            task_id,
            caller,
            split_type=body.dataset_split_type,
            filter=body.filter_id,
            name=body.name,
            description=body.description,
        )
        return _split(made, owner)


def _finetune(found: Job) -> Finetune:
    run, notes, hosted = found.run, found.notes, found.hosted
    output = run.output if found.status is Status.COMPLETED else None
    return Finetune(
        id=run.id,
        created_at=time(run.created_at),
        created_by=run.owner,
        name=notes.name,
        description=notes.description or None,
        provider=notes.provider,
        base_model_id=notes.model,
        provider_id=hosted.job_id if hosted else None,
        fine_tune_model_id=hosted.output_model if hosted else output,
        dataset_split_id=notes.split_id or "",
        train_split_name=notes.train_split,
        validation_split_name=notes.validation_split,
        parameters=dict[str, Value](notes.parameters),
        system_message=notes.system_message or "",
        thinking_instructions=notes.thinking_instructions,
        latest_status=_WORDS[found.status],
        properties={key: value for key, value in notes.properties.items() if isinstance(value, str | int | float)},
        data_strategy=str(notes.strategy),
    )


def _status(request: Request, found: Job) -> StatusShown:
    said = ("任务已取消", "the job was cancelled") if found.status is Status.CANCELLED else said_of(found)
    message = None if said is None else say(request, said)
    return StatusShown(
        status=_WORDS[found.status], message=message, error_details=found.run.reason(language_of(request.headers))
    )


def _split(found: DatasetSplit, owner: str) -> Split:
    return Split(
        id=found.id,
        created_at=time(found.created_at),
        created_by=owner,
        name=found.name,
        description=found.description,
        splits=[part_shown(each) for each in found.parts],
        split_contents={name: list(ids) for name, ids in found.contents.items()},
        filter=found.filter,
    )
