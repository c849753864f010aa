"""Paths of the gpt-service document that answer at once: service, models, generation, Ollama."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunesmith.dialects.gpt_service import jobs, wire
from tunesmith.evaluation.service import EvaluationService
from tunesmith.http import errors
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind
from tunesmith.http.sse import EventStream, unless_left
from tunesmith.inference.chat import Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Event
from tunesmith.inference.served import Served, ServedModels
from tunesmith.kernel.problems import Forbidden, Unavailable
from tunesmith.models.registry import Registry
from tunesmith.training.service import TrainingService

VERSION = "1.0.0"  # of the document, not of the package
DESCRIPTION = "推理模型服务 - 支持本地模型训练和Ollama代理"


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls.

    Attributes:
        device_of: where a base model's engine runs ("cpu", "cuda:0").
        environment: what ``GET /`` says.
    """

    chat: Chat
    served: ServedModels
    training: TrainingService
    evaluation: EvaluationService
    registry: Registry
    device_of: Callable[[str], str]
    environment: str


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    if (method, path) == ("POST", "/train"):
        return "training"
    return "inference" if path in ("/generate", "/generate/stream", "/chat", "/batch") else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at the root; ``door`` decides who may enter."""
    # /docs loads nothing from other hosts: the machine may have no way out
    app: FastAPI = FastAPIOffline(title="GPT Service", version=VERSION, description=DESCRIPTION, redoc_url=None)
    errors.install(app, wire.error, door=door)
    for routes in (_service(services), _models(services), _generation(services), _ollama()):
        app.include_router(routes)
    app.include_router(jobs.training(services.training, services.registry))
    app.include_router(jobs.evaluation(services.evaluation, services.served))
    return app


def _service(services: Services) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/")
    async def about() -> dict[str, object]:
        """What this service is and where its paths are."""
        return {
            "service": "GPT Service",
            "version": VERSION,
            "description": DESCRIPTION,
            "environment": services.environment,
            "endpoints": _ENDPOINTS,
        }

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> dict[str, object]:
        """Answers as soon as the server does; engines start when first asked."""
        return {
            "status": "healthy",
            "service": "gpt-service",
            "model_manager": True,
            "ollama_proxy": False,
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
    "docs": "/docs",
}


def _models(services: Services) -> APIRouter:
    routes = APIRouter(tags=["models"])
    served, device_of = services.served, services.device_of

    def shown(each: Served) -> dict[str, object]:
        return wire.model(each, device_of(each.model.base))

    @routes.get("/models")
    def every_model() -> dict[str, object]:
        """Every loaded model; the shipped one when nothing else is."""
        loaded = served.list()
        return {
            "models": [shown(each) for each in loaded],
            "current_model": served.current().name,
            "total_count": len(loaded),
        }

    @routes.post("/models/load")
    async def load(request: Request, body: wire.LoadRequest) -> dict[str, object]:
        """Serve a base model, with an adapter if one is named, and have its engine ready."""
        _only_admins(request)
        loaded = await served.load(body.model_name, body.model_path or body.model_name, body.lora_adapter)
        return {"status": "success", "message": f"模型已加载：{loaded.name}", "model": shown(loaded)}

    @routes.post("/models/unload")
    async def unload(request: Request, model_name: str) -> dict[str, object]:
        """Wait for running answers, then end the engine; 409 when they take too long."""
        _only_admins(request)
        await served.unload(model_name)
        return {"status": "success", "message": f"模型已卸载：{model_name}", "model_name": model_name}

    @routes.post("/models/switch")
    def switch(request: Request, model_name: str) -> dict[str, object]:
        """Make a loaded model the one asked when a request names none."""
        _only_admins(request)
        chosen = served.switch(model_name)
        return {
            "status": "success",
            "message": f"当前模型：{chosen.name}",
            "current_model": chosen.name,
            "model": shown(chosen),
        }

    @routes.get("/models/{model_name:path}")
    def one_model(model_name: str) -> dict[str, object]:
        """One model, loaded or on disk; names may hold slashes."""
        found = served.get(model_name)
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
    chat = services.chat

    async def model_for(body: wire.Generation) -> Served:
        if body.use_ollama:
            raise _no_ollama()
        return await run_in_threadpool(services.served.resolve, body.model_name)

    def stream(request: Request, events: AsyncGenerator[Event, None], served: Served) -> Response:
        encoder = wire.StreamEncoder(served.name, errors.language_of(request.headers))
        return EventStream(request, events, encoder, wire.error)

    @routes.post("/generate")
    async def generate(request: Request, body: wire.GenerateRequest) -> Response:
        """Answer one prompt."""
        served = await model_for(body)
        events = chat.complete(body.prompt, served.model, body.sampling())
        answers = await unless_left(request, collect(events, rows=1))
        return answers if isinstance(answers, Response) else JSONResponse(wire.generated(answers[0], served.name))

    @routes.post("/generate/stream")
    async def generate_stream(request: Request, body: wire.GenerateRequest) -> Response:
        """Answer one prompt as it is written."""
        served = await model_for(body)
        return stream(request, chat.complete(body.prompt, served.model, body.sampling()), served)

    @routes.post("/chat")
    async def converse(request: Request, body: wire.ChatRequest) -> Response:
        """Answer a conversation; ``stream: true`` as ``/generate/stream`` does."""
        served = await model_for(body)
        events = chat.answer(body.conversation(), served.model, body.sampling())
        if body.stream:
            return stream(request, events, served)
        answers = await unless_left(request, collect(events, rows=1))
        return answers if isinstance(answers, Response) else JSONResponse(wire.chatted(answers[0], served.name))

    @routes.post("/batch")
    async def batch(request: Request, body: wire.BatchRequest) -> Response:
        """Answer many prompts together, in their order."""
        served = await model_for(body)
        events = chat.batch(body.prompts, served.model, body.sampling())
        answers = await unless_left(request, collect(events, rows=len(body.prompts)))
        if isinstance(answers, Response):
            return answers
        pairs = zip(body.prompts, answers, strict=True)
        results = [{"prompt": prompt, **wire.generated(answer, served.name)} for prompt, answer in pairs]
        return JSONResponse({"results": results, "model_name": served.name, "total_count": len(results)})

    return routes


def _ollama() -> APIRouter:
    routes = APIRouter(prefix="/ollama", tags=["ollama"])

    @routes.get("/models")
    async def models() -> None:
        raise _no_ollama()

    @routes.post("/pull")
    async def pull(model_name: str) -> None:
        raise _no_ollama()

    @routes.get("/stats")
    async def stats() -> None:
        raise _no_ollama()

    return routes


def _no_ollama() -> Unavailable:
    return Unavailable(
        "此版本尚未接入 Ollama（接入后由 OLLAMA_HOST 指定地址，例如 http://127.0.0.1:11434）；请去掉 use_ollama，使用内置引擎",
        "this version does not reach Ollama yet (OLLAMA_HOST will name it, e.g. http://127.0.0.1:11434); leave out "
        "use_ollama and the built-in engine answers",
    )
