"""Runs killed at random moments, and what became of them.

    python benchmarks/killed_runs.py [--runs 100] [--seed 1] [--at-once 2] [--waiting] [--json]

One run is left in peace. Every other is killed one to three times at random moments of its whole life (starting,
reading, training, saving): its trainer, the server, both, or everything at once, as when a machine loses power
(server, every trainer, the engine). Two are under way at a time, each with kills of its own; what takes the server or
the machine away strikes both. The server is started again, nothing else is done. Each must end completed, once, with
the bytes of the undisturbed adapter, and every step told once. Exits 1 when one does not.

With ``--waiting`` runs come one at a time, each only when a trainer waits for it with everything imported, and are begun
by that one; without it every trainer is a new process.
"""

import argparse
import hashlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROWS = [{"input": f"Where is locker {n}?", "expected": f"Locker {n} is on floor {n * 3}."} for n in range(32)]
EPOCHS, WITHIN_S = 8, 300.0
WAITING, READY_S = "tunesmith.training.waiting", 6.0  # what waits, and how long it imports
KINDS = ("trainer", "server", "both", "machine")
# the service gives a run up whose trainer dies a fourth time before it gets any further, as it says it does
MOST_DEATHS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run.

    Attributes:
        killed: what was killed, and at which step; kills for another run's sake that struck this one too end in "*".
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
        return not self.wrong

    @property
    def wrong(self) -> str:
        """What is not as it must be; empty where all is."""
        wrong = [] if self.state == "completed" else [self.state]
        wrong += [] if self.same else ["other bytes"]
        wrong += [] if self.told_once else ["steps not told once"]
        return ", ".join(wrong + ([] if self.results == 1 else [f"{self.results} results"]))


class Server:
    """``tunesmith serve`` on a home folder; may be killed and started again."""

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home, self._environ = home, environ or {}
        self.lock = threading.RLock()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = int(probe.getsockname()[1])
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tunesmith.cli", "serve", "--home", str(self.home), "--port", str(self._port)]
        fixed = {"TUNESMITH_THREADS": "1", "TUNESMITH_CHECKPOINT_SECONDS": "0"}
        environ = {**os.environ, **fixed, **self._environ}
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        while self.ask("GET", "/health") is None:
            assert self.process.poll() is None, (self.home / "server.log").read_text()[-2000:]
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with suppress(OSError, http.client.HTTPException, ValueError):
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return json.loads(connection.getresponse().read())
        return None

    def await_waiting(self) -> None:
        """Until a trainer waits for a run."""
        deadline = time.monotonic() + WITHIN_S
        while not any(WAITING in words(each) for each in psutil.Process(self.process.pid).children()):
            assert time.monotonic() < deadline, "no trainer waits"
            time.sleep(0.1)
        time.sleep(READY_S)

    def again(self) -> None:
        """After a kill."""
        self.process.wait()
        self.start()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def words(process: psutil.Process) -> str:
    """Its command line; empty where it has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def trainers(home: Path, task: str = "") -> list[psutil.Process]:
    """Living trainers of this home, or of one run."""
    # one that had waited does not have the run on its command line; it is known once the server has written it down
    told = set()
    for file in (home / "runs").glob(f"{task or '*'}/trainer.json"):
        with suppress(OSError, ValueError):
            told.add(json.loads(file.read_bytes())["pid"])
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = f"{home}/runs/{task}" in words(process) or (process.pid in told and WAITING in words(process))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass(slots=True)
class Life:
    """One run under way: what has struck it."""

    task: str
    killed: list[str] = field(default_factory=list)
    deaths: int = 0


class Killer:
    """Kills what it is told to, and writes down whom it struck."""

    def __init__(self, server: Server) -> None:
        self._server, self._lives = server, list[Life]()
        self._lock = threading.Lock()

    def begin(self, task: str) -> Life:
        with self._lock:
            self._lives.append(life := Life(task))
        return life

    def end(self, life: Life) -> None:
        with self._lock:
            self._lives.remove(life)

    def strike(self, what: str, life: Life) -> None:
        """Kill ``what`` for the sake of ``life``."""
        with self._server.lock:
            step = (self._server.ask("GET", f"/train/status/{life.task}") or {}).get("current_step", "?")
            with self._lock:
                others = [each for each in self._lives if each is not life]
            if what == "machine" and any(each.deaths >= MOST_DEATHS for each in others):
                what = "both"
            doomed = trainers(self._server.home, "" if what == "machine" else life.task) if what != "server" else []
            if what != "trainer":
                if what == "machine":
                    with suppress(psutil.Error):
                        doomed += psutil.Process(self._server.process.pid).children(recursive=True)
                doomed.append(psutil.Process(self._server.process.pid))
            for process in doomed:
                with suppress(psutil.Error):
                    process.kill()
            life.killed.append(f"{what}@{step}")
            life.deaths += what != "server"
            if what != "trainer":
                for each in others:
                    each.killed.append(f"{'server' if what == 'both' else what}*")
                    each.deaths += what == "machine"
                self._server.again()


def follow(server: Server, killer: Killer, life: Life, draws: random.Random | None, usual_s: float) -> dict[str, Any]:
    """The run's status at its end; it is killed on the way as ``draws`` says."""
    began = time.monotonic()
    kills = [draws.choice(KINDS) for _ in range(draws.randint(1, 3))] if draws else []
    due = began + (draws.uniform(0.0, usual_s) if draws else 0.0)
    status: dict[str, Any] = {}
    while time.monotonic() - began < WITHIN_S:
        if kills and draws and time.monotonic() >= due:
            what = kills.pop()
            killer.strike("server" if life.deaths >= MOST_DEATHS else what, life)
            due = time.monotonic() + draws.uniform(0.0, usual_s)
        status = server.ask("GET", f"/train/status/{life.task}") or {}
        if status.get("status") in ("completed", "failed", "canceled"):
            break
        time.sleep(0.1)
    return status


