"""Paths of the gpt-service document under ``/ollama``: what Ollama has, what it does, what it fetches."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunesmith.dialects.gpt_service import ollama_answers as answers
from tunesmith.dialects.gpt_service import wire
from tunesmith.http import errors
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.sse import EventStream, unless_left
from tunesmith.inference.gateway import no_ollama
from tunesmith.inference.ollama import OllamaServer
from tunesmith.inference.pull_store import Pull
from tunesmith.inference.pulls import Pulls
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Forbidden

_SETTLED_S = 10.0  # so long a pull is waited for, to tell an unknown model from one that is being fetched


@dataclass(frozen=True, slots=True)
class Ollama:
    """The configured Ollama server, and the pulls it was asked for."""

    server: OllamaServer
    pulls: Pulls


def build(ollama: Ollama | None) -> APIRouter:
    """The routes; without a configured Ollama they say what to set."""
    routes = APIRouter(prefix="/ollama", tags=["ollama"])

    def configured() -> Ollama:
        if ollama is None:
            raise no_ollama()
        return ollama

    @routes.get("/models", **described(answers.OllamaModels))
    async def models(request: Request) -> Response:
        """The models Ollama has, newest first."""
        found = await unless_left(request, configured().server.models())
        return found if isinstance(found, Response) else JSONResponse(wire.ollama_models(found))

    @routes.get("/stats", **described(answers.OllamaStatistics))
    async def stats(request: Request) -> Response:
        """Version, models in memory, and what was asked of Ollama through this server since it started."""
        found = await unless_left(request, configured().server.stats())
        return found if isinstance(found, Response) else JSONResponse(wire.ollama_stats(found))

    @routes.post("/pull", **described(answers.OllamaPull, events=answers.OllamaPullEvent | answers.OllamaPullFailed))
    async def pull(request: Request, model_name: str) -> Response:
        """Have Ollama fetch a model. The pull goes on whoever leaves; asked for ``text/event-stream`` it is followed."""
        pulls = configured().pulls
        begun = await pulls.begin(model_name, _admin(request).name)
        language = errors.language_of(request.headers)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(request, _followed(pulls, begun), wire.PullEncoder(language), errors.in_json(wire.error))
        settled = await unless_left(request, pulls.settled(begun.id, _SETTLED_S))
        if isinstance(settled, Response):
            return settled
        if settled.failure is not None:
            raise settled.failure
        return JSONResponse(wire.pull(settled, language))

    @routes.get("/pulls", **described(answers.OllamaPulls))
    def every_pull(request: Request) -> answers.OllamaPulls:
        """Pulls, the newest first."""
        language = errors.language_of(request.headers)
        return {"pulls": [wire.pull(each, language) for each in configured().pulls.list()]}

    @routes.get("/pulls/{pull_id}", **described(answers.OllamaPull))
    def one_pull(request: Request, pull_id: str) -> answers.OllamaPull:
        """A pull as it stands."""
        return wire.pull(configured().pulls.get(pull_id), errors.language_of(request.headers))

    @routes.delete("/pulls/{pull_id}", **described(answers.OllamaPull))
    async def cancel(request: Request, pull_id: str) -> answers.OllamaPull:
        """Stop a pull; Ollama keeps the parts it has, and the next pull goes on from them."""
        pulls = configured().pulls
        _admin(request)
        await run_in_threadpool(pulls.get, pull_id)
        return wire.pull(await pulls.cancel(pull_id), errors.language_of(request.headers))

    return routes


async def _followed(pulls: Pulls, begun: Pull) -> AsyncGenerator[Pull, None]:
    """The pull at each change; a failure is raised, as every stream's is."""
    async with aclosing(pulls.watch(begun.id)) as changes:
        async for each in changes:
            if each.failure is not None:
                raise each.failure
            yield each


def _admin(request: Request) -> Caller:
    """A model takes gigabytes of everybody's disk."""
    caller = caller_of(request)
    if not caller.admin:
        raise Forbidden("只有管理员可以拉取 Ollama 模型", "only admins may have Ollama fetch models")
    return caller
