"""A stand-in of vLLM's server (not vLLM): its command line, its routes, its bodies, its refusals.

Behind it is our own worker on a real model, or with ``--words`` (its own, not vLLM's) nothing but ``vllm_words``.

``serve MODEL --served-model-name NAME (--uds PATH | --port N)``, as ``vllm serve`` is started. It listens only once the
model is loaded, takes adapters only with ``--enable-lora`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING, and refuses what could
be longer than the context, as vLLM does. ``GET /report`` is its own: arguments, environment, bodies it was sent.
Source: vllm/entrypoints (cli_args, openai/models/serving, serve/lora/api_router, serve/tokenize).
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.upstreams.lifetime import announce, end_with_parent
from tests.upstreams.vllm_words import CONTEXT, words

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
START_S = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """An error of vLLM's: ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(self, code: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.code = code


class VllmSkin:
    """The routes, over a worker behind ``session``."""

    def __init__(self, given: argparse.Namespace, session: aiohttp.ClientSession, context: int) -> None:
        self._name = given.served_model_name or given.model
        self._model, self._max_rank = given.model, given.max_lora_rank
        self._takes_adapters = given.enable_lora and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True"
        self._session, self._context = session, context
        self._adapters: dict[str, str] = {}
        self._asked: list[dict[str, Any]] = []
        self._running = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20, middlewares=[_errors])
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/report", self._report)
        if self._takes_adapters:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _report(self, request: web.Request) -> web.Response:
        ours = {name: value for name, value in os.environ.items() if name.startswith(("VLLM", "TUNESMITH", "OPENR"))}
        return web.json_response({"argv": sys.argv[1:], "environ": ours, "asked": self._asked, "pid": os.getpid()})

    async def _metrics(self, request: web.Request) -> web.Response:
        labels = f'{{engine="0",model_name="{self._name}"}}'
        page = (
            "# HELP python_info Python platform information\n# TYPE python_info gauge\n"
            'python_info{implementation="CPython"} 1.0\n'
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{labels} {float(self._running)}\n"
            "# HELP vllm:generation_tokens_total Number of generation tokens processed.\n"
            f"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{labels} 7.0\n"
        )
        return web.Response(text=page)

    async def _models(self, request: web.Request) -> web.Response:
        card = {"object": "model", "created": 1, "owned_by": "vllm"}
        base = {"id": self._name, "root": self._model, "parent": None, "max_model_len": self._context}
        adapters = [
            {"id": name, "root": path, "parent": self._name, "max_model_len": None}
            for name, path in self._adapters.items()
        ]
        return web.json_response({"object": "list", "data": [each | card for each in (base, *adapters)]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            raise Refused(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self._adapters:
            raise Refused(
                400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded. If you want ..."
            )
        if not (Path(path) / "adapter_config.json").exists():
            raise Refused(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((Path(path) / "adapter_config.json").read_text())["r"]
        if rank > self._max_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self._max_rank}."
            raise Refused(500, "InternalServerError", said)
        status, answer = await self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status != 200:
            raise Refused(500, "InternalServerError", str(answer["error"]["message"]))
        self._adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json()).get("lora_name")
        if name not in self._adapters:
            raise Refused(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        await self._ask("/v1/unload_lora_adapter", {"lora_name": name})
        del self._adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._require_model(body)
        _, answer = await self._ask("/tokenize", body)
        del answer["end_tokens"]  # vLLM does not tell
        return web.json_response(answer | {"token_strs": None})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._asked.append(body)
        self._require_model(body)
        await self._require_room(body)
        self._running += 1
        try:
            async with self._session.post("http://engine" + request.path, json=body) as answer:
                if answer.status != 200:
                    error = (await answer.json())["error"]
                    raise Refused(answer.status, "BadRequestError", str(error["message"]))
                if answer.content_type != "text/event-stream":
                    return web.json_response(await answer.json())
                return await self._stream(request, answer)
        finally:
            self._running -= 1

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        async for line in answer.content:
            if line.startswith(b"data: {"):
                frame = json.loads(line[6:])
                frame.pop("timings", None)  # our worker's own
                line = b"data: " + json.dumps(frame).encode() + b"\n"
            await response.write(line)
        return response

    def _require_model(self, body: dict[str, Any]) -> None:
        if body.get("model") not in (self._name, *self._adapters):
            raise Refused(404, "NotFoundError", f"The model `{body.get('model')}` does not exist.", "model")

    async def _require_room(self, body: dict[str, Any]) -> None:
        wanted = body.get("max_tokens", 16)
        if wanted < 1:
            raise Refused(400, "BadRequestError", f"max_tokens must be at least 1, got {wanted}.", "max_tokens")
        if body.get("cache_salt") == "":
            raise Refused(400, "BadRequestError", "Parameter 'cache_salt' must be a non-empty string if provided.")
        if isinstance(body.get("prompt"), list):
            longest = max(len(prompt) for prompt in body["prompt"])
        else:
            asked = {name: body[name] for name in ("model", "messages", "prompt") if name in body}
            status, answer = await self._ask("/tokenize", asked)
            if status != 200:
                raise Refused(400, "BadRequestError", str(answer["error"]["message"]))
            longest = len(answer["tokens"])
        if longest + wanted > self._context:
            raise Refused(
                400,
                "BadRequestError",
                f"This model's maximum context length is {self._context} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains at least {longest} input tokens, for a total of at least "
                f"{longest + wanted} tokens. Please reduce the length of the input prompt or the number of requested "
                "output tokens.",
            )

    async def _ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with self._session.post("http://engine" + path, json=body) as answer:
            return answer.status, await answer.json()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response(refused.body, status=refused.code)
    except web.HTTPException as error:
        return web.json_response({"detail": error.reason}, status=error.status)


@asynccontextmanager
async def _behind(
    given: argparse.Namespace, name: str, socket: Path
) -> AsyncIterator[tuple[aiohttp.ClientSession, int]]:
    if given.words:
        async with words(socket) as session:
            yield session, CONTEXT
    else:
        async with _worker(given.model, name, socket) as found:
            yield found


@asynccontextmanager
async def _worker(model: str, name: str, socket: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, int]]:
    """Our worker on ``model``, ready, and its context."""
    command = [sys.executable, "-m", "tunesmith.inference.worker", "--base-name", name, "--base-path", model]
    command += ["--socket", str(socket), "--threads", "1", "--parent-watch", str(os.getpid())]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        health: dict[str, Any] = {}
        async with asyncio.timeout(START_S):
            while health.get("status") != "ready":
                if process.returncode is not None or health.get("status") == "failed":
                    sys.stderr.write(f"RuntimeError: Engine core initialization failed. {health}\n")
                    sys.exit(1)
                await asyncio.sleep(0.02)
                try:
                    async with session.get("http://engine/health") as answer:
                        health = await answer.json()
                except aiohttp.ClientError:
                    continue
        yield session, int(health["context_length"])
    process.terminate()
    await process.wait()


async def _serve(given: argparse.Namespace) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    name = given.served_model_name or given.model
    with tempfile.TemporaryDirectory() as folder:
        async with _behind(given, name, Path(folder) / "worker.sock") as (session, context):
            app = VllmSkin(given, session, context).application()
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            if given.uds:
                await web.UnixSite(runner, given.uds).start()
            else:
                await web.TCPSite(runner, "127.0.0.1", given.port).start()
                announce({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"})
            await ended.wait()
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm", description=__doc__)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--max-cpu-loras", type=int)
    parser.add_argument("--max-lora-rank", type=int, choices=RANKS, default=16)
    parser.add_argument("--generation-config", default="auto")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    if not given.uds:
        end_with_parent()
    asyncio.run(_serve(given))


if __name__ == "__main__":
    main()
