"""Tunesmith's engine process by itself, asked over its socket: what compare.py and the overhead measure need."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from train.peers import LeftOut

from serve.client import Door, openai
from serve.contestants import clean
from serve.environments import last_line
from serve.material import BASE

_START_S, _WHOLE_S = 300.0, 600.0
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}  # as the server starts it


@dataclass(frozen=True, slots=True)
class Engine:
    """It, ready.

    Attributes:
        name: what requests call its base model.
    """

    name: str
    address: Path

    @property
    def door(self) -> Door:
        return Door(self.address, openai({"stream_options": {"include_usage": True}}))

    def load(self, adapter: str, folder: Path) -> None:
        """Have it wear an adapter."""
        self._posted("/v1/load_lora_adapter", {"lora_name": adapter, "lora_path": str(folder)})

    def whole(self, prompts: Sequence[str], most: int) -> Any:
        """All prompts, continued as they stand, in one call that answers when all are done."""
        body = {"model": self.name, "prompt": list(prompts), "max_tokens": most, "temperature": 0}
        return self._posted("/v1/completions", body)

    def _posted(self, path: str, body: Mapping[str, object]) -> Any:
        async def post() -> Any:
            connector = aiohttp.UnixConnector(str(self.address))
            timeout = aiohttp.ClientTimeout(total=_WHOLE_S)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(f"http://engine{path}", json=body) as response,
            ):
                text = await response.text()
                if response.status != 200:
                    raise LeftOut(f"{path} answers HTTP {response.status}: {text[:300]}")
                return text

        return asyncio.run(post())


@contextmanager
def engine(
    model: Path, folder: Path, precision: str = "auto", more: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Engine]:
    """The engine on ``model``, ended on the way out.

    Args:
        folder: where its log goes. more: environment.

    Raises:
        LeftOut: it does not become ready; the end of its log is in the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "engine.log"
    with tempfile.TemporaryDirectory() as place:  # a socket's path must be short
        address = Path(place) / "engine"
        command = [sys.executable, "-P", "-m", "tunesmith.inference.worker", "--base-name", BASE, "--base-path", model]
        command += ["--socket", address, "--parent-watch", str(os.getpid())]
        command += ["--precision", precision] if precision != "auto" else []
        command += ["--records", folder / "records"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=clean(**_HUGE_PAGES, **more))
        try:
            _wait(process, address, log)
            yield Engine(BASE, address)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", address: Path, log: Path) -> None:
    async def ready() -> bool:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(address))) as session,
                session.get("http://engine/health") as response,
            ):
                told = await response.json()
        except (aiohttp.ClientError, OSError):
            return False
        if told["status"] == "failed":
            raise LeftOut(f"it cannot load the model: {told['error']['message']}")
        return bool(told["status"] == "ready")

    until = time.monotonic() + _START_S
    while not asyncio.run(ready()):
        if process.poll() is not None or time.monotonic() > until:
            raise LeftOut(f"it did not start: {last_line(log)}")
        time.sleep(0.05)
