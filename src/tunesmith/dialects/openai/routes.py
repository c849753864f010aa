"""The OpenAI wire as an application: ``/v1``."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tunesmith.datasets.example import Message
from tunesmith.dialects.openai import answers, models, shapes, wire
from tunesmith.http import errors
from tunesmith.http.described import described
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind
from tunesmith.http.sse import EventStream, unless_left
from tunesmith.inference.chat import Chat
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.problems import NotFound

_CHAT, _TEXT = "/chat/completions", "/completions"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# what the SDK can ask and is not here: told by name, since the caller need not look for a mistake in the address
_UNSERVED = (
    "fine_tuning",
    "files",
    "uploads",
    "batches",
    "embeddings",
    "responses",
    "images",
    "audio",
    "moderations",
    "assistants",
    "threads",
    "vector_stores",
)
_respond = errors.in_json(wire.error)


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls."""

    chat: Chat
    shelf: models.Shelf


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    return "inference" if path in (_CHAT, _TEXT) else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at ``/v1``; ``door`` decides who may enter."""
    app = FastAPI(title="Tunesmith: OpenAI wire", docs_url=None, redoc_url=None, openapi_url=None)
    errors.install(app, _respond, door=door)
    app.include_router(models.routes(services.shelf))
    app.include_router(_generation(services))
    app.include_router(_unserved())
    return app


def _generation(services: Services) -> APIRouter:
    routes = APIRouter()

    async def answer(
        request: Request,
        body: wire.Generation,
        call: answers.Call,
        prompts: Sequence[Sequence[Message] | str],
        sampling: Sampling,
    ) -> Response:
        served = await run_in_threadpool(services.shelf.served.resolve, body.model)
        owner = caller_of(request).name
        events = services.chat.ask(prompts, served.model, sampling, n=body.choices, owner=owner)
        heading = answers.Heading.of(call, served.answers, body.choices)
        if body.stream:
            language = errors.language_of(request.headers)
            encoder = answers.StreamEncoder(heading, usage=body.wants_usage, language=language)
            return EventStream(request, events, encoder, _respond)
        rows = len(prompts) * body.choices
        found = await unless_left(request, answers.whole(events, heading, rows))
        return found if isinstance(found, Response) else Response(found, media_type="application/json")

    @routes.post(_CHAT, **described(shapes.ChatCompletion, events=shapes.ChatCompletionChunk | shapes.StreamFailed))
    async def chat(request: Request, body: wire.ChatBody) -> Response:
        """Answer a conversation, ``n`` times."""
        return await answer(request, body, answers.CHAT, body.prompts(), body.sampling())

    @routes.post(_TEXT, **described(shapes.TextCompletion, events=shapes.TextCompletionChunk | shapes.StreamFailed))
    async def complete(request: Request, body: wire.TextBody) -> Response:
        """Continue one text or several as they stand, each ``n`` times."""
        return await answer(request, body, answers.TEXT, body.prompts(), body.sampling())

    return routes


def _unserved() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    async def refuse(request: Request) -> Response:
        """Nothing is looked at."""
        raise NotFound(
            "这里不提供该接口：可用的有 /v1/models、/v1/chat/completions 与 /v1/completions",
            "this is not served here: there are /v1/models, /v1/chat/completions and /v1/completions",
            code="unknown_url",
        )

    for name in _UNSERVED:
        routes.add_api_route(f"/{name}", refuse, methods=list(_METHODS))
        routes.add_api_route(f"/{name}/{{rest:path}}", refuse, methods=list(_METHODS))
    # only stored completions have these, and none is stored
    routes.add_api_route(f"{_CHAT}/{{rest:path}}", refuse, methods=list(_METHODS))
    routes.add_api_route(_CHAT, refuse, methods=["GET"])
    return routes