def one(
    server: Server,
    killer: Killer,
    name: str,
    draws: random.Random | None,
    usual_s: float,
    expected: str | None,
    *,
    waiting: bool,
) -> tuple[Outcome, str]:
    """Train once under that name, killed as ``draws`` says; the outcome, and the adapter's hash."""
    order = {"base_model": "tunesmith-small", "dataset_path": "data/rows.json", "output_dir": f"adapters/{name}"}
    if waiting:
        server.await_waiting()
    with server.lock:  # a request that a kill cuts off would leave open whether there is a run
        began = time.monotonic()
        task = server.ask("POST", "/train", {**order, "num_epochs": EPOCHS})["task_id"]
    life = killer.begin(task)
    status = follow(server, killer, life, draws, usual_s)
    killer.end(life)
    seconds = time.monotonic() - began
    weights = server.home / "adapters" / name / "adapter_model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
    lines = (server.home / "runs" / task / "metrics.jsonl").read_text().splitlines()
    steps = [row["step"] for row in map(json.loads, lines) if "event" not in row]
    with server.lock:
        history = server.ask("GET", "/train/history") or {}
    tasks = next((rows for rows in history.values() if isinstance(rows, list)), [])
    outcome = Outcome(
        tuple(life.killed),
        status.get("status", "nobody answered"),
        found == (expected or found),
        steps == list(range(1, status.get("total_steps", 0) + 1)),
        sum(row["task_id"] == task and row["status"] == "completed" for row in tasks),
        seconds,
    )
    return outcome, found


@contextmanager
def serving(at_once: int, *, waiting: bool) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        (home / "data" / "rows.json").write_text(json.dumps(ROWS))
        server = Server(home, {"TUNESMITH_CONCURRENT_RUNS": str(at_once), "TUNESMITH_WARM_TRAINER": str(int(waiting))})
        try:
            yield server
        finally:
            server.end()
            for trainer in trainers(home):
                trainer.kill()


def killed_runs(server: Server, given: argparse.Namespace) -> tuple[Outcome, str, list[Outcome]]:
    """The undisturbed run, its adapter's hash, and as many killed ones as were asked for."""
    killer, outcomes = Killer(server), list[Outcome]()
    # an engine, too, is there to be killed
    threading.Thread(target=server.ask, args=("POST", "/generate", {"prompt": "hi", "max_tokens": 1})).start()
    undisturbed, expected = one(server, killer, "undisturbed", None, 0.0, None, waiting=given.waiting)
    numbers, left, printing = itertools.count(1), [given.runs], threading.Lock()

    def work() -> None:
        while True:
            with printing:
                if not left[0]:
                    return
                left[0] -= 1
                number = next(numbers)
            draws = random.Random(given.seed * 1000 + number)
            name = f"run-{number}"
            outcome, _ = one(server, killer, name, draws, undisturbed.seconds, expected, waiting=given.waiting)
            with printing:
                if not outcome.killed and outcome.good:
                    left[0] += 1  # it ended before its first kill was due: no killed run
                    continue
                outcomes.append(outcome)
                if not given.json:
                    mark, killed = outcome.wrong or "ok", ", ".join(outcome.killed)
                    print(f"{len(outcomes):4} {outcome.seconds:6.1f} s  {mark:12} {killed}", flush=True)

    with ThreadPoolExecutor(given.at_once) as pool:
        for done in [pool.submit(work) for _ in range(given.at_once)]:
            done.result()
    return undisturbed, expected, outcomes


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--waiting", action="store_true", help="a trainer that waited begins each run; one at a time"
    )
    arguments.add_argument("--at-once", type=int, default=2, help="runs under way at a time")
    arguments.add_argument("--json", action="store_true", help="one object instead of the table")
    given = arguments.parse_args()
    began = time.monotonic()
    if given.waiting:
        given.at_once = 1
    with serving(given.at_once, waiting=given.waiting) as server:
        undisturbed, expected, outcomes = killed_runs(server, given)
    good, kills = sum(each.good for each in outcomes), Counter(
        kill.rstrip("*").partition("@")[0] for each in outcomes for kill in each.killed
    )  # fmt: skip
    if given.json:
        print(
            json.dumps({"undisturbed": asdict(undisturbed), "runs": [asdict(each) for each in outcomes], "good": good})
        )
    else:
        print(f"undisturbed: {undisturbed.seconds:.1f} s, adapter {expected[:16]}")
        print(", ".join(f"{kind} {kills[kind]}" for kind in KINDS) + " kills")
        print(
            f"{good} of {len(outcomes)} runs, killed {kills.total()} times, completed once with that adapter; "
            f"{time.monotonic() - began:.0f} s in all"
        )
    sys.exit(good != len(outcomes) or not undisturbed.good)


if __name__ == "__main__":
    main()
