"""Two servers on one database and one home: every queued run is started once, by one of them, whatever database."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.unit.training.test_service import RECIPE, ROW, Bases
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.files import write_json
from tunesmith.kernel.home import Home
from tunesmith.settings import Settings
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.run import Run, State
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

RUNS, ROOM = 50, 5

# what an executor starts and ends is told in one file, in the order it happened
_SERVER = """
import asyncio, os, sys
from pathlib import Path
from tests.contract.test_two_servers import ROOM, Bases, service_on
from tunesmith.training.executor import Report
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.run import State

told = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Telling(ScriptedExecutor):
    async def submit(self, run):
        os.write(told, f"+{run.id}\\n".encode())
        handle = await super().submit(run)
        Path(sys.argv[4], str(os.getpid())).touch()
        while len(os.listdir(sys.argv[4])) < 2:  # both shall take part, however unfair the database's lock is
            await asyncio.sleep(0.01)
        return handle

    async def poll(self, run):
        report = await super().poll(run)
        if report.state.final:
            os.write(told, f"-{run.id}\\n".encode())
        return report

async def main():
    executor = Telling(script=(Report(State.COMPLETED),))
    service = service_on(sys.argv[1], Path(sys.argv[2]), executor)
    print("ready", flush=True)
    sys.stdin.readline()
    while any(not run.state.final for run in service.list(limit=None)):
        await service.reconcile()
    service.release()
    print(len(executor.submitted), flush=True)

asyncio.run(main())
"""


def service_on(url: str, home: Path, executor: ScriptedExecutor) -> TrainingService:
    settings = Settings(home=home, concurrent_runs=ROOM)
    return TrainingService(RunStore(Database(url)), {"local": executor}, Bases(), Home(home), settings)


def test_two_servers_start_each_of_fifty_queued_runs_once_and_never_too_many(database_url: str, tmp_path: Path) -> None:
    home, told, seen = tmp_path / "home", tmp_path / "told", tmp_path / "seen"
    seen.mkdir()
    (home / "data").mkdir(parents=True)
    write_json(home / "data" / "town.jsonl", ROW)
    database = Database(database_url)
    store, now = RunStore(database), utc_now()
    for number in range(RUNS):
        run = Run(id=f"{number:032x}", recipe=RECIPE, output=f"adapters/{number}", executor="local", created_at=now)
        store.add(run)
    command, pipe = [sys.executable, "-c", _SERVER, database_url, str(home), str(told), str(seen)], subprocess.PIPE
    servers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for server in servers:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
    started = [int(server.communicate(timeout=60)[0]) for server in servers]
    assert [server.returncode for server in servers] == [0, 0]
    assert sum(started) == RUNS and min(started) > 0, started
    lines = told.read_text().splitlines()
    assert Counter(lines) == Counter(f"{sign}{number:032x}" for sign in "+-" for number in range(RUNS))
    under_way = most = 0
    for line in lines:
        under_way += 1 if line[0] == "+" else -1
        most = max(most, under_way)
    assert 0 < most <= ROOM
    assert [run.state for run in store.list(limit=None)] == [State.COMPLETED] * RUNS
    database.close()
