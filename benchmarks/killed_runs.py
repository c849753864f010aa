"""Runs killed at random moments, and what became of them.

    python benchmarks/killed_runs.py [--runs 100] [--seed 1] [--json]

One run is left in peace; every other is killed one to four times at random moments while it trains: its trainer, the
server, or both at once (as when a machine loses power). The server is started again, nothing else is done. Each must
end completed, once, with the bytes of the undisturbed adapter, and every step told once. Exits 1 when one does not.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

ROWS = [{"input": f"Where is locker {n}?", "expected": f"Locker {n} is on floor {n * 3}."} for n in range(64)]
EPOCHS, WITHIN_S = 8, 180.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run.

    Attributes:
        killed: what was killed, and at which step.
        same: the adapter has the bytes of the undisturbed one.
        told_once: metrics.jsonl has every step once, in order.
        results: records of the run that say it completed.
    """

    killed: tuple[str, ...]
    state: str
    same: bool
    told_once: bool
    results: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.state == "completed" and self.same and self.told_once and self.results == 1


class Server:
    """``tunesmith serve`` on a home folder; may be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = int(probe.getsockname()[1])
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tunesmith.cli", "serve", "--home", str(self.home), "--port", str(self._port)]
        environ = {**os.environ, "TUNESMITH_THREADS": "1", "TUNESMITH_CHECKPOINT_SECONDS": "0"}
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        while self.ask("GET", "/health") is None:
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with suppress(OSError, http.client.HTTPException):
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return json.loads(connection.getresponse().read())
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


def trainers(home: Path) -> list[psutil.Process]:
    """Living trainers of this home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"{home}/runs/" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_at_random(server: Server, task: str, draws: random.Random) -> Iterator[str]:
    """Kill one thing after another at random moments; says what."""
    for _ in range(draws.randint(1, 4)):
        time.sleep(draws.uniform(0.0, 12.0))
        step = (server.ask("GET", f"/train/status/{task}") or {}).get("current_step", "?")
        what = draws.choice(["trainer", "server", "both"])
        if what != "server":
            for trainer in trainers(server.home):
                trainer.kill()
        if what != "trainer":
            server.kill()
            server.start()
        yield f"{what}@{step}"


def one(server: Server, name: str, draws: random.Random | None, expected: str | None) -> tuple[Outcome, str]:
    """Train once under that name, killed as ``draws`` says; the outcome, and the adapter's hash."""
    began = time.monotonic()
    order = {"base_model": "tunesmith-small", "dataset_path": "data/rows.json", "output_dir": f"adapters/{name}"}
    task = server.ask("POST", "/train", {**order, "num_epochs": EPOCHS})["task_id"]
    killed = tuple(kill_at_random(server, task, draws)) if draws else ()
    while time.monotonic() - began < WITHIN_S:
        status = server.ask("GET", f"/train/status/{task}") or {}
        if status.get("status") in ("completed", "failed", "canceled"):
            break
        time.sleep(0.1)
    weights = server.home / "adapters" / name / "adapter_model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
    lines = (server.home / "runs" / task / "metrics.jsonl").read_text().splitlines()
    steps = [row["step"] for row in map(json.loads, lines) if "event" not in row]
    history = server.ask("GET", "/train/history") or {}
    tasks = next((rows for rows in history.values() if isinstance(rows, list)), [])
    outcome = Outcome(
        killed,
        status.get("status", "nobody answered"),
        found == (expected or found),
        steps == list(range(1, status.get("total_steps", 0) + 1)),
        sum(row["task_id"] == task and row["status"] == "completed" for row in tasks),
        time.monotonic() - began,
    )
    return outcome, found


@contextmanager
def serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        (home / "data" / "rows.json").write_text(json.dumps(ROWS))
        server = Server(home)
        try:
            yield server
        finally:
            server.end()
            for trainer in trainers(home):
                trainer.kill()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--json", action="store_true", help="one object instead of the table")
    given = arguments.parse_args()
    with serving() as server:
        undisturbed, expected = one(server, "undisturbed", None, None)
        outcomes = []
        for number in range(1, given.runs + 1):
            outcome, _ = one(server, f"run-{number}", random.Random(given.seed * 1000 + number), expected)
            outcomes.append(outcome)
            if not given.json:
                mark = "ok " if outcome.good else "BAD"
                print(
                    f"{number:4} {mark} {outcome.seconds:6.1f} s  {outcome.state:10} {', '.join(outcome.killed)}",
                    flush=True,
                )
    good, kills = sum(each.good for each in outcomes), sum(len(each.killed) for each in outcomes)
    if given.json:
        print(
            json.dumps({"undisturbed": asdict(undisturbed), "runs": [asdict(each) for each in outcomes], "good": good})
        )
    else:
        print(f"undisturbed: {undisturbed.seconds:.1f} s, adapter {expected[:16]}")
        print(f"{good} of {len(outcomes)} runs, killed {kills} times, completed once with that adapter")
    sys.exit(good != len(outcomes) or not undisturbed.good)


if __name__ == "__main__":
    main()
