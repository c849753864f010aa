"""Paths of the compare-chat document: ``/ai/finetuning/chat`` and its sibling ``/ai/chat``."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunesmith.dialects.compare_chat import wire
from tunesmith.http import errors
from tunesmith.http.described import described
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind
from tunesmith.http.sse import EventStream, unless_left
from tunesmith.inference.chat import BASE, TUNED, Chat
from tunesmith.inference.collect import collect
from tunesmith.models.model import Model

ModelOf = Callable[[], Model]


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    return "inference" if path in ("/finetuning/chat", "/chat") else "other"


def build(chat: Chat, tuned: ModelOf, current: ModelOf, door: Door) -> FastAPI:
    """The dialect as an application to mount at ``/ai``.

    Args:
        tuned: the model ``/finetuning/chat`` asks; reads the registry, so it is called in a thread.
        current: the model ``/chat`` asks.
        door: decides who may enter.
    """
    app = FastAPI(title="Tunesmith: compare chat", docs_url=None, redoc_url=None)
    errors.install(app, errors.in_json(wire.error), door=door)
    app.include_router(_routes(chat, tuned, current))
    return app


def _routes(chat: Chat, tuned: ModelOf, current: ModelOf) -> APIRouter:
    routes = APIRouter()

    @routes.post("/finetuning/chat", **described(wire.Compared, events=wire.AnswerEvent))
    async def finetuned(request: Request, body: wire.ChatRequest) -> Response:
        """Ask the tuned model; with ``compare`` the bare base too."""
        return await _talk(chat, await run_in_threadpool(tuned), request, body)

    @routes.post("/chat", **described(wire.Compared, events=wire.AnswerEvent))
    async def plain(request: Request, body: wire.ChatRequest) -> Response:
        """Ask the current model, in the same shapes."""
        return await _talk(chat, await run_in_threadpool(current), request, body)

    return routes


async def _talk(chat: Chat, model: Model, request: Request, body: wire.ChatRequest) -> Response:
    asked, sampling, owner = body.conversation(), body.sampling(), caller_of(request).name
    if body.stream:
        language = errors.language_of(request.headers)
        if body.compare:
            events = chat.compare(asked, model, sampling, owner)
            return EventStream(request, events, wire.CompareEncoder(language), errors.in_json(wire.error))
        return EventStream(
            request,
            chat.answer(asked, model, sampling, owner),
            wire.AnswerEncoder(language),
            errors.in_json(wire.error),
        )
    # a non-streaming answer always carries both sides; a model without an adapter has only one
    both = model.adapter is not None
    events = chat.compare(asked, model, sampling, owner) if both else chat.answer(asked, model, sampling, owner)
    answers = await unless_left(request, collect(events, rows=2 if both else 1))
    if isinstance(answers, Response):
        return answers
    return JSONResponse(wire.answer(answers[BASE].text, answers[TUNED if both else BASE].text))
