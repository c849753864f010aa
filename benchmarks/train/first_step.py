"""Seconds from ``POST /train`` to the first step, against a real server on a home folder of its own."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from train.material import SAMPLES

_LIMIT_S = 120.0


def first_steps(folder: Path, times: int) -> list[float]:
    """As often as asked, one run after the other, each canceled once it has stepped."""
    home = folder / "server-home"
    shutil.rmtree(home, ignore_errors=True)
    (home / "data").mkdir(parents=True)
    shutil.copy(SAMPLES / "facts.train.jsonl", home / "data" / "train.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "tunesmith.cli", "serve", "--home", str(home), "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answers(url))
        return [_first_step(url, home) for _ in range(times)]
    finally:
        server.terminate()
        server.wait(30)


def _first_step(url: str, home: Path) -> float:
    began = time.time()
    body = {"base_model": "tunesmith-small", "dataset_path": "data/train.jsonl", "num_epochs": 50}
    task = _asked(f"{url}/train", body)["task_id"]
    metrics = home / "runs" / task / "metrics.jsonl"

    def stepped() -> float:
        rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        return next((row["time"] for row in rows if "event" not in row), 0.0)

    _wait(stepped)
    _asked(f"{url}/train/cancel/{task}", {})
    _wait(lambda: _asked(f"{url}/train/status/{task}")["status"] not in ("queued", "running"))
    return stepped() - began


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
