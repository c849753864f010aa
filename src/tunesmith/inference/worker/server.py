"""The worker's HTTP side, on a private socket.

It answers from the first moment, ``/health`` above all: importing torch and loading the model happen on another thread,
and so do the steps.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import psutil
import structlog
from aiohttp import web

from tunesmith.inference.worker import wire
from tunesmith.inference.worker.exposition import page
from tunesmith.inference.worker.generation import Generation
from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable

if TYPE_CHECKING:  # importing the core imports torch
    from tunesmith.inference.worker.core import Core

log = structlog.get_logger(__name__)
_MAX_BODY = 64 << 20


class Worker:
    """One base model behind HTTP.

    Args:
        name: what callers call the base model.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        threads: int,
        max_rows: int,
        precision: str = "auto",
        records: Path | None = None,
        eager: bool = False,
    ) -> None:
        self._name, self._folder, self._records, self._eager = name, folder, records, eager
        self._threads, self._max_rows, self._precision = threads, max_rows, precision
        self._core: Core | None = None
        self._problem: Problem | None = None
        self._process = psutil.Process()

    def app(self) -> web.Application:
        """The routes. Serve it with ``handler_cancellation``, so that a client that leaves frees its rows."""
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.complete),
                web.post("/tokenize", self.tokenize),
                web.post("/v1/load_lora_adapter", self.load_adapter),
                web.post("/v1/unload_lora_adapter", self.unload_adapter),
            ]
        )
        return app

    async def load(self) -> None:
        """Load the model; until then, and if it fails, every other call answers 503."""
        loop = asyncio.get_running_loop()

        def build() -> "Core":
            with importing():
                from tunesmith.inference.worker.core import Core

            return Core(
                self._name,
                self._folder,
                threads=self._threads,
                max_rows=self._max_rows,
                precision=self._precision,
                records=self._records,
                eager=self._eager,
                loop=loop,
            )

        try:
            self._core = await asyncio.to_thread(build)
        except Problem as problem:
            self._problem = problem
        except Exception as error:  # the edge of the process: whatever it is, /health must tell
            log.error("the model could not be loaded", exc_info=error)
            said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._problem = Unavailable(f"模型加载失败：{said}", f"loading failed: {said}")

    @property
    def failed(self) -> bool:
        """Loading has failed; ``/health`` says why."""
        return self._problem is not None

    def close(self) -> None:
        """End the stepping thread."""
        if self._core is not None:
            self._core.close()

    async def health(self, request: web.Request) -> web.Response:
        """200 when ready; 503 while loading or after loading failed, and why."""
        status: Literal["loading", "ready", "failed"] = "loading"
        body: dict[str, Any] = {"base": self._name, "pid": self._process.pid}
        if self._core is not None:
            status = "ready"
            core = self._core
            body |= {
                "device": str(core.model.device),
                "dtype": str(core.model.dtype).removeprefix("torch."),
                "precision": core.model.precision.name,
                "context_length": core.model.context,
                "max_rows": core.max_rows,
                "rows": dict(zip(("running", "waiting"), core.rows, strict=True)),
                "adapters": sorted(core.adapters),
                "memory": {
                    "rss": self._process.memory_info().rss,
                    "cache": core.model.cache.allocated,
                    "kept": core.scheduler.retained,
                },
            }
        elif self._problem is not None:
            status = "failed"
            body |= msgspec.json.decode(wire.error(self._problem)[1])
        return _json(body | {"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """What Prometheus reads; see ``exposition``."""
        core = self._ready()
        limit = core.model.cache.limit
        body = page(core.scheduler.measures, self._name, min(1.0, core.cache_bytes / limit) if limit else 0.0)
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async def models(self, request: web.Request) -> web.Response:
        names = [self._name, *sorted(self._ready().adapters)]
        card = {"object": "model", "created": 0, "owned_by": "tunesmith"}
        return _json({"object": "list", "data": [{"id": name, **card} for name in names]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = wire.parse(await request.read(), wire.ChatBody)
        return await Generation(self._ready()).chat(request, body)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = wire.parse(await request.read(), wire.CompletionBody)
        return await Generation(self._ready()).complete(request, body)

    async def tokenize(self, request: web.Request) -> web.Response:
        body = wire.parse(await request.read(), wire.TokenizeBody)
        core = self._ready()
        if (body.messages is None) == (body.prompt is None):
            raise Invalid("messages 与 prompt 应二选一", "either messages or prompt is expected", field="messages")
        if body.messages is not None:
            messages = [msgspec.to_builtins(message) for message in body.messages]
            tokens = await Generation(core).render(messages, add_generation_prompt=body.add_generation_prompt)
        else:
            tokens = await Generation(core).encode(body.prompt or "", special=body.add_special_tokens)
        facts = {"count": len(tokens), "max_model_len": core.model.context, "end_tokens": sorted(core.tokens.ends)}
        return _json({"tokens": tokens, **facts})

    async def load_adapter(self, request: web.Request) -> web.Response:
        body = wire.parse(await request.read(), wire.LoadBody)
        await self._ready().load_adapter(body.lora_name, Path(body.lora_path), replace=body.load_inplace)
        return _json({"loaded": body.lora_name})

    async def unload_adapter(self, request: web.Request) -> web.Response:
        body = wire.parse(await request.read(), wire.UnloadBody)
        self._ready().unload_adapter(body.lora_name)
        return _json({"unloaded": body.lora_name})

    def _ready(self) -> "Core":
        if self._problem is not None:
            raise self._problem
        if self._core is None:
            raise Unavailable(f"模型 {self._name} 正在加载", f"model {self._name} is still loading")
        return self._core


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every failure in one shape."""
    try:
        return await handler(request)
    except Problem as raised:
        problem, status = raised, 0
    except web.HTTPException as error:
        kind = NotFound if error.status == 404 else Invalid if error.status < 500 else Unavailable
        problem, status = (
            kind(f"HTTP {error.status}：{error.reason}", f"HTTP {error.status}: {error.reason}"),
            error.status,
        )
    except (OSError, asyncio.CancelledError):
        raise  # the client has left
    except Exception as error:  # the edge of the process
        log.error("request failed", path=request.path, exc_info=error)
        problem, status = Unavailable("引擎内部错误", "the engine failed inside"), 500
    code, body = wire.error(problem)
    return web.Response(body=body, status=status or code, content_type="application/json")


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
