"""vLLM as the engine: one ``vllm serve`` for every base model, or a server that runs already."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tunesmith.inference.engines.vllm import VllmEngine
from tunesmith.inference.process import EngineProcess, Health, Look, Program, RunningEngine, log_path, new_address
from tunesmith.kernel.problems import NotFound, Problem, Unavailable
from tunesmith.models.model import Adapter, BaseModel
from tunesmith.settings import Settings

log = structlog.get_logger(__name__)
_LOOK_S = 5.0  # one look at a server
_WATCH_EVERY_S = 5.0
_MISSES = 2  # looks in a row without an answer: it is gone
_JOIN_S = 10.0
_GOODBYE_S = 2.0
_TAIL = 16 << 10  # bytes of a log that are looked at
# Room for adapters is taken from the graphics card at the start, whether they come or not, and grows with each number.
_ADAPTERS = ("--enable-lora", "--max-loras", "8", "--max-cpu-loras", "32", "--max-lora-rank", "64")
# every sampling value is the caller's: none of the model's own defaults
_OURS = ("--generation-config", "vllm", "--disable-uvicorn-access-log")
_SECRETS = ("TUNESMITH_", "OPENROUTER_", "TOGETHER_", "FIREWORKS_", "HF_TOKEN", "VLLM_API_KEY")


async def start(base: BaseModel, folder: Path, settings: Settings) -> RunningEngine:
    """vLLM ready to answer for ``base``: joined where the settings name one that runs, else started.

    Args:
        folder: where the log and the socket of one that is started go.

    Raises:
        NotFound: the one that runs answers for other models.
        Unavailable: it cannot be started, did not become ready in time, or does not answer.
    """
    if settings.vllm.url is not None:
        return await JoinedVllm.join(base, settings)
    if shutil.which(settings.vllm.command[0]) is None:
        raise Unavailable(
            f"找不到命令 {settings.vllm.command[0]}：请安装 vLLM（pip install vllm），或设置 TUNESMITH_VLLM_COMMAND",
            f"there is no command {settings.vllm.command[0]}: install vLLM (pip install vllm), or set "
            "TUNESMITH_VLLM_COMMAND",
        )
    program = _program(base, folder, settings)
    try:
        return await EngineProcess.launch(base, folder, program, settings.engine_start_s)
    except Unavailable as problem:
        raise _with_reason(problem, log_path(folder, base.name)) from problem


class JoinedVllm:
    """A vLLM that somebody else started; see ``RunningEngine``. Ending it only takes our adapters out of it."""

    def __init__(self, base: BaseModel, client: VllmEngine, health: Health) -> None:
        self.base, self.client, self.health = base, client, health
        self.pid: int | None = None
        self._wearing: set[str] = set()
        self._left = asyncio.Event()
        self.exited: asyncio.Task[int] = asyncio.create_task(self._watch())

    @staticmethod
    async def join(base: BaseModel, settings: Settings) -> "JoinedVllm":
        """See ``start``."""
        url = settings.vllm.url
        assert url is not None
        ends = _end_tokens(base.path)
        looking = VllmEngine.joined(url, settings.vllm.key, base.name, ends)
        try:
            served = await looking.served(within_s=_JOIN_S)
        finally:
            await looking.close()
        ours = next((each for each in served if each.name == base.name), None)
        ours = ours or next((each for each in served if each.context and each.root == str(base.path)), None)
        if ours is None:
            names = ", ".join(each.name for each in served if each.context) or "-"
            raise NotFound(
                f"TUNESMITH_VLLM_URL 处的 vLLM 不提供模型 {base.name}，只提供 {names}；"
                f"请以 --served-model-name {base.name} 启动它",
                f"the vLLM at TUNESMITH_VLLM_URL does not serve {base.name} but {names}; start it with "
                f"--served-model-name {base.name}",
                base=base.name,
            )
        client = VllmEngine.joined(url, settings.vllm.key, ours.name, ends)
        return JoinedVllm(base, client, Health("ready", context_length=ours.context))

    @property
    def adapters(self) -> "JoinedVllm":
        return self

    @property
    def alive(self) -> bool:
        return not self.exited.done() and not self._left.is_set()

    def rss(self) -> int:
        """Not known: it may be another machine's."""
        return 0

    def fate(self) -> Problem:
        """See ``RunningEngine``."""
        return Unavailable(
            f"与模型 {self.base.name} 的 vLLM 失去联系或它已重启，请重试",
            f"the vLLM of {self.base.name} was lost or has been restarted; ask again",
            base=self.base.name,
        )

    async def load_adapter(self, wire: str, adapter: Adapter) -> None:
        """See ``AdapterHost``."""
        await self.client.load_adapter(wire, adapter)
        self._wearing.add(wire)

    async def unload_adapter(self, wire: str) -> None:
        """See ``AdapterHost``."""
        self._wearing.discard(wire)
        await self.client.unload_adapter(wire)

    async def end(self) -> None:
        """Leave it as it was found."""
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                for wire in list(self._wearing):
                    await self.unload_adapter(wire)
        await self.kill()

    async def kill(self) -> None:
        """Leave it."""
        self._left.set()
        if not self.exited.done():
            await asyncio.wait([self.exited])
        await self.client.close()

    async def _watch(self) -> int:
        """0 once we left, 1 when it is gone or has forgotten what we gave it."""
        misses = 0
        while not self._left.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_EVERY_S):
                    await self._left.wait()
                break
            wearing = set(self._wearing)
            try:
                names = {each.name for each in await self.client.served(within_s=_LOOK_S)}
            except Problem:
                misses += 1
                if misses >= _MISSES:
                    return 1
                continue
            misses = 0
            if not wearing & self._wearing <= names:
                log.warning("vllm forgot adapters", base=self.base.name)
                return 1
        return 0


