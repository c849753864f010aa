"""Journals of several processes, and of processes that are killed."""

import random
import subprocess
import sys

import pytest

from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.notes import ModelNotes
from tunesmith.models.usage import UsageJournal

_WRITER = """
import sys
from pathlib import Path
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.model import Model
from tunesmith.models.usage import UsageJournal

home = Home(Path(sys.argv[1]))
journal = UsageJournal(home.usage, Database(f"sqlite:///{home.root / 'tunesmith.db'}"))
for n in range(int(sys.argv[2])):
    journal.used(Model("small", "adapters/town"))
    print(n, flush=True)
    if n % 50 == 49:
        journal.fold()
sys.stdin.readline()
"""


def writer(home: Home, uses: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _WRITER, str(home.root), str(uses)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def acknowledged(process: "subprocess.Popen[str]", uses: int) -> None:
    assert process.stdout is not None
    for _ in range(uses):
        assert process.stdout.readline()


@pytest.fixture
def notes(home: Home, database: Database) -> ModelNotes:
    return ModelNotes(database, UsageJournal(home.usage, database))


def test_uses_in_a_process_that_still_runs_are_counted_now(home: Home, notes: ModelNotes) -> None:
    running = writer(home, 3)
    acknowledged(running, 3)
    assert notes.usage("adapters/town").count == 3
    running.communicate("\n")
    assert running.returncode == 0 and notes.usage("adapters/town").count == 3


def test_three_processes_that_count_and_fold_at_once_lose_and_double_nothing(home: Home, notes: ModelNotes) -> None:
    running = [writer(home, 200) for _ in range(3)]
    for process in running:
        acknowledged(process, 1)
    seen = 0
    while seen < 600:
        now = notes.usage("adapters/town").count
        assert seen <= now <= 600
        seen = now
    for process in running:
        process.communicate("\n")
        assert process.returncode == 0
    assert notes.usage("adapters/town").count == 600
    assert [path.name for path in home.usage.iterdir()] == ["fold.lock"]


@pytest.mark.crash
def test_what_a_killed_process_counted_stays_counted(home: Home, notes: ModelNotes) -> None:
    told, draws = 0, random.Random(7)
    for _ in range(4):
        process = writer(home, 100_000)
        uses = draws.randrange(1, 120)
        acknowledged(process, uses)
        process.kill()
        assert process.stdout is not None and process.stdin is not None
        rest = process.stdout.read()  # not communicate, which forgets what is in the buffer already
        process.wait()
        process.stdout.close()
        process.stdin.close()
        told += uses + rest.count("\n")
    # killed after a line and before it could tell: one more for each at most
    assert told <= notes.usage("adapters/town").count <= told + 4
    assert [path.name for path in home.usage.iterdir()] == ["fold.lock"]


_KILLED = """
import os, sys
from pathlib import Path
from tests.unit.models.killing import killed_before
from tunesmith.kernel import db, files
from tunesmith.kernel.home import Home
from tunesmith.models import notes, usage
from tunesmith.models.model import Model

home = Home(Path(sys.argv[1]))
database = db.Database(f"sqlite:///{home.root / 'tunesmith.db'}")
told = home.root / "told"

def count(model, uses):
    journal = usage.UsageJournal(home.usage, database)
    for step in range(uses):
        journal.used(model)
        with told.open("ab", 0) as file:
            file.write(b".")
        if step % 2:
            journal.fold()
    journal.close()

def check(model, fewest, most):
    journal = usage.UsageJournal(home.usage, database)
    for _ in range(2):
        found = notes.ModelNotes(database, journal).usage(model.name).count
        assert fewest <= found <= most, (model.name, fewest, found, most)
    assert [path.name for path in home.usage.iterdir()] == ["fold.lock"], line
    database.close()  # no fork takes a connection along

line = -1
count(Model("warm"), 2)  # what only the first does is done
check(Model("warm"), 2, 2)
line = 0
traced = {usage.__file__, notes.__file__, db.__file__, files.__file__}
while True:
    told.write_bytes(b"")
    model = Model("small", f"adapters/{line}")
    killed = killed_before(line, traced, lambda: count(model, 2))
    acknowledged = told.stat().st_size
    check(model, acknowledged, acknowledged + killed)
    if not killed:
        break
    line += 1
print(line)
"""


@pytest.mark.crash
def test_killed_between_any_two_lines_each_use_is_counted_exactly_once(home: Home, database: Database) -> None:
    database.close()
    command = [sys.executable, "-c", _KILLED, str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100  # lines were traced at all
