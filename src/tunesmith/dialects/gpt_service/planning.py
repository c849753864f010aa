"""``POST /train/plan``, an addition to the document: what a run would take."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunesmith.dialects.gpt_service import wire
from tunesmith.dialects.gpt_service.run_answers import Remedy, TrainingPlan
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.http.sse import unless_left
from tunesmith.models.registry import Registry
from tunesmith.training.plan.planning import Planner
from tunesmith.training.plan.prediction import Plan


def build(planner: Planner, registry: Registry) -> APIRouter:
    """The path; the body and what is refused are those of ``POST /train``."""
    routes = APIRouter(tags=["training"])

    @routes.post("/train/plan", **described(TrainingPlan))
    async def plan(request: Request, body: wire.TrainRequest) -> Response:
        """What ``POST /train`` with this body would take, from steps really taken (an addition to the document)."""

        async def whole() -> Response:
            base = await run_in_threadpool(registry.base, body.base_model)
            recipe, caller = body.recipe(base.context_length), caller_of(request)
            found = await planner.plan(recipe, output=body.output_dir, caller=caller)
            return JSONResponse(encoded(found, language_of(request.headers)))

        return await unless_left(request, whole())

    return routes


def encoded(found: Plan, language: str) -> TrainingPlan:
    """What a run would take; shares in percent."""
    remedies: list[Remedy] = [
        {"changes": dict(each.changes), "memory_bytes": each.memory_bytes, "message": each.message(language)}
        for each in found.remedies
    ]
    return {
        "status": "success",
        "fits": found.fits,
        "message": found.message(language),
        "measured": found.measured,
        "note": found.note(language),
        "total_steps": found.steps,
        "steps_per_epoch": found.updates_per_epoch,
        "samples": found.examples,
        "skipped": found.skipped,
        "total_tokens": found.tokens,
        "trained_tokens": found.supervised,
        "cut_samples": round(100 * found.cut, 2),
        "cut_tokens": round(100 * found.cut_tokens, 2),
        "seconds": round(found.seconds, 1),
        "tokens_per_second": round(found.tokens_per_second, 1),
        "device": found.room.device,
        "memory": {"needed_bytes": found.memory_bytes, "free_bytes": found.room.memory_bytes},
        "disk": {"needed_bytes": found.disk_bytes, "free_bytes": found.room.disk_bytes},
        "remedies": remedies,
    }
