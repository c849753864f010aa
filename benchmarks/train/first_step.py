"""Seconds from ``POST /train`` to the first step, against a real server on a home folder of its own.

    PYTHONPATH=benchmarks python -m train.first_step [--times 5]

Alone it prints both kinds of start by turns, on one server each: a trainer that waited, as a server keeps one while
nothing trains, and a new process; and the trainer's own processor time until then, which a busy machine disturbs less.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from train.material import SAMPLES

_LIMIT_S = 300.0
_WAITING = "tunesmith.training.waiting"


@dataclass(frozen=True, slots=True)
class FirstStep:
    """One start.

    Attributes:
        seconds: from the request to the first step.
        processor_s: user and system time of the trainer between the two.
    """

    seconds: float
    processor_s: float


def first_steps(folder: Path, times: int, *, warm: bool = True) -> list[float]:
    """Seconds, as often as asked, one run after the other, each canceled once it has stepped.

    Args:
        warm: the server has a trainer that waits each time, as it has by default some seconds after the last run.
    """
    with _serving(folder / "server-home", warm) as server:
        return [server.first_step().seconds for _ in range(times)]


class _Server:
    def __init__(self, process: "subprocess.Popen[bytes]", url: str, home: Path, warm: bool) -> None:
        self._process, self._url, self._home, self._warm = psutil.Process(process.pid), url, home, warm

    def first_step(self) -> FirstStep:
        before: dict[int, float] = {}
        if self._warm:
            _wait(lambda: before.update(self._waiting()) or before)
        began = time.time()
        body = {"base_model": "tunesmith-small", "dataset_path": "data/train.jsonl", "num_epochs": 50}
        task = _asked(f"{self._url}/train", body)["task_id"]
        folder = self._home / "runs" / task
        _wait(lambda: _first_row(folder))
        pid = int(json.loads((folder / "trainer.json").read_text())["pid"])
        found = FirstStep(_first_row(folder) - began, _processor_s(pid) - before.get(pid, 0.0))
        _asked(f"{self._url}/train/cancel/{task}", {})
        _wait(lambda: _asked(f"{self._url}/train/status/{task}")["status"] not in ("queued", "running"))
        if self._warm and pid not in before:
            raise SystemExit("the trainer that waited did not get the run")
        return found

    def _waiting(self) -> dict[int, float]:
        """The trainer that waits with what it has used so far, once it has imported all and really waits."""
        for child in self._process.children():
            with suppress(psutil.Error):
                used = _processor_s(child.pid)
                if _WAITING in child.cmdline() and used > 1:
                    time.sleep(2)
                    if _processor_s(child.pid) == used:
                        return {child.pid: used}
        return {}


@contextmanager
def _serving(home: Path, warm: bool) -> Iterator[_Server]:
    shutil.rmtree(home, ignore_errors=True)
    (home / "data").mkdir(parents=True)
    shutil.copy(SAMPLES / "facts.train.jsonl", home / "data" / "train.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "tunesmith.cli", "serve", "--home", str(home), "--port", str(port)]
    environ = {**os.environ, "TUNESMITH_WARM_TRAINER": str(int(warm))}
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answers(url))
        yield _Server(process, url, home, warm)
    finally:
        process.terminate()
        process.wait(30)


def _first_row(folder: Path) -> float:
    """When the first step was told of; 0 while none was."""
    metrics = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    return next((float(row["time"]) for row in rows if "event" not in row), 0.0)


def _processor_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def _asked(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _answers(url: str) -> bool:
    try:
        return bool(_asked(f"{url}/health"))
    except (urllib.error.URLError, OSError):
        return False


def _wait(true: Any) -> None:
    until = time.monotonic() + _LIMIT_S
    while not true():
        if time.monotonic() > until:
            raise SystemExit("the server did not do it in time; see server.log")
        time.sleep(0.02)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--times", type=int, default=5)
    given = arguments.parse_args()
    kinds = {"a trainer that waited": True, "a new process": False}
    found: dict[str, list[FirstStep]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        servers = {
            name: running.enter_context(_serving(Path(folder) / str(number), warm))
            for number, (name, warm) in enumerate(kinds.items())
        }
        for _ in range(given.times):
            for name, server in servers.items():
                found[name].append(server.first_step())
    print(f"load average {os.getloadavg()[0]:.1f}; least, median and most of {given.times}")
    print("start                     seconds             processor seconds")
    for name, steps in found.items():
        figures = [[getattr(step, field) for step in steps] for field in FirstStep.__slots__]
        shown = [f"{min(each):.2f}  {statistics.median(each):.2f}  {max(each):.2f}" for each in figures]
        print(f"{name:24}  {shown[0]:18}  {shown[1]}", flush=True)


if __name__ == "__main__":
    main()
