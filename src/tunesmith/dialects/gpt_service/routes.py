"""Paths of the gpt-service document that answer at once: service, models, generation, Ollama."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunesmith.accounts.service import AccountService
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.gpt_service import (
    aliases,
    evaluations,
    jobs,
    library,
    ollama,
    people,
    planning,
    runs,
    samples,
    session,
    wire,
)
from tunesmith.dialects.gpt_service import datasets as datasets_routes
from tunesmith.dialects.gpt_service import model_answers as answers
from tunesmith.evaluation.promotion import Promotions
from tunesmith.evaluation.service import EvaluationService
from tunesmith.http import errors
from tunesmith.http.described import described, streamed
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind
from tunesmith.http.sse import EventStream, unless_left
from tunesmith.inference.chat import Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Event
from tunesmith.inference.gateway import Gateway
from tunesmith.inference.served import Served, ServedModels
from tunesmith.inference.switchboard import provider_of
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Forbidden
from tunesmith.models.aliases import Aliases
from tunesmith.models.model import Model
from tunesmith.models.notes import ModelNotes
from tunesmith.models.registry import Registry
from tunesmith.models.versions import Versions
from tunesmith.training.data.examiner import Examiner
from tunesmith.training.plan.planning import Planner
from tunesmith.training.service import TrainingService

VERSION = "1.0.0"  # of the document, not of the package
DESCRIPTION = "推理模型服务 - 支持本地模型训练和Ollama代理"


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls.

    Attributes:
        ollama: None where none is configured.
        device_of: where a base model's engine runs ("cpu", "cuda:0").
        environment: what ``GET /`` says.
    """

    chat: Chat
    gateway: Gateway
    ollama: ollama.Ollama | None
    aliases: Aliases
    promotions: Promotions
    datasets: DatasetService
    uploads: UploadService
    home: Home
    served: ServedModels
    training: TrainingService
    planner: Planner
    evaluation: EvaluationService
    registry: Registry
    versions: Versions
    notes: ModelNotes
    accounts: AccountService
    device_of: Callable[[str], str]
    environment: str


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    if method == "POST" and path in ("/train", "/train/plan"):
        return "training"
    if method == "POST" and path.startswith("/aliases/"):
        return "inference"
    return "inference" if path in ("/generate", "/generate/stream", "/chat", "/batch") else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at the root; ``door`` decides who may enter."""
    # /docs loads nothing from other hosts: the machine may have no way out
    app: FastAPI = FastAPIOffline(title="GPT Service", version=VERSION, description=DESCRIPTION, redoc_url=None)
    errors.install(app, errors.in_json(wire.error), door=door)
    for routes in (_service(services), _models(services), _generation(services), ollama.build(services.ollama)):
        app.include_router(routes)
    app.include_router(aliases.build(services.aliases, services.promotions, services.datasets, services.home))
    examiner = Examiner(services.home, services.registry)
    app.include_router(datasets_routes.build(services.datasets, services.uploads, examiner, services.home))
    shelf = library.Shelf(
        services.registry, services.served, services.versions, services.aliases, services.notes, services.training
    )
    app.include_router(library.build(shelf))
    app.include_router(jobs.training(services.training, services.registry))
    app.include_router(planning.build(services.planner, services.registry))
    app.include_router(samples.build(services.home))
    wants_token = door.identify is not None
    app.include_router(session.build(services.home, wants_token=wants_token))
    app.include_router(people.build(services.accounts, wants_token=wants_token))
    app.include_router(jobs.evaluation(services.evaluation, services.served))
    app.include_router(runs.build(services.training, services.registry, services.datasets, services.home))
    app.include_router(evaluations.build(services.evaluation, services.served, services.datasets, services.home))
    return app


def _service(services: Services) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/", **described(answers.About))
    async def about() -> answers.About:
        """What this service is and where its paths are."""
        return {
            "service": "GPT Service",
            "version": VERSION,
            "description": DESCRIPTION,
            "environment": services.environment,
            "endpoints": _ENDPOINTS,
        }

    @routes.head("/health", include_in_schema=False, **described(answers.Health))
    @routes.get("/health", **described(answers.Health))
    async def health() -> answers.Health:
        """Answers as soon as the server does; engines start when first asked."""
        return {
            "status": "healthy",
            "service": "gpt-service",
            "model_manager": True,
            "ollama_proxy": services.ollama is not None,
            "trainer": True,
            "evaluator": True,
        }

    return routes


_ENDPOINTS = {
    "health": "/health",
    "models": "/models",
    "generate": "/generate",
    "generate_stream": "/generate/stream",
    "chat": "/chat",
    "batch": "/batch",
    "train": "/train",
    "train_status": "/train/status/{task_id}",
    "train_history": "/train/history",
    "evaluate": "/evaluate",
    "evaluate_results": "/evaluate/results/{eval_id}",
    "ollama": "/ollama/models",
    "ollama_pull": "/ollama/pull",
    "ollama_stats": "/ollama/stats",
    "docs": "/docs",
}


def _models(services: Services) -> APIRouter:
    routes = APIRouter(tags=["models"])
    served, device_of = services.served, services.device_of

    def shown(each: Served) -> answers.ServedModel:
        return wire.model(each, device_of(each.model.base))

    @routes.get("/models", **described(answers.ServedModelList))
    def every_model() -> answers.ServedModelList:
        """Every loaded model; the shipped one when nothing else is."""
        loaded = served.list()
        return {
            "models": [shown(each) for each in loaded],
            "current_model": served.current().name,
            "total_count": len(loaded),
        }

    @routes.post("/models/load", **described(answers.ModelLoaded))
    async def load(request: Request, body: wire.LoadRequest) -> answers.ModelLoaded:
        """Serve a base model, with an adapter if one is named, and have its engine ready."""
        _only_admins(request)
        loaded = await served.load(body.model_name, body.model_path or body.model_name, body.lora_adapter)
        return {"status": "success", "message": f"模型已加载：{loaded.name}", "model": shown(loaded)}

    @routes.post("/models/unload", **described(answers.ModelUnloaded))
    async def unload(request: Request, model_name: str) -> answers.ModelUnloaded:
        """Wait for running answers, then end the engine; 409 when they take too long."""
        _only_admins(request)
        await served.unload(model_name)
        return {"status": "success", "message": f"模型已卸载：{model_name}", "model_name": model_name}

    @routes.post("/models/switch", **described(answers.ModelSwitched))
    def switch(request: Request, model_name: str) -> answers.ModelSwitched:
        """Make a loaded model the one asked when a request names none."""
        _only_admins(request)
        chosen = served.switch(model_name)
        return {
            "status": "success",
            "message": f"当前模型：{chosen.name}",
            "current_model": chosen.name,
            "model": shown(chosen),
        }

    @routes.get("/models/{model_name:path}", **described(answers.ServedModelFacts))
    def one_model(model_name: str) -> answers.ServedModelFacts:
        """One model, loaded or on disk; names may hold slashes."""
        found = served.get(model_name)
        provider = provider_of(found.model)
        if provider is not None:
            return {
                **shown(found),
                "type": "hosted",
                "device": provider,
                "base_model": found.model.base,
                "architecture": None,
                "context_length": None,
                "size_mb": None,
            }
        base = services.registry.base(found.model.base)
        return {
            **shown(found),
            "base_model": base.name,
            "architecture": base.architecture,
            "context_length": base.context_length,
            "size_mb": round(base.size_bytes / 1e6, 1),
        }

    return routes


def _only_admins(request: Request) -> None:
    """What is loaded and current is everybody's."""
    if not caller_of(request).admin:
        raise Forbidden("只有管理员可以加载、卸载或切换模型", "only admins may load, unload or switch models")


