"""``dataset_splits`` of a task, and ``/download_dataset_jsonl``, which writes one."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from tunesmith.datasets.export.service import Export, ExportService
from tunesmith.datasets.export.wanted import DEFAULT_THINKING
from tunesmith.dialects.finetune.downloads import Described, wanted
from tunesmith.dialects.finetune.openapi import example, failures
from tunesmith.dialects.finetune.turns import Turns, Watched
from tunesmith.dialects.finetune.wire import Answer, Body, Deleted, Number, Time, say, time
from tunesmith.http.door import caller_of
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.project import DatasetSplit, SplitPart
from tunesmith.projects.service import ProjectService

_DEFAULT_SPLIT = "train_val"
Text = Annotated[str, Field(max_length=10_000)]


class PartRequest(Body):
    """A part of a split; ``percentage`` is a share in [0, 1], and all together are 1."""

    name: Text
    percentage: Annotated[Number, Field(ge=0, le=1)]
    description: Text | None = None


class SplitRequest(Body):
    """Kiln's body, or shares of one's own in ``splits``; with a ``seed`` the same examples are dealt alike again."""

    model_config = example(
        {"dataset_split_type": "train_test_val", "filter_id": "all", "name": "客服一", "description": "八月的对话"}
    )

    dataset_split_type: Annotated[str, Field(max_length=128)] | None = None
    splits: Annotated[list[PartRequest], Field(min_length=1, max_length=32)] | None = None
    filter_id: Annotated[str, Field(max_length=4096)] = "all"
    name: Text | None = None
    description: Text | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None


class SplitChanges(Body):
    """A split is frozen but for these; what is left out stays."""

    name: Text | None = None
    description: Text | None = None


class PartShown(Answer):
    name: str
    description: str | None
    percentage: float


class SplitShown(Answer):
    """``split_contents``: ids of examples by part, in the order of the file; ``warnings``: what to know before training."""

    v: int = 1
    model_type: Literal["dataset_split"] = "dataset_split"
    id: str
    task_id: str
    created_by: str
    name: str
    description: str | None
    splits: list[PartShown]
    split_contents: dict[str, list[str]]
    counts: dict[str, int]
    filter: str
    seed: int
    warnings: list[str]
    created_at: Time


class SplitAnswer(Answer):
    dataset_split: SplitShown


class SplitList(Answer):
    dataset_splits: list[SplitShown]


def routes(service: ProjectService, exports: ExportService, turns: Turns) -> APIRouter:
    """The paths."""
    router = APIRouter(tags=["splits"])
    _all(router, service)
    _one(router, service)
    download(router, service, exports, turns)
    return router


def _all(router: APIRouter, service: ProjectService) -> None:
    @router.get(_SPLITS, response_model=SplitList, responses=failures(404))
    def list_splits(request: Request, project_id: str, task_id: str) -> SplitList:
        """The splits of a task."""
        found, owner = service.splits(project_id, task_id, caller_of(request)), _owner(request, service, project_id)
        return SplitList(dataset_splits=[split_shown(request, each, owner) for each in found])

    @router.post(_SPLITS, response_model=SplitAnswer, responses=failures(404))
    def create_split(request: Request, project_id: str, task_id: str, body: SplitRequest | None = None) -> SplitAnswer:
        """Deal the examples that pass the filter, once and for all; without a body four fifths to train on."""
        asked = body or SplitRequest()
        parts = [
            SplitPart(name=each.name, percentage=each.percentage, description=each.description)
            for each in asked.splits or ()
        ]
        made = service.create_split(
            project_id,
            task_id,
            caller_of(request),
            split_type=asked.dataset_split_type or (None if parts else _DEFAULT_SPLIT),
            parts=parts or None,
            filter=asked.filter_id,
            name=asked.name,
            description=asked.description,
            seed=asked.seed,
        )
        return SplitAnswer(dataset_split=split_shown(request, made, _owner(request, service, project_id)))


def _one(router: APIRouter, service: ProjectService) -> None:
    @router.get(_SPLIT, response_model=SplitAnswer, responses=failures(404))
    def get_split(request: Request, project_id: str, task_id: str, split_id: str) -> SplitAnswer:
        """One split."""
        found = service.split(project_id, task_id, split_id, caller_of(request))
        return SplitAnswer(dataset_split=split_shown(request, found, _owner(request, service, project_id)))

    @router.patch(_SPLIT, response_model=SplitAnswer, responses=failures(404))
    def edit_split(request: Request, project_id: str, task_id: str, split_id: str, body: SplitChanges) -> SplitAnswer:
        """Another name or description."""
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        found = service.edit_split(project_id, task_id, split_id, changes, caller_of(request))
        return SplitAnswer(dataset_split=split_shown(request, found, _owner(request, service, project_id)))

    @router.delete(_SPLIT, response_model=Deleted, responses=failures(404, 409))
    def delete_split(request: Request, project_id: str, task_id: str, split_id: str) -> Deleted:
        """Forget a split; its examples stay."""
        service.delete_split(project_id, task_id, split_id, caller_of(request))
        return Deleted(id=split_id)


def download(router: APIRouter, service: ProjectService, exports: ExportService, turns: Turns) -> None:
    """Add ``/download_dataset_jsonl`` to the router."""

    @router.get("/download_dataset_jsonl", response_class=Described, responses=failures(404, 503))
    async def download_dataset_jsonl(
        request: Request,
        project_id: Word,
        task_id: Word,
        dataset_id: Word,
        split_name: Word,
        format_type: Word,
        data_strategy: Word,
        system_message_generator: str | None = None,
        custom_system_message: str | None = None,
        custom_thinking_instructions: str | None = None,
    ) -> Response:
        """A part of a split in a format of training; the answer begins when every row was checked."""
        caller = caller_of(request)
        wanted(format_type, data_strategy, None, custom_thinking_instructions)  # before anything is looked for

        def made(watched: Watched) -> Export:
            task = service.task(project_id, task_id, caller)
            split = service.split(project_id, task_id, dataset_id, caller)
            system = custom_system_message
            if not (system and system.strip()):
                if not system_message_generator:
                    raise no_system()
                system = service.system_message(project_id, task_id, system_message_generator, caller)
            thinking = custom_thinking_instructions
            whole = wanted(format_type, data_strategy, system, thinking, task.thinking_instruction or DEFAULT_THINKING)
            samples = watched(service.samples(project_id, task_id, split.id, split_name, caller))
            return exports.open(samples, whole, dataset=split.name, split=split_name)

        return await turns.file(request, made)


_TASK = "/projects/{project_id}/tasks/{task_id}"
_SPLITS = f"{_TASK}/dataset_splits"
_SPLIT = f"{_SPLITS}/{{split_id}}"
Word = Annotated[str, Query(min_length=1, max_length=128)]


def no_system() -> Invalid:
    """What says that nothing tells the system message."""
    return Invalid(
        "需要 system_message_generator 或 custom_system_message",
        "System message generator or custom system message is required",
        field="system_message_generator",
    )


def split_shown(request: Request, found: DatasetSplit, owner: str) -> SplitShown:
    """The split in the client's language; it is its project's owner's."""
    return SplitShown(
        id=found.id,
        task_id=found.task_id,
        created_by=owner,
        name=found.name,
        description=found.description,
        splits=[part_shown(each) for each in found.parts],
        split_contents={name: list(ids) for name, ids in found.contents.items()},
        counts={name: len(ids) for name, ids in found.contents.items()},
        filter=found.filter,
        seed=found.seed,
        warnings=[say(request, pair) for pair in found.warnings],
        created_at=time(found.created_at),
    )


def part_shown(found: SplitPart) -> PartShown:
    """A part of a split."""
    return PartShown(name=found.name, description=found.description, percentage=found.percentage)


def _owner(request: Request, service: ProjectService, project_id: str) -> str:
    return service.project(project_id, caller_of(request)).owner
