"""Two servers on one database and one home, queued runs, real trainers: how often was each run trained?

    PYTHONPATH=. python benchmarks/two_servers.py [--runs 50] [--at-once 2] [--database sqlite postgres]

The PostgreSQL is a private one that is started for it and ended after it. A run counts as trained once if one trainer
process was started for it, its metrics tell every step once, and it completed. Exits 1 when one was not.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from killed_runs import ROWS, Server, trainers

EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Result:
    """What two servers made of the queue.

    Attributes:
        once: runs that were trained exactly once.
        shares: runs that each server started.
        most: trainers seen at one time.
    """

    database: str
    runs: int
    once: int
    shares: tuple[int, ...]
    most: int
    seconds: float


def trained_once(home: Path, task: str) -> bool:
    folder = home / "runs" / task
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "event" not in row]
    starts = sum(row.get("stage") == "checking" for row in rows)
    done = json.loads((folder / "done.json").read_text())
    return starts == 1 and steps == list(range(1, len(steps) + 1)) and bool(steps) and done["state"] == "completed"


@contextmanager
def database_url(kind: str, home: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{home}/tunesmith.db"
        return
    from tests.postgres import running

    with running() as postgres:
        yield postgres.new()


def measured(kind: str, runs: int, at_once: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        (home / "data" / "rows.json").write_text(json.dumps(ROWS[:8]))
        with database_url(kind, home) as url:
            environ = {"TUNESMITH_DATABASE_URL": url, "TUNESMITH_CONCURRENT_RUNS": str(at_once)}
            servers = [Server(home, environ) for _ in range(2)]
            try:
                began = time.monotonic()
                tasks = [ordered(servers, number, alone=number < at_once) for number in range(runs)]
                most, started_by = watched(home, servers, tasks)
                seconds = time.monotonic() - began
            finally:
                for server in servers:
                    server.end()
                for trainer in trainers(home):
                    trainer.kill()
        once = sum(trained_once(home, task) for task in tasks)
    shares = Counter(started_by.values())
    return Result(kind, runs, once, tuple(shares[server.process.pid] for server in servers), most, seconds)


def ordered(servers: list[Server], number: int, *, alone: bool) -> str:
    """Order a run from the servers by turns; ``alone``: from one that starts it while the other is made to stand still.

    Whoever sees a run end starts the next, so without that one server would often start them all.
    """
    server, other = servers[number % 2], psutil.Process(servers[1 - number % 2].process.pid)
    if alone:
        other.suspend()
    body = {"base_model": "tunesmith-small", "dataset_path": "data/rows.json", "output_dir": f"adapters/{number}"}
    answer: dict[str, Any] = server.ask("POST", "/train", {**body, "num_epochs": EPOCHS})
    task = str(answer["task_id"])
    while alone and (server.ask("GET", f"/train/status/{task}") or {}).get("status") == "queued":
        time.sleep(0.1)
    other.resume()
    return task


def watched(home: Path, servers: list[Server], tasks: list[str]) -> tuple[int, dict[int, int]]:
    """Wait until all have ended: the most trainers seen at once, and by trainer the server that started it."""
    most, started_by, left = 0, dict[int, int](), list(tasks)
    while left:
        alive = trainers(home)
        most = max(most, len(alive))
        for trainer in alive:
            with suppress(psutil.Error):
                started_by[trainer.pid] = trainer.ppid()
        now = (servers[0].ask("GET", f"/train/status/{left[0]}") or {}).get("status")
        if now in ("completed", "failed", "canceled"):
            left.pop(0)
        else:
            time.sleep(0.1)
    return most, started_by


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=50)
    arguments.add_argument("--at-once", type=int, default=2, help="runs under way at a time, of both servers together")
    arguments.add_argument("--database", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    arguments.add_argument("--json", action="store_true", help="one object a database instead of the table")
    given = arguments.parse_args()
    results = [measured(kind, given.runs, given.at_once) for kind in given.database]
    if given.json:
        for each in results:
            print(json.dumps({name: getattr(each, name) for name in each.__slots__}))
    else:
        print("database   runs   trained once   started by each   most at once   seconds")
        for each in results:
            shares = " + ".join(map(str, each.shares))
            print(
                f"{each.database:8} {each.runs:6} {each.once:14} {shares:>17} {each.most:14} {each.seconds:9.1f}",
                flush=True,
            )
    sys.exit(any(each.once != each.runs or each.most > given.at_once for each in results))


if __name__ == "__main__":
    main()
