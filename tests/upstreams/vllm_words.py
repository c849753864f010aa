"""What the stand-in of vLLM says where no model is wanted: as many words as were asked for, by name of the model.

It listens where our worker would and answers as that does, as far as the stand-in asks.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

CONTEXT = 512


@asynccontextmanager
async def words(socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session on the socket."""
    app = web.Application()
    app.router.add_post("/tokenize", _tokenize)
    app.router.add_post("/v1/load_lora_adapter", _load)
    app.router.add_post("/v1/unload_lora_adapter", _unload)
    app.router.add_post("/v1/chat/completions", _say)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), limit=0)) as session:
        yield session
    await runner.cleanup()


def _tokens(body: dict[str, Any]) -> list[int]:
    text = body.get("prompt") or " ".join(message["content"] for message in body["messages"])
    return list(range(len(text.split())))


async def _tokenize(request: web.Request) -> web.Response:
    tokens = _tokens(await request.json())
    return web.json_response({"tokens": tokens, "count": len(tokens), "max_model_len": CONTEXT, "end_tokens": [0]})


async def _load(request: web.Request) -> web.Response:
    folder = Path((await request.json())["lora_path"])
    if json.loads((folder / "adapter_config.json").read_text())["bias"] != "none":
        return web.json_response({"error": {"message": "Adapter bias is not supported."}}, status=400)
    return web.json_response({})


async def _unload(request: web.Request) -> web.Response:
    return web.json_response({})


async def _say(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    count, word = body["max_tokens"], body["model"].partition("@")[0]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(count):
        await _send(response, {"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        if number == count - 1:
            await _send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens": len(_tokens(body)), "completion_tokens": count}
    await _send(response, {"choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, frame: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
