"""One engine process: started, waited for, ended."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec
import psutil

from tunesmith.inference.adapters import AdapterHost
from tunesmith.inference.engine import Engine
from tunesmith.inference.engines import openai_wire
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.sockets import socket_folder
from tunesmith.kernel.problems import Problem, Unavailable
from tunesmith.models.model import Adapter, BaseModel
from tunesmith.settings import Settings

_LARGEST_LOG = 5 << 20
_LOOK_EVERY_S = 0.05
_GRACE_S = 3.0


class Health(msgspec.Struct):
    """What an engine says of itself: ``status`` is "starting", "loading", "ready" or "failed"."""

    status: str
    device: str = ""
    dtype: str = ""
    context_length: int = 0
    error: Any = None


Look = Callable[[], Awaitable[Health]]


class EngineClient(Engine, Protocol):
    """An engine process as its clients reach it."""

    async def page(self, path: str, *, within_s: float, most: int) -> bytes:
        """What a GET of ``path`` gives, at most ``most`` bytes.

        Raises:
            Problem: it does not answer in time, or refuses.
        """
        ...

    async def close(self) -> None: ...


class RunningEngine(Protocol):
    """An engine that is ready, or was; started by us or only joined.

    Attributes:
        pid: of its process, where it is ours.
        client: speaks to it.
        adapters: takes adapters in.
        exited: done when it is gone; its result is the exit code.
    """

    base: BaseModel
    pid: int | None
    health: Health
    exited: "asyncio.Task[int]"

    @property
    def client(self) -> EngineClient: ...
    @property
    def adapters(self) -> AdapterHost: ...
    @property
    def alive(self) -> bool: ...

    def rss(self) -> int:
        """Resident bytes of all its processes; 0 where that is not known."""
        ...

    def fate(self) -> Problem:
        """Why callers were cut off, when it is gone."""
        ...

    async def end(self) -> None:
        """Ask it to stop, and make it if it does not within seconds."""
        ...

    async def kill(self) -> None:
        """End it now, with whatever it started, and tidy up."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """How an engine's process is started and spoken to.

    Attributes:
        address: its unix socket.
        look: opens what asks for its health; what it gives may raise anything of HTTP while nobody listens.
        several: it starts processes of its own, which count as its memory.
    """

    command: Sequence[str]
    environment: Mapping[str, str] | None
    address: Path
    client: EngineClient
    adapters: AdapterHost
    look: Callable[[], AbstractAsyncContextManager[Look]]
    several: bool = False


class EngineProcess:
    """A process of ours that is ready, or was; see ``RunningEngine``."""

    def __init__(self, base: BaseModel, process: asyncio.subprocess.Process, program: Program) -> None:
        self.base = base
        self.pid: int | None = process.pid
        self.client, self.adapters = program.client, program.adapters
        self.exited = asyncio.create_task(process.wait())
        self.health = Health("starting")
        self._group, self._address, self._several = process.pid, program.address, program.several

    @staticmethod
    async def start(base: BaseModel, folder: Path, settings: Settings) -> "EngineProcess":
        """Start a worker for ``base`` and wait until it is ready.

        Args:
            folder: where its log and, path length permitting, its socket go.

        Raises:
            Unavailable: it ended or did not become ready in time.
            Invalid, Unsupported: the worker refuses the model, and says why.
        """
        address = new_address(folder)
        command = [sys.executable, "-P", "-m", "tunesmith.inference.worker"]
        command += ["--base-name", base.name, "--base-path", str(base.path), "--socket", str(address)]
        command += ["--threads", str(settings.threads), "--max-rows", str(settings.max_rows)]
        command += ["--precision", settings.precision, "--records", str(folder / "records")]
        command += ["--parent-watch", str(os.getpid()), *(["--eager"] if settings.eager else [])]
        client = OpenAIEngine.worker(address)
        environment = os.environ | {"GLIBC_TUNABLES": _huge_pages(os.environ), "THP_MEM_ALLOC_ENABLE": "1"}
        program = Program(
            command, environment, address, client, _WorkerAdapters(client), lambda: _worker_health(address)
        )
        return await EngineProcess.launch(base, folder, program, settings.engine_start_s)

    @staticmethod
    async def launch(base: BaseModel, folder: Path, program: Program, limit_s: float) -> "EngineProcess":
        """Start ``program`` and wait until it is ready; raises as ``start``."""
        with log_path(folder, base.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                env=program.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        engine = EngineProcess(base, process, program)
        try:
            async with program.look() as look:
                await engine._become_ready(look, limit_s)
        except BaseException:
            await engine.kill()
            raise
        return engine

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    def rss(self) -> int:
        """See ``RunningEngine``."""
        try:
            first = psutil.Process(self._group)
            return sum(_rss(each) for each in (first, *(first.children(recursive=True) if self._several else ())))
        except psutil.Error:
            return 0

    async def end(self) -> None:
        """See ``RunningEngine``."""
        self._signal(signal.SIGTERM)
        await asyncio.wait([self.exited], timeout=_GRACE_S)
        await self.kill()

    async def kill(self) -> None:
        """See ``RunningEngine``."""
        self._signal(signal.SIGKILL)
        await asyncio.wait([self.exited], timeout=_GRACE_S)
        await self.client.close()
        self._address.unlink(missing_ok=True)

    def fate(self) -> Problem:
        """See ``RunningEngine``."""
        code = self.exited.result() if self.exited.done() and not self.exited.cancelled() else None
        hint_zh, hint_en = ("，可能是内存不足", ", perhaps for lack of memory") if code == -signal.SIGKILL else ("", "")
        return Unavailable(
            f"模型 {self.base.name} 的引擎意外退出（退出码 {code}{hint_zh}），请重试，引擎会自动重新启动",
            f"the engine of {self.base.name} ended unexpectedly (exit {code}{hint_en}); ask again and it is restarted",
            base=self.base.name,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self.alive or self._several:  # the group lives on where its leader was killed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)  # its own session, so its own group

    async def _become_ready(self, look: Look, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not self.alive:
                raise self.fate()
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
                self.health = await look()
            if self.health.status == "ready":
                return
            if self.health.status == "failed":
                raise openai_wire.stated(self.health.error)
            await asyncio.wait([self.exited], timeout=_LOOK_EVERY_S)
        raise Unavailable(
            f"模型 {self.base.name} 的引擎在 {limit_s:.0f} 秒内没有就绪",
            f"the engine of {self.base.name} was not ready within {limit_s:.0f} seconds",
            base=self.base.name,
        )


@dataclass(frozen=True, slots=True)
class _WorkerAdapters:
    """Our worker's table of adapters."""

    client: OpenAIEngine

    async def load_adapter(self, wire: str, adapter: Adapter) -> None:
        body = {"lora_name": wire, "lora_path": str(adapter.path)}
        await self.client.ask("POST", "/v1/load_lora_adapter", body, dict[str, Any])

    async def unload_adapter(self, wire: str) -> None:
        await self.client.ask("POST", "/v1/unload_lora_adapter", {"lora_name": wire}, dict[str, Any])


def new_address(folder: Path) -> Path:
    """Where a new engine's unix socket goes."""
    return socket_folder(folder) / f"{secrets.token_hex(5)}.sock"


def log_path(folder: Path, base: str) -> Path:
    """The log of a base model's engine; a long one is put aside first."""
    path = folder / f"{base.replace('/', '--')}.log"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST_LOG:
            path.replace(path.with_suffix(".log.1"))
    return path


@asynccontextmanager
async def _worker_health(address: Path) -> AsyncIterator[Look]:
    """Our worker tells its health while it loads, and with a status that is no success."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(address))) as session:

        async def look() -> Health:
            async with session.get("http://engine/health", timeout=aiohttp.ClientTimeout(total=5)) as response:
                return msgspec.json.decode(await response.read(), type=Health)

        yield look


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _huge_pages(environ: Mapping[str, str]) -> str:
    """Tunables that have the C library ask for huge pages: a step reads all weights, a fifth faster so."""
    return ":".join(filter(None, (environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1")))
