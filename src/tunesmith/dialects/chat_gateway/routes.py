"""Paths of the chat-gateway document: ``/api/chat/send``, and what a client of it asks next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated

import msgspec
from fastapi import APIRouter, FastAPI, Query, Request
from starlette._utils import get_route_path
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.accounts.vault import Vault
from tunesmith.dialects.chat_gateway import answers, wire
from tunesmith.http import errors
from tunesmith.http.described import described, streamed
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind
from tunesmith.http.sse import EventStream, frame, unless_left
from tunesmith.inference.conversations import Conversations
from tunesmith.inference.gateway import Gateway
from tunesmith.kernel.problems import Forbidden, Problem
from tunesmith.models.spending import Spending

_SEND = "/send"
_STREAM = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_line = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls.

    Attributes:
        development: show clients what lies behind an error.
    """

    gateway: Gateway
    conversations: Conversations
    spending: Spending
    vault: Vault
    development: bool


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    return "inference" if path == _SEND else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at ``/api/chat``; ``door`` decides who may enter."""
    app = FastAPI(title="Tunesmith: chat gateway", docs_url=None, redoc_url=None)
    sender = _Sender(services.gateway, wire.Painter(details=services.development))
    app.add_middleware(_Shortcut, sender=sender)  # first added, innermost: inside the door and the limit of bodies
    errors.install(app, sender.respond, door=door)
    app.include_router(_answers(services, sender))
    app.include_router(_conversations(services.conversations))
    app.include_router(_keys(services.vault))
    return app


class _Sender:
    """Answers ``/send``, where everything is an event stream of status 200."""

    def __init__(self, gateway: Gateway, painter: wire.Painter) -> None:
        self._gateway, self._painter = gateway, painter
        self._plain = errors.in_json(painter.error)

    async def answer(self, request: Request) -> Response:
        """The stream of an answer.

        Raises:
            Invalid: the body is none of this document's.
        """
        body = wire.SendRequest.read(request.headers.get("content-type", ""), await request.body())
        encoder = wire.SendEncoder(self._painter, errors.language_of(request.headers))
        events = self._gateway.answer(caller_of(request), body.question())
        return EventStream(request, events, encoder, self.respond, headers=encoder.headers)

    def respond(
        self, request: Request, status: int, message: str, problem: Problem | None, headers: Mapping[str, str] | None
    ) -> Response:
        """What says a failure; the other paths answer as paths do."""
        if request.method != "POST" or get_route_path(request.scope) != _SEND:
            return self._plain(request, status, message, problem, headers)
        if problem is not None:
            chunk = self._painter.chunk(problem, errors.language_of(request.headers))
        else:
            chunk = self._painter.error(500 if status >= 500 else 400, message, None)
        # who may not enter is told so in the one way that proxies and browsers know, too
        within = status if status in (401, 403) else 200
        return Response(frame(chunk), within, {**(headers or {}), **_STREAM}, "text/event-stream")


class _Shortcut:
    """Takes ``POST /send`` past the router and the framework's own layers, a tenth of what a short answer costs."""

    def __init__(self, app: ASGIApp, sender: _Sender) -> None:
        self._app, self._sender = app, sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or get_route_path(scope) != _SEND:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._sender.answer(request)
        except Problem as problem:
            response = errors.answer(request, problem, self._sender.respond)
        await response(scope, receive, send)


def _answers(services: Services, sender: _Sender) -> APIRouter:
    routes = APIRouter()

    # what OpenAPI and wrong methods see; requests take the shortcut
    @routes.post(
        _SEND, openapi_extra=wire.SendRequest.described(), **streamed(answers.AnswerChunk | answers.ErrorChunk)
    )
    async def send(request: Request) -> Response:
        """Answer a message as it is written; whatever goes wrong is a chunk too."""
        return await sender.answer(request)

    @routes.get("/models", **described(answers.Offers))
    async def models(request: Request) -> Response:
        """What can be asked of each service now, and why not of the others."""
        found = await unless_left(request, services.gateway.offers())
        if isinstance(found, Response):
            return found
        return JSONResponse(wire.offers(found, errors.language_of(request.headers)))

    @routes.get("/usage", **described(answers.SpendingShown))
    def usage(request: Request, since: date | None = None) -> answers.SpendingShown:
        """Tokens and cost by model; one's own, an admin's are everybody's."""
        return wire.spending(services.spending.by_model(caller_of(request).only, since))

    return routes


def _conversations(kept: Conversations) -> APIRouter:
    routes = APIRouter()

    @routes.get("/conversations", **described(answers.ConversationList))
    def listed(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> answers.ConversationList:
        """One's own, the one asked last first."""
        found = kept.list(caller_of(request).name, limit, offset)
        return {"conversations": [wire.conversation(each) for each in found]}

    @routes.get("/conversations/{conversation_id}", **described(answers.TranscriptShown))
    def one(request: Request, conversation_id: str) -> answers.TranscriptShown:
        """With every turn."""
        return wire.transcript(kept.get(caller_of(request).name, conversation_id))

    @routes.delete("/conversations/{conversation_id}", **described(answers.ConversationDeleted))
    def delete(request: Request, conversation_id: str) -> answers.ConversationDeleted:
        """Forget it, wholly."""
        kept.delete(caller_of(request).name, conversation_id)
        return {"conversation_id": conversation_id, "deleted": True}

    @routes.get("/export", response_class=_Lines)
    def export(request: Request, conversation_id: str | None = None) -> Response:
        """Complete turns as JSON lines of ``messages``, ready to be trained on; of one conversation, or of all."""
        rows = kept.export(caller_of(request).name, conversation_id)
        name = {"Content-Disposition": 'attachment; filename="conversations.jsonl"'}
        return StreamingResponse((_line(row) + b"\n" for row in rows), 200, name, _Lines.media_type)

    return routes


class _Lines(Response):
    media_type = "application/jsonl"


def _keys(vault: Vault) -> APIRouter:
    routes = APIRouter()

    @routes.get("/keys", **described(answers.KeyList))
    def held(request: Request) -> answers.KeyList:
        """Which providers' keys there are; never the keys."""
        _only_admins(request)
        return {"keys": [wire.key(each) for each in vault.held()]}

    @routes.put("/keys/{provider}", **described(answers.KeyList))
    def put(request: Request, provider: str, body: wire.KeyRequest) -> answers.KeyList:
        """Store a key, sealed; the environment's wins over it."""
        _only_admins(request)
        vault.put(provider, body.key, caller_of(request).name)
        return {"keys": [wire.key(each) for each in vault.held()]}

    @routes.delete("/keys/{provider}", **described(answers.KeyForgotten))
    def forget(request: Request, provider: str) -> answers.KeyForgotten:
        """Forget a stored key."""
        _only_admins(request)
        return {"provider": provider, "deleted": vault.forget(provider)}

    return routes


def _only_admins(request: Request) -> None:
    """Whoever sets a key decides who reads what is asked."""
    if not caller_of(request).admin:
        raise Forbidden("只有管理员可以管理服务商密钥", "only admins may manage providers' keys")
