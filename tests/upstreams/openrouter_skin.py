"""An OpenRouter-compatible fake (not OpenRouter), in front of a real llama.cpp server or of canned text.

Model ids that do something: ``err/429`` is refused with 429 before the first token, ``err/429-new`` in the newer shape,
``err/200`` with status 200; ``mid/502`` breaks in the middle with code 502, ``mid/502-empty`` without a choice,
``mid/502-done`` and then says ``[DONE]``, ``mid/server_error`` with a code that is no number; an id with ``think``
reasons first. Any other id must be listed. ``POST /models`` ``{"models": [ids]}`` changes the list; ``recording`` says
what else it can be told and asked.
"""

import argparse
import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tests.upstreams.openrouter_errors import interruption, refusal
from tests.upstreams.openrouter_models import AWKWARD, COMPLETION_PRICE, DOCUMENTED, PROMPT_PRICE, described
from tests.upstreams.recording import Recorder, serve
from tests.upstreams.sources import End, Refused, Source, add_arguments, source

KEY = "sk-or-test"
COMMENT = b": OPENROUTER PROCESSING\n\n"
PASSED_ON = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty")
REASONING = ("Let me ", "想一想", " ...")
TOKENS_BEFORE_THE_BREAK = 3


class OpenRouterSkin:
    """Handlers of the paths a client of OpenRouter uses."""

    def __init__(self, text: Source, key: str, models: list[str]) -> None:
        self._text = text
        self._key = key
        self._first_models = models
        self._models = models
        self._ids = itertools.count(1)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        Recorder().attach(app)
        app.router.add_get("/api/v1/models", self._list)
        app.router.add_get("/api/v1/key", self._balance)
        app.router.add_post("/api/v1/chat/completions", self._chat)
        app.router.add_post("/models", self._relist)
        return app

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(described(self._models))

    async def _relist(self, request: web.Request) -> web.Response:
        self._models = (await request.json()).get("models", self._first_models)
        return web.json_response({"models": self._models})

    async def _balance(self, request: web.Request) -> web.Response:
        if (refused := self._unknown_caller(request)) is not None:
            return refused
        data = {"label": "sk-or-...est", "usage": 0.5, "limit": 10, "limit_remaining": 9.5, "is_free_tier": False}
        return web.json_response({"data": data})

    def _unknown_caller(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if not given.startswith("Bearer "):
            return refusal(401, "No auth credentials found")
        return None if given == f"Bearer {self._key}" else refusal(401)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._unknown_caller(request)) is not None:
            return refused
        try:
            body = json.loads(await request.read())
        except ValueError:
            return refusal(400, "Invalid JSON")
        model, messages = str(body.get("model", "")), body.get("messages")
        if not messages:
            return refusal(400, 'Input required: specify "prompt" or "messages"')
        family, _, detail = model.partition("/")
        if family == "err":
            status, _, shape = detail.partition("-")
            return refusal(int(status), new=shape == "new")
        if family != "mid" and model not in self._models:
            return refusal(400, f"{model} is not a valid model ID")
        options = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
        generation = f"gen-{next(self._ids)}"
        stream = self._chunks(model, generation, messages, options)
        async with aclosing(stream):
            if body.get("stream"):
                return await _streamed(request, generation, stream, done=family != "mid" or detail.endswith("-done"))
            return await _whole(generation, stream)

    async def _chunks(
        self, model: str, generation: str, messages: list[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        family, _, detail = model.partition("/")
        shell = {"id": generation, "provider": "Llama", "model": model, "object": "chat.completion.chunk", "created": 1}
        if "think" in model:
            for thought in REASONING:
                yield _delta(shell, {"role": "assistant", "content": "", "reasoning": thought})
        said = 0
        async with aclosing(self._text.answer(messages, options)) as answer:
            async for piece in answer:
                if isinstance(piece, End):
                    yield _delta(shell, {"role": "assistant", "content": ""}, piece.finish)
                    yield {**shell, "choices": [], "usage": _usage(piece, free=model.endswith(":free"))}
                    return
                yield _delta(shell, {"role": "assistant", "content": piece})
                said += 1
                if family == "mid" and said == TOKENS_BEFORE_THE_BREAK:
                    code, _, shape = detail.partition("-")
                    yield interruption(int(code) if code.isdigit() else code, shell, empty=shape == "empty")
                    return


async def _streamed(
    request: web.Request, generation: str, chunks: AsyncIterator[dict[str, Any]], *, done: bool
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Generation-Id": generation}
    answer = web.StreamResponse(headers=headers)
    try:
        first = await anext(chunks)
    except Refused as refused:
        return refusal(refused.status, refused.message)
    await answer.prepare(request)
    for _ in range(2):
        await answer.write(COMMENT)
    await answer.write(_event(first))
    async for chunk in chunks:
        if "usage" in chunk:
            await answer.write(COMMENT)
        await answer.write(_event(chunk))
    if done:
        await answer.write(b"data: [DONE]\n\n")
    await answer.write_eof()
    return answer


async def _whole(generation: str, chunks: AsyncIterator[dict[str, Any]]) -> web.Response:
    text, thoughts, finish, last = "", "", None, dict[str, Any]()
    try:
        async for last in chunks:
            for choice in last["choices"]:
                text += choice["delta"]["content"]
                thoughts += choice["delta"].get("reasoning") or ""
                finish = choice["finish_reason"] or finish
    except Refused as refused:
        return refusal(refused.status, refused.message)
    message = {"role": "assistant", "content": "" if "error" in last else text, "reasoning": thoughts or None}
    choice = {"index": 0, "message": message, "finish_reason": finish, "native_finish_reason": finish}
    body = {**last, "object": "chat.completion", "choices": [choice]}
    return web.json_response(body, headers={"X-Generation-Id": generation})


def _delta(shell: Mapping[str, Any], delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": finish, "logprobs": None}
    return {**shell, "choices": [choice]}


def _usage(end: End, *, free: bool) -> dict[str, Any]:
    price = end.prompt_tokens * float(PROMPT_PRICE) + end.completion_tokens * float(COMPLETION_PRICE)
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
        "cost": 0 if free else price,
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": 0},
        "cost_details": {"upstream_inference_cost": None},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    add_arguments(parser)
    parser.add_argument("--key", default=KEY, help="the only bearer key that is known")
    parser.add_argument("--model", action="append", default=[], help="one more id to list")
    given = parser.parse_args()
    async with source(given) as text:
        skin = OpenRouterSkin(text, given.key, [*DOCUMENTED, *AWKWARD, *given.model])
        await serve(skin.application(), given.port)


if __name__ == "__main__":
    asyncio.run(main())
