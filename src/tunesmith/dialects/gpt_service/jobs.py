"""Paths of the gpt-service document that start long work: training and evaluation."""

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from tunesmith.dialects.gpt_service import evaluation_answers, wire
from tunesmith.dialects.gpt_service.evaluation_answers import EvaluationResults, EvaluationStarted
from tunesmith.dialects.gpt_service.run_answers import TrainingHistory, TrainingStarted, TrainingTask, task
from tunesmith.evaluation.service import EvaluationService
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.inference.served import ServedModels
from tunesmith.models.registry import Registry
from tunesmith.training.run import Run
from tunesmith.training.service import TrainingService


def training(service: TrainingService, registry: Registry) -> APIRouter:
    """``/train`` and below."""
    routes = APIRouter(prefix="/train", tags=["training"])

    def shown(run: Run, request: Request) -> TrainingTask:
        return task(run, language_of(request.headers), service.silent_s(run))

    @routes.post("", **described(TrainingStarted))
    def start(request: Request, body: wire.TrainRequest) -> TrainingStarted:
        """Record a LoRA run and answer at once; it starts when the machine is free."""
        recipe = body.recipe(registry.base(body.base_model).context_length)
        run = service.start(recipe, output=body.output_dir, caller=caller_of(request))
        return {"status": "success", "task_id": run.id, "message": "训练任务已创建"}

    @routes.get("/status/{task_id}", **described(TrainingTask))
    def status(request: Request, task_id: str) -> TrainingTask:
        """Where a run stands."""
        return shown(service.get(task_id, caller=caller_of(request)), request)

    @routes.get("/history", **described(TrainingHistory))
    def history(request: Request, limit: int = Query(100, ge=1, le=1000)) -> TrainingHistory:
        """Runs, newest first."""
        runs = service.list(limit=limit, caller=caller_of(request))
        return {"history": [shown(run, request) for run in runs], "total_count": len(runs)}

    @routes.post("/cancel/{task_id}", **described(TrainingStarted))
    def cancel(request: Request, task_id: str) -> TrainingStarted:
        """Ask a run to stop (an addition to the document)."""
        run = service.cancel(task_id, caller=caller_of(request))
        return {"status": "success", "task_id": run.id, "message": "已请求取消训练任务"}

    return routes


def evaluation(service: EvaluationService, served: ServedModels) -> APIRouter:
    """``/evaluate`` and below."""
    routes = APIRouter(prefix="/evaluate", tags=["evaluation"])

    @routes.post("", **described(EvaluationStarted))
    async def start(request: Request, body: wire.EvaluateRequest) -> EvaluationStarted:
        """Record an evaluation and answer at once; its figures come under the id."""
        model = await run_in_threadpool(served.resolve, body.model_name)
        started = await run_in_threadpool(service.start, body.request(model), caller=caller_of(request))
        service.run_soon(started.id)
        return {"status": "success", "eval_id": started.id, "message": "评估任务已创建"}

    @routes.post("/cancel/{eval_id}", **described(EvaluationStarted))
    async def cancel(request: Request, eval_id: str) -> EvaluationStarted:
        """Stop an evaluation (an addition to the document)."""
        await service.cancel(eval_id, caller=caller_of(request))
        return {"status": "success", "eval_id": eval_id, "message": "已取消评估任务"}

    @routes.get("/results/{eval_id}", **described(EvaluationResults))
    def results(request: Request, eval_id: str) -> EvaluationResults:
        """Where an evaluation stands, and its figures once completed."""
        return evaluation_answers.results(service.get(eval_id, caller=caller_of(request)), language_of(request.headers))

    return routes
