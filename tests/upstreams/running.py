"""Start the upstreams as processes, talk to them, end them.

with misbehaving() as upstream:
    ...  # upstream.url is what a client of Ollama or OpenRouter gets as its address
    report = upstream.until(lambda report: report["open"] == 0)
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream; ``facts`` is the line it said when it was ready."""

    url: str
    facts: Mapping[str, Any]
    process: "subprocess.Popen[bytes]"

    def report(self) -> dict[str, Any]:
        """What it saw until now; each upstream's module says what is in it."""
        return self._asked("GET", "/report")

    def reset(self) -> None:
        """Make it forget what it saw, and what it was told."""
        self._asked("POST", "/reset")

    def tell(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Tell it how to be: ``POST`` to one of its own control paths."""
        return self._asked("POST", path, body)

    def until(self, true: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_S) -> dict[str, Any]:
        """Ask for reports until one is as wanted, and give it.

        Raises:
            AssertionError: none was within ``seconds``; the last one is told.
        """
        end = time.monotonic() + seconds
        while not true(report := self.report()):
            assert time.monotonic() < end, f"never seen: {json.dumps(report)[:2000]}"
            time.sleep(0.02)
        return report

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # a connection of its own each time, closed before the answer is used
        answer = requests.request(
            method, self.url + path, json=body, timeout=PATIENCE_S, headers={"Connection": "close"}
        )
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report


@contextmanager
def running(module: str, arguments: Sequence[str] = (), **environ: str) -> Iterator[Upstream]:
    """Run ``python -m tests.upstreams.<module>`` until the end of the block, with ``environ`` in its environment."""
    command = [sys.executable, "-m", f"tests.upstreams.{module}", *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env)
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"{module} did not start: it ended with {process.wait()}"
        facts = json.loads(line)
        yield Upstream(facts["url"], facts, process)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def misbehaving(*, models: Sequence[str] = ()) -> Iterator[Upstream]:
    """An upstream that goes wrong as the model's name says; ``models`` are listed besides ``bad/<mode>``."""
    with running("misbehaving", [f"--model={name}" for name in models]) as upstream:
        yield upstream


@contextmanager
def llama(folder: Path) -> Iterator[Upstream]:
    """A real llama.cpp server, OpenAI wire at ``/v1``, on a tiny random model that is made in ``folder``.

    It keeps no report.
    """
    with running("llama", ["--folder", str(folder)]) as upstream:
        yield upstream


@contextmanager
def ollama_skin(
    *, llama_url: str | None = None, models: Sequence[str] = (), pause_ms: float = 0.0
) -> Iterator[Upstream]:
    """An Ollama-compatible fake over a llama.cpp server, or over canned text with a pause after each token.

    ``models`` are here besides its own.
    """
    with running("ollama_skin", _over(llama_url, models, pause_ms)) as upstream:
        yield upstream


@contextmanager
def openrouter_skin(
    *, llama_url: str | None = None, models: Sequence[str] = (), pause_ms: float = 0.0, key: str = "sk-or-test"
) -> Iterator[Upstream]:
    """An OpenRouter-compatible fake that knows one bearer ``key``; its API is below ``url + "/api/v1"``."""
    with running("openrouter_skin", [*_over(llama_url, models, pause_ms), f"--key={key}"]) as upstream:
        yield upstream


@contextmanager
def vllm(model: Path, name: str, *arguments: str, updating: bool = True) -> Iterator[Upstream]:
    """A stand-in of a vLLM that somebody started, with LoRA switched on unless not ``updating``.

    Its ``/report`` is of a shape of its own.
    """
    environ = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if updating else {}
    given = ["serve", str(model), "--served-model-name", name, "--enable-lora", "--port=0", *arguments]
    with running("vllm_skin", given, **environ) as upstream:
        yield upstream


def vllm_command(folder: Path) -> Path:
    """The stand-in of vLLM as a command that starts as ``vllm`` does."""
    command = folder / "vllm"
    command.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m tests.upstreams.vllm_skin "$@"\n')
    command.chmod(0o755)
    return command


def _over(llama_url: str | None, models: Sequence[str], pause_ms: float) -> list[str]:
    over = [f"--pause-ms={pause_ms}"] if llama_url is None else [f"--llama={llama_url}"]
    return over + [f"--model={name}" for name in models]