def _generation(services: Services) -> APIRouter:
    routes = APIRouter(tags=["generation"])
    gateway = services.gateway

    async def asked_of(body: wire.Generation) -> tuple[Chat, Served]:
        """Who answers: Ollama where it is asked for, else a model of this machine."""
        if body.use_ollama:
            name = await gateway.ollama_model(body.model_name)
            return gateway.ollama_chat(), Served(name, Model(name), False)
        return services.chat, await run_in_threadpool(services.served.resolve, body.model_name)

    def stream(request: Request, events: AsyncGenerator[Event, None], served: Served) -> Response:
        encoder = wire.StreamEncoder(served.name, errors.language_of(request.headers), served.version)
        return EventStream(request, events, encoder, errors.in_json(wire.error))

    @routes.post("/generate", **described(answers.Generated))
    async def generate(request: Request, body: wire.GenerateRequest) -> Response:
        """Answer one prompt."""

        async def whole() -> Response:
            chat, served = await asked_of(body)
            owner = caller_of(request).name
            [answer] = await collect(chat.complete(body.prompt, served.model, body.sampling(), owner), rows=1)
            return JSONResponse(wire.generated(answer, served))

        return await unless_left(request, whole())

    @routes.post("/generate/stream", **streamed(answers.GenerationEvent))
    async def generate_stream(request: Request, body: wire.GenerateRequest) -> Response:
        """Answer one prompt as it is written."""
        asked = await unless_left(request, asked_of(body))
        if isinstance(asked, Response):
            return asked
        chat, served = asked
        owner = caller_of(request).name
        return stream(request, chat.complete(body.prompt, served.model, body.sampling(), owner), served)

    @routes.post("/chat", **described(answers.Chatted, events=answers.GenerationEvent))
    async def converse(request: Request, body: wire.ChatRequest) -> Response:
        """Answer a conversation; ``stream: true`` as ``/generate/stream`` does."""

        async def whole() -> Response:
            chat, served = await asked_of(body)
            owner = caller_of(request).name
            [answer] = await collect(chat.answer(body.conversation(), served.model, body.sampling(), owner), rows=1)
            return JSONResponse(wire.chatted(answer, served))

        if not body.stream:
            return await unless_left(request, whole())
        asked = await unless_left(request, asked_of(body))
        if isinstance(asked, Response):
            return asked
        chat, served = asked
        owner = caller_of(request).name
        return stream(request, chat.answer(body.conversation(), served.model, body.sampling(), owner), served)

    @routes.post("/batch", **described(answers.BatchAnswers))
    async def batch(request: Request, body: wire.BatchRequest) -> Response:
        """Answer many prompts together, in their order."""

        async def whole() -> Response:
            chat, served = await asked_of(body)
            rows = chat.batch(body.prompts, served.model, body.sampling(), caller_of(request).name)
            pairs = zip(body.prompts, await collect(rows, rows=len(body.prompts)), strict=True)
            results: list[answers.BatchRow] = [
                {"prompt": prompt, **wire.generated(answer, served)} for prompt, answer in pairs
            ]
            speaker = wire.spoke(served.name, served.version)
            told: answers.BatchAnswers = {"results": results, **speaker, "total_count": len(results)}
            return JSONResponse(told)

        return await unless_left(request, whole())

    return routes
