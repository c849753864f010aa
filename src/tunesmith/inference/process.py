"""One engine process: started, waited for, ended."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog

from tunesmith.inference.engines import openai_wire
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.sockets import socket_folder
from tunesmith.kernel.problems import Problem, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings

log = structlog.get_logger(__name__)
_LARGEST_LOG = 5 << 20
_LOOK_EVERY_S = 0.05
_GRACE_S = 3.0


class Health(msgspec.Struct):
    """What ``GET /health`` says."""

    status: str
    device: str = ""
    dtype: str = ""
    context_length: int = 0
    error: Any = None


class EngineProcess:
    """A worker that is ready, or was.

    Attributes:
        client: speaks to it.
        exited: done when the process has ended; its result is the exit code.
    """

    def __init__(self, base: BaseModel, process: asyncio.subprocess.Process, address: Path) -> None:
        self.base, self.pid = base, process.pid
        self.client = OpenAIEngine.worker(address)
        self.exited = asyncio.create_task(process.wait())
        self.health = Health("starting")
        self._process, self._address = process, address

    @staticmethod
    async def start(base: BaseModel, folder: Path, settings: Settings) -> "EngineProcess":
        """Start a worker for ``base`` and wait until it is ready.

        Args:
            folder: where its log and, path length permitting, its socket go.

        Raises:
            Unavailable: it ended or did not become ready in time.
            Invalid, Unsupported: the worker refuses the model, and says why.
        """
        address = socket_folder(folder) / f"{secrets.token_hex(5)}.sock"
        command = [sys.executable, "-P", "-m", "tunesmith.inference.worker"]
        command += ["--base-name", base.name, "--base-path", str(base.path), "--socket", str(address)]
        command += ["--threads", str(settings.threads), "--max-rows", str(settings.max_rows)]
        command += ["--precision", settings.precision]
        command += ["--parent-watch", str(os.getpid())]
        with _open_log(folder, base.name) as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        engine = EngineProcess(base, process, address)
        try:
            await engine._become_ready(settings.engine_start_s)
        except BaseException:
            await engine.kill()
            raise
        return engine

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    async def end(self) -> None:
        """Ask it to stop, and make it if it does not within seconds."""
        self._signal(signal.SIGTERM)
        await asyncio.wait([self.exited], timeout=_GRACE_S)
        await self.kill()

    async def kill(self) -> None:
        """End it now, with whatever it started, and tidy up."""
        self._signal(signal.SIGKILL)
        await asyncio.wait([self.exited], timeout=_GRACE_S)
        await self.client.close()
        self._address.unlink(missing_ok=True)

    def fate(self) -> Problem:
        """Why callers were cut off, when the process has ended."""
        code = self.exited.result() if self.exited.done() and not self.exited.cancelled() else None
        hint_zh, hint_en = ("，可能是内存不足", ", perhaps for lack of memory") if code == -signal.SIGKILL else ("", "")
        return Unavailable(
            f"模型 {self.base.name} 的引擎意外退出（退出码 {code}{hint_zh}），请重试，引擎会自动重新启动",
            f"the engine of {self.base.name} ended unexpectedly (exit {code}{hint_en}); ask again and it is restarted",
            base=self.base.name,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)  # its own session, so its own group

    async def _become_ready(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._address))) as session:
            while time.monotonic() < deadline:
                if not self.alive:
                    raise self.fate()
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
                    async with session.get("http://engine/health", timeout=aiohttp.ClientTimeout(total=5)) as response:
                        self.health = msgspec.json.decode(await response.read(), type=Health)
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


def _open_log(folder: Path, base: str) -> Any:
    path = folder / f"{base.replace('/', '--')}.log"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST_LOG:
            path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
