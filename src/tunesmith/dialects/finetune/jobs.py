"""``/jobs`` and ``/projects/{project_id}/tasks/{task_id}/finetunes``: one set of jobs, with and without a project."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tunesmith.dialects.finetune import job_shape
from tunesmith.dialects.finetune.job_shape import CostShown, JobAnswer, JobsAnswer
from tunesmith.dialects.finetune.openapi import example, failures
from tunesmith.dialects.finetune.turns import Turns
from tunesmith.dialects.finetune.wire import SAID, Answer, Body, Number, below_home, one_of, required, say
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.http.sse import unless_left
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Invalid, Problem
from tunesmith.training.jobs.job import Job, NewJob
from tunesmith.training.jobs.service import JobService

_DEFAULT_PROVIDER = "TOGETHER_AI"  # the document's
_MOST_PARAMETERS = 64
_SAMPLE = {
    "name": "高级微调作业",
    "provider": "TOGETHER_AI",
    "model_name": "togethercomputer/llama-2-7b",
    "dataset_path": "/path/to/dataset.json",
    "parameters": {
        "learning_rate": 0.00002,
        "epochs": 3,
        "batch_size": 8,
        "lora_rank": 16,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "warmup_ratio": 0.1,
    },
    "description": "这是一个用于客服场景的微调作业",
    "system_message": "你是一个专业的客服助手，擅长解答用户问题。请保持礼貌和专业。",
    "thinking_instructions": "分析用户问题，考虑可能的解决方案，提供清晰的步骤指导。",
}
Word = Annotated[Annotated[str, Field(max_length=1024)] | None, SAID]
Text = Annotated[Annotated[str, Field(max_length=200_000)] | None, SAID]
Limit = Annotated[int, Query(ge=1, le=10_000)]
Key = Annotated[str | None, Header(alias="Idempotency-Key")]


class JobRequest(Body):
    """What a job is made of: the document's names, or Kiln's for the same (``base_model_id``, ``dataset_id``,
    ``custom_system_message``, ``custom_thinking_instructions``)."""

    model_config = example(_SAMPLE)

    name: Word = None
    description: Text = None
    provider: Word = None
    model_name: Word = None
    base_model_id: Word = None
    dataset_path: Annotated[Annotated[str, Field(max_length=1025)] | None, SAID] = None
    split_name: Word = None
    project_id: Word = None
    task_id: Word = None
    dataset_id: Word = None
    dataset_split_id: Word = None
    train_split_name: Word = None
    validation_split_name: Word = None
    parameters: Annotated[
        dict[str, bool | int | Number | str | None], Field(max_length=_MOST_PARAMETERS, default_factory=dict)
    ]
    data_strategy: Word = None
    system_message: Text = None
    custom_system_message: Text = None
    system_message_generator: Word = None
    thinking_instructions: Text = None
    custom_thinking_instructions: Text = None
    run_config_properties: dict[str, Any] | None = None  # Kiln's: how to call the model; it is called as it was trained

    def order(self, project_id: str | None, task_id: str | None, dataset_path: str | None) -> NewJob:
        """What the service is asked for.

        Args:
            project_id, task_id: of the path; None where it has none.

        Raises:
            Invalid: a field is missing, or two names of one field differ.
        """
        model = one_of("model_name", self.model_name, "base_model_id", self.base_model_id)
        split_id = one_of("dataset_id", self.dataset_id, "dataset_split_id", self.dataset_split_id)
        train = one_of("split_name", self.split_name, "train_split_name", self.train_split_name) or "train"
        if model is None:
            raise required("model_name")
        if (dataset_path is None) == (split_id is None):
            raise _which_dataset() if split_id else required("dataset_path")
        return NewJob(
            provider=self.provider or _DEFAULT_PROVIDER,
            model=model,
            parameters={name: value for name, value in self.parameters.items() if value is not None},
            name=self.name,
            description=self.description,
            dataset_path=dataset_path,
            split_name=train,
            project_id=one_of("project_id", project_id, "project_id", self.project_id),
            task_id=one_of("task_id", task_id, "task_id", self.task_id),
            split_id=split_id,
            train_split=train,
            validation_split=self.validation_split_name,
            strategy=self.data_strategy,
            system_message=one_of(
                "system_message", self.system_message, "custom_system_message", self.custom_system_message
            ),
            system_message_generator=self.system_message_generator,
            thinking_instructions=one_of(
                "thinking_instructions",
                self.thinking_instructions,
                "custom_thinking_instructions",
                self.custom_thinking_instructions,
            ),
        )


class JobChanges(Body):
    """What may be changed of a job; what is left out stays."""

    name: Annotated[str, Field(max_length=1024)] | None = None
    description: Annotated[str, Field(max_length=200_000)] | None = None


class EstimateShown(Answer):
    """``tokens`` and ``steps`` over all epochs; what is null is unknown, and ``reason`` says why."""

    cost: CostShown | None
    tokens: int | None
    steps: int | None
    reason: str | None


class EstimateAnswer(Answer):
    estimate: EstimateShown


def routes(service: JobService, turns: Turns) -> APIRouter:
    """Every path, free and under a task: the two differ by what the job belongs to."""
    router = APIRouter(tags=["jobs"])
    _reading(router, service)
    _making(router, service, turns)
    _changing(router, service)
    return router


def _reading(router: APIRouter, service: JobService) -> None:
    async def listed(
        request: Request, project_id: str | None, task_id: str | None, update_status: bool, limit: int
    ) -> Any:
        caller = caller_of(request)

        async def whole() -> JobsAnswer:
            found = await run_in_threadpool(service.list, caller, project_id=project_id, task_id=task_id, limit=limit)
            if update_status:
                found = await service.refresh(found, caller)
            return job_shape.jobs(found, language_of(request.headers))

        return await unless_left(request, whole())

    async def one(request: Request, job_id: str, scope: Mapping[str, str], update_status: bool) -> Any:
        caller = caller_of(request)

        async def whole() -> JobAnswer:
            found = await run_in_threadpool(service.get, job_id, caller, **scope)
            if update_status and not found.run.state.final:
                asked = await service.refresh([found], caller)
                # none: somebody has just deleted it, and getting it says so
                found = asked[0] if asked else await run_in_threadpool(service.get, job_id, caller, **scope)
            return _answer(request, found)

        return await unless_left(request, whole())

    @router.get("/jobs", response_model=JobsAnswer, responses=failures())
    async def list_jobs(request: Request, update_status: bool = False, limit: Limit = 1000) -> Any:
        """The newest first, also runs that were started elsewhere; ``update_status`` asks the providers now."""
        return await listed(request, None, None, update_status, limit)

    @router.get("/jobs/{job_id}", response_model=JobAnswer, responses=failures(404))
    async def get_job(request: Request, job_id: str, update_status: bool = True) -> Any:
        """One job; while it has not ended, its provider is asked first, and what cannot be asked is told as known."""
        return await one(request, job_id, {}, update_status)

    @router.get(_TASK, response_model=JobsAnswer, responses=failures(404))
    async def list_finetunes(
        request: Request, project_id: str, task_id: str, update_status: bool = False, limit: Limit = 1000
    ) -> Any:
        """The jobs of a task."""
        return await listed(request, project_id, task_id, update_status, limit)

    @router.get(f"{_TASK}/{{finetune_id}}", response_model=JobAnswer, responses=failures(404))
    async def get_finetune(
        request: Request, project_id: str, task_id: str, finetune_id: str, update_status: bool = True
    ) -> Any:
        """One job of a task."""
        return await one(request, finetune_id, {"project_id": project_id, "task_id": task_id}, update_status)


async def make(service: JobService, turns: Turns, order: NewJob, caller: Caller, key: str | None) -> Job:
    """The job that is ordered, or the one that an earlier request with the same key made.

    Raises:
        as ``JobService.create`` and ``JobService.check_model``.
    """
    # first, for the model may have been retired or the provider's key removed since
    made = await run_in_threadpool(service.made, order, caller, idempotency_key=key)
    if made is not None:
        return made
    try:
        await service.check_model(order)
    except Problem:
        # what is wrong with the request itself is told before what is wrong with the provider
        await turns.run(lambda: service.check(order, caller))
        raise
    return await turns.run(lambda: service.create(order, caller, idempotency_key=key))


def _making(router: APIRouter, service: JobService, turns: Turns) -> None:
    async def create(
        request: Request, body: JobRequest, project_id: str | None, task_id: str | None, key: str | None
    ) -> JobAnswer:
        with below_home(body.dataset_path or "") as path:
            order = body.order(project_id, task_id, path or None)
            return _answer(request, await make(service, turns, order, caller_of(request), key))

    estimating = Turns()  # their own: providers are asked meanwhile, and may be slow

    async def estimate(
        request: Request, body: JobRequest, project_id: str | None, task_id: str | None
    ) -> EstimateAnswer:
        # not stopped when the client leaves: its thread would go on, and take no turn
        async with estimating.taken(request):
            with below_home(body.dataset_path or "") as path:
                found = await service.estimate(body.order(project_id, task_id, path or None), caller_of(request))
        reason = None if found.reason is None else say(request, found.reason)
        cost = job_shape.cost(found.cost)
        shown = EstimateShown(cost=cost, tokens=found.tokens, steps=found.steps, reason=reason)
        return EstimateAnswer(estimate=shown)

    @router.post("/jobs", response_model=JobAnswer, responses=failures(403, 404, 409, 503, 504))
    async def create_job(request: Request, body: JobRequest, idempotency_key: Key = None) -> JobAnswer:
        """Record a job and answer; it begins as soon as its provider, or this machine, takes it.

        With ``Idempotency-Key`` a repeated request gives the job that the first one made.
        """
        return await create(request, body, None, None, idempotency_key)

    @router.post("/jobs/estimate", response_model=EstimateAnswer, responses=failures(403, 404, 503, 504))
    async def estimate_job(request: Request, body: JobRequest) -> EstimateAnswer:
        """What a job would take and cost; nothing is made."""
        return await estimate(request, body, None, None)

    @router.post(_TASK, response_model=JobAnswer, responses=failures(403, 404, 409, 503, 504))
    async def create_finetune(
        request: Request, project_id: str, task_id: str, body: JobRequest, idempotency_key: Key = None
    ) -> JobAnswer:
        """A job of a task, from one of its splits or from a file."""
        return await create(request, body, project_id, task_id, idempotency_key)

    @router.post(f"{_TASK}/estimate", response_model=EstimateAnswer, responses=failures(403, 404, 503, 504))
    async def estimate_finetune(request: Request, project_id: str, task_id: str, body: JobRequest) -> EstimateAnswer:
        """What a job of a task would take and cost."""
        return await estimate(request, body, project_id, task_id)


def _changing(router: APIRouter, service: JobService) -> None:
    def edit(request: Request, job_id: str, body: JobChanges, scope: Mapping[str, str]) -> JobAnswer:
        edited = service.edit(job_id, caller_of(request), name=body.name, description=body.description, **scope)
        return _answer(request, edited)

    def delete(request: Request, job_id: str, scope: Mapping[str, str]) -> JobAnswer:
        return _answer(request, service.delete(job_id, caller_of(request), **scope))

    @router.post("/jobs/{job_id}/cancel", response_model=JobAnswer, responses=failures(404, 409, 503, 504))
    def cancel_job(request: Request, job_id: str) -> JobAnswer:
        """Ask a job to stop; asking twice is fine, and what has ended otherwise is a conflict."""
        return _answer(request, service.cancel(job_id, caller_of(request)))

    @router.patch("/jobs/{job_id}", response_model=JobAnswer, responses=failures(404))
    def edit_job(request: Request, job_id: str, body: JobChanges) -> JobAnswer:
        """Another name or description."""
        return edit(request, job_id, body, {})

    @router.delete("/jobs/{job_id}", response_model=JobAnswer, responses=failures(404, 409))
    def delete_job(request: Request, job_id: str) -> JobAnswer:
        """Forget a job that has ended; the answer is what it was."""
        return delete(request, job_id, {})

    @router.post(f"{_TASK}/{{finetune_id}}/cancel", response_model=JobAnswer, responses=failures(404, 409, 503, 504))
    def cancel_finetune(request: Request, project_id: str, task_id: str, finetune_id: str) -> JobAnswer:
        """Ask a job of a task to stop."""
        found = service.cancel(finetune_id, caller_of(request), project_id=project_id, task_id=task_id)
        return _answer(request, found)

    @router.patch(f"{_TASK}/{{finetune_id}}", response_model=JobAnswer, responses=failures(404))
    def edit_finetune(request: Request, project_id: str, task_id: str, finetune_id: str, body: JobChanges) -> JobAnswer:
        """Another name or description of a job of a task."""
        return edit(request, finetune_id, body, {"project_id": project_id, "task_id": task_id})

    @router.delete(f"{_TASK}/{{finetune_id}}", response_model=JobAnswer, responses=failures(404, 409))
    def delete_finetune(request: Request, project_id: str, task_id: str, finetune_id: str) -> JobAnswer:
        """Forget a job of a task that has ended."""
        return delete(request, finetune_id, {"project_id": project_id, "task_id": task_id})


_TASK = "/projects/{project_id}/tasks/{task_id}/finetunes"


def _answer(request: Request, found: Job) -> JobAnswer:
    return JobAnswer(job=job_shape.job(found, language_of(request.headers)))


def _which_dataset() -> Invalid:
    return Invalid(
        "dataset_path 与 dataset_id 只能给出一个",
        "either dataset_path or dataset_id is expected, not both",
        field="dataset_path",
    )