def _program(base: BaseModel, folder: Path, settings: Settings) -> Program:
    address = new_address(folder)
    client = VllmEngine.started(address, base.name, _end_tokens(base.path))
    command = [sys.executable, "-P", "-m", "tunesmith.inference.guard", str(os.getpid())]
    command += [*settings.vllm.command, "serve", str(base.path), f"--served-model-name={base.name}"]
    command += [*_ADAPTERS, *_OURS, "--uds", str(address), *settings.vllm.arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    environment = kept | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_RUNTIME_LORA_ALLOWED_PATH_PREFIXES": str(settings.home),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    return Program(command, environment, address, client, client, lambda: _health(client, base.name), several=True)


@asynccontextmanager
async def _health(client: VllmEngine, base: str) -> AsyncIterator[Look]:
    """vLLM listens only once it is ready."""

    async def look() -> Health:
        try:
            served = await client.served(within_s=_LOOK_S)
        except Problem:
            return Health("starting")
        return Health("ready", context_length=next((each.context for each in served if each.name == base), 0))

    yield look


def _end_tokens(folder: Path) -> frozenset[int]:
    """Token ids that end a completion of the model in ``folder``; empty where it does not say."""
    for name in ("generation_config.json", "config.json"):
        with suppress(OSError, ValueError, msgspec.MsgspecError):
            ends: Any = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            found = ends if isinstance(ends, list) else [ends]
            if found and all(isinstance(end, int) for end in found):
                return frozenset(found)
    return frozenset()


def _with_reason(problem: Unavailable, path: Path) -> Unavailable:
    """``problem`` with the last thing that looks like an error in vLLM's log."""
    with suppress(OSError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
        said = next((line.strip()[-300:] for line in reversed(lines) if "Error" in line or "error:" in line), "")
        zh, en = f"；日志 engines/{path.name}", f"; see its log engines/{path.name}"
        if said:
            zh, en = f"{zh}：{said}", f"{en}: {said}"
        return Unavailable(problem.zh + zh, problem.en + en, **problem.details)
    return problem
