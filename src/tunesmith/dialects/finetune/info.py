"""``finetune_dataset_info`` of a task: all that a fine-tune of it can be made from, where Kiln has it."""

from fastapi import APIRouter, Request

from tunesmith.dialects.finetune import job_shape
from tunesmith.dialects.finetune.job_shape import JobShown
from tunesmith.dialects.finetune.openapi import failures
from tunesmith.dialects.finetune.splits import SplitShown, split_shown
from tunesmith.dialects.finetune.wire import Answer
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.projects.project import TagCounts
from tunesmith.projects.service import ProjectService
from tunesmith.training.jobs.service import JobService


class TagShown(Answer):
    """How many examples wear a tag that begins with ``fine_tune``."""

    tag: str
    count: int
    reasoning_count: int
    high_quality_count: int
    reasoning_and_high_quality_count: int


class DatasetInfoAnswer(Answer):
    existing_datasets: list[SplitShown]
    existing_finetunes: list[JobShown]
    finetune_tags: list[TagShown]


def routes(service: ProjectService, jobs: JobService) -> APIRouter:
    """The path."""
    router = APIRouter(tags=["splits"])

    @router.get(
        "/projects/{project_id}/tasks/{task_id}/finetune_dataset_info",
        response_model=DatasetInfoAnswer,
        responses=failures(404),
    )
    def finetune_dataset_info(request: Request, project_id: str, task_id: str) -> DatasetInfoAnswer:
        """Splits, jobs, and how many examples each tag has."""
        caller = caller_of(request)
        found = service.info(project_id, task_id, caller)
        owner = service.project(project_id, caller).owner
        made = jobs.list(caller, project_id=project_id, task_id=task_id)
        return DatasetInfoAnswer(
            existing_datasets=[split_shown(request, each, owner) for each in found.splits],
            existing_finetunes=job_shape.jobs(made, language_of(request.headers)).jobs,
            finetune_tags=[tag_shown(each) for each in found.tags],
        )

    return router


def tag_shown(found: TagCounts) -> TagShown:
    """The counts of a tag."""
    return TagShown(
        tag=found.tag,
        count=found.count,
        reasoning_count=found.reasoning_count,
        high_quality_count=found.high_quality_count,
        reasoning_and_high_quality_count=found.reasoning_and_high_quality_count,
    )
