"""The models of the Ollama-compatible fake: what is here, what is loaded and until when, what is being pulled."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

TICK_S = 0.06  # how often Ollama tells how far a pull is
LAYER = 10_000_000
QUICK, SLOW = 10, 1000  # ticks a pull takes
FOR_EVER = timedelta(days=36500)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "129K",
    "quantization_level": "F32",
}
_NAME = re.compile(r"(?:[\w.-]+(?::\d+)?/){0,2}[\w][\w.-]*(?::[\w][\w.-]*)?")
_DURATION = re.compile(r"(-?[0-9.]+)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


@dataclass(slots=True)
class Download:
    """Parts of a model that are here already; they stay when a pull is given up."""

    completed: int = 0
    pullers: int = 0
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class Models:
    """Names are kept in full: ``tiny`` is ``tiny:latest``."""

    here: dict[str, datetime] = field(default_factory=dict)
    loaded: dict[str, datetime] = field(default_factory=dict)
    downloads: dict[str, Download] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return full(name) in self.here

    def add(self, name: str) -> None:
        self.here[full(name)] = now()

    def remove(self, name: str) -> bool:
        """Whether it was here."""
        self.loaded.pop(full(name), None)
        self.downloads.pop(full(name), None)
        return self.here.pop(full(name), None) is not None

    def load(self, name: str, keep_alive: object) -> bool:
        """Keep ``name`` in memory for as long as asked: ``"10m"``, seconds, negative for ever, 0 not at all.

        Gives whether it is in memory now.
        """
        time = _seconds(keep_alive)
        if time == 0:
            self.loaded.pop(full(name), None)
        else:
            self.loaded[full(name)] = now() + (FOR_EVER if time < 0 else timedelta(seconds=time))
        return time != 0

    def listed(self) -> list[dict[str, Any]]:
        """As in ``GET /api/tags``, newest first."""
        named = sorted(self.here.items(), key=lambda item: item[1], reverse=True)
        return [_entry(name) | {"modified_at": stamp(since)} | _remote(name) for name, since in named]

    def in_memory(self) -> list[dict[str, Any]]:
        """As in ``GET /api/ps``."""
        for name in [name for name, until in self.loaded.items() if until < now()]:
            del self.loaded[name]
        more = {"size_vram": LAYER, "context_length": 4096}
        return [_entry(name) | {"expires_at": stamp(until)} | more for name, until in self.loaded.items()]

    async def pull(self, name: str) -> AsyncGenerator[dict[str, Any], None]:
        """The lines of ``POST /api/pull``; pulls of one model at once share what comes."""
        yield {"status": "pulling manifest"}
        if "missing" in name:
            yield {"error": "pull model manifest: file does not exist"}
            return
        download = self.downloads.setdefault(full(name), Download())
        layer = {"status": f"pulling {digest(name)[:12]}", "digest": f"sha256:{digest(name)}", "total": LAYER}
        async with aclosing(self._progress(name, download)) as progress:
            async for completed in progress:
                yield {**layer, "completed": completed} if completed else layer
                if "broken" in name and completed > LAYER // 2:
                    yield {"error": "max retries exceeded: unexpected EOF"}
                    return
        yield {"status": "verifying sha256 digest"}
        if "nosuccess" in name:
            return
        yield {"status": "writing manifest"}
        self.add(name)
        yield {"status": "success"}

    async def _progress(self, name: str, download: Download) -> AsyncGenerator[int, None]:
        download.pullers += 1
        if download.task is None or download.task.done():
            download.task = asyncio.create_task(_fetch(name, download))
        try:
            while True:
                yield download.completed
                if download.completed >= LAYER:
                    return
                await asyncio.sleep(TICK_S)
        finally:
            download.pullers -= 1
            if not download.pullers:
                download.task.cancel()


async def _fetch(name: str, download: Download) -> None:
    step = LAYER // (SLOW if "slow" in name else QUICK)
    while download.completed < LAYER:
        await asyncio.sleep(TICK_S)
        if not ("stall" in name and download.completed):
            download.completed = min(LAYER, download.completed + step)


def full(name: str) -> str:
    """A name with its tag."""
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def valid(name: str) -> bool:
    """Whether Ollama would take it for a name at all."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def digest(name: str) -> str:
    return hashlib.sha256(full(name).encode()).hexdigest()


def now() -> datetime:
    return datetime.now(UTC)


def stamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": LAYER, "digest": digest(name), "details": DETAILS}


def _remote(name: str) -> dict[str, str]:
    # a stub that Ollama would answer from elsewhere
    return {"remote_model": name, "remote_host": "https://ollama.com:443"} if name.startswith("cloud") else {}


def _seconds(keep_alive: object) -> float:
    if keep_alive is None:
        return 300.0
    if isinstance(keep_alive, int | float):
        return float(keep_alive)
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _DURATION.findall(str(keep_alive)))
