"""``/evaluate/dataset`` and beside it, additions to the document: evaluations on a dataset, listed and in full."""

import random
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.service import DatasetService
from tunesmith.dialects.gpt_service import wire
from tunesmith.dialects.gpt_service.evaluation_answers import (
    EvaluationDetails,
    EvaluationHistory,
    EvaluationOutputs,
    EvaluationStarted,
    results,
)
from tunesmith.evaluation.evaluation import MOST_QUESTIONS
from tunesmith.evaluation.metrics import LOWER_IS_BETTER, NAMES
from tunesmith.evaluation.service import Evaluation, EvaluationRequest, EvaluationService, Question
from tunesmith.evaluation.verdict import verdict
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.inference.engine import Sampling
from tunesmith.inference.served import ServedModels
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home

_SEED = 42  # which questions are drawn where not all are asked: the same ones every time


class DatasetRequest(wire.Body):
    """``limit`` questions of the dataset are asked: a random sample of it, the same whenever it is asked again."""

    dataset_path: str
    model_name: str | None = None
    metrics: Annotated[list[str], Field(max_length=16, fail_fast=True)] = Field(default_factory=lambda: list(NAMES))
    compare: bool = False
    max_tokens: int = 128
    limit: Annotated[int, Field(ge=1, le=MOST_QUESTIONS)] = 200


def build(service: EvaluationService, served: ServedModels, datasets: DatasetService, home: Home) -> APIRouter:
    """The paths; owners are those of ``/evaluate``."""
    routes = APIRouter(prefix="/evaluate", tags=["evaluation"])

    @routes.post("/dataset", **described(EvaluationStarted))
    async def start(request: Request, body: DatasetRequest) -> EvaluationStarted:
        """Record an evaluation on a dataset, a split of one or a file under home, and answer at once."""
        caller = caller_of(request)

        def recorded() -> Evaluation:
            model = served.resolve(body.model_name).model
            found = questions(datasets, home, body.dataset_path, body.limit, caller)
            greedy = Sampling(max_new_tokens=body.max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
            asked = EvaluationRequest(model, found, tuple(body.metrics), greedy, label=body.dataset_path)
            return service.start(replace(asked, compare=body.compare), caller=caller)

        started = await run_in_threadpool(recorded)
        service.run_soon(started.id)
        return {"status": "success", "eval_id": started.id, "message": "评估任务已创建"}

    @routes.get("/history", **described(EvaluationHistory))
    def history(request: Request, limit: int = Query(100, ge=1, le=1000)) -> EvaluationHistory:
        """Evaluations, newest first."""
        language, found = language_of(request.headers), service.list(caller_of(request), limit)
        return {"history": [_shown(each, language) for each in found], "total_count": len(found)}

    @routes.get("/details/{eval_id}", **described(EvaluationDetails))
    def details(request: Request, eval_id: str) -> EvaluationDetails:
        """An evaluation with what it says in words."""
        return _shown(service.get(eval_id, caller=caller_of(request)), language_of(request.headers))

    @routes.get("/outputs/{eval_id}", **described(EvaluationOutputs))
    def outputs(
        request: Request,
        eval_id: str,
        offset: int = Query(0, ge=0),
        limit: int = Query(1000, ge=1, le=MOST_QUESTIONS),
    ) -> Response:
        """What each question brought, in the order of the questions; empty until the evaluation has completed."""
        rows = service.outputs(eval_id, caller=caller_of(request))
        found = {"eval_id": eval_id, "rows": rows[offset : offset + limit], "total_count": len(rows)}
        return Response(msgspec.json.encode(found), media_type="application/json")

    return routes


def questions(datasets: DatasetService, home: Home, name: str, most: int, caller: Caller) -> tuple[Question, ...]:
    """What a dataset asks, at most ``most`` drawn at random, in its order: all before the last answer, and that answer.

    Raises:
        NotFound, Forbidden, Invalid: no such dataset, or bad rows.
    """
    datasets.check_may_read(name, caller)
    drawn: list[tuple[int, Question]] = []
    chance = random.Random(_SEED)
    with closing(cast("Any", read_examples(home, name))) as examples:
        for place, example in enumerate(examples):  # memory stays flat, however large the file is
            kept = place if place < most else chance.randrange(place + 1)
            if kept < most:
                drawn[kept : kept + 1] = [(place, Question(example.prompt, example.completion))]
    return tuple(question for _, question in sorted(drawn, key=lambda each: each[0]))


def _shown(found: Evaluation, language: str) -> EvaluationDetails:
    return {
        **results(found, language),
        "model_name": found.model.name,
        "base_model": found.model.base,
        "adapter": found.model.adapter,
        "label": found.label,
        "compare": found.compare,
        "asked_metrics": list(found.metrics),
        "lower_is_better": sorted(LOWER_IS_BETTER),
        "max_tokens": found.sampling.max_new_tokens,
        "done": found.done,
        "total": found.total,
        "verdict": verdict(found.result).message(language) if found.result else None,
    }
