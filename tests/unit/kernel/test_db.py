"""The database: durable, one writer at a time, readers never in the way."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from tunesmith.kernel.db import Database

ADD = sa.text("INSERT INTO served_models VALUES (:name, 'b', NULL, false, 't')")
COUNT = sa.text("SELECT count(*) FROM served_models")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tunesmith.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    database.migrate()
    yield database
    database.close()


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(COUNT).scalar_one())


def test_what_is_written_is_there_for_other_connections_and_after_closing(database: Database, url: str) -> None:
    with database.write() as connection:
        connection.execute(ADD, {"name": "a"})
    assert count(database) == 1
    database.close()
    other = Database(url)
    assert count(other) == 1
    other.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_undoes_the_whole_transaction_and_the_next_works(
    database: Database, error: type[BaseException]
) -> None:
    with pytest.raises(error), database.write() as connection:
        connection.execute(ADD, {"name": "a"})
        connection.execute(ADD, {"name": "b"})
        raise error
    assert count(database) == 0
    with database.write() as connection:
        connection.execute(ADD, {"name": "a"})
    assert count(database) == 1


def test_what_is_done_while_reading_is_not_kept(database: Database) -> None:
    with database.read() as connection:
        connection.execute(ADD, {"name": "a"})
    assert count(database) == 0


@pytest.mark.parametrize("within", ["read", "write"])
def test_who_fails_among_rows_leaves_nothing_behind(database: Database, url: str, within: str) -> None:
    with database.write() as connection:
        connection.execute(ADD, [{"name": str(number)} for number in range(2000)])

    def refuse(row: object) -> None:
        raise ValueError(row)

    def fail() -> None:
        with getattr(database, within)() as connection:
            [refuse(row) for row in connection.execute(sa.text("SELECT * FROM served_models")).mappings()]

    with pytest.raises(ValueError) as kept:  # what keeps the exception keeps the rows that were not read
        fail()
    other = Database(url)
    with other.write() as connection:
        connection.execute(ADD, {"name": "another's"})
    other.close()
    assert count(database) == 2001
    with database.write() as connection:
        connection.execute(ADD, {"name": "ours"})
    assert count(database) == 2002 and kept.value


def test_every_connection_is_durable_and_checks_foreign_keys(database: Database) -> None:
    wanted = {"busy_timeout": 10000, "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    for opened in (database.read, database.write, database.read):
        with opened() as connection:
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
        assert found == wanted


def test_readers_do_not_wait_for_a_writer_and_see_nothing_half_done(database: Database) -> None:
    with database.write() as writer:
        writer.execute(ADD, {"name": "a"})
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(count, database).result(timeout=5) == 0
    assert count(database) == 1


def test_writers_read_then_write_without_losing_one_another(database: Database) -> None:
    def increase(number: int) -> None:
        for turn in range(10):
            with database.write() as connection:
                seen = connection.execute(COUNT).scalar_one()
                connection.execute(ADD, {"name": f"{seen:06}"})
                assert connection.execute(COUNT).scalar_one() == seen + 1, (number, turn)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increase, range(4)))
    with database.read() as connection:
        names = connection.execute(sa.text("SELECT name FROM served_models ORDER BY name")).scalars().all()
    assert names == [f"{n:06}" for n in range(40)]


def test_constraints_carry_the_truth(database: Database) -> None:
    for _ in range(2):
        with database.write() as connection:
            connection.execute(ADD, {"name": "a"})
        break
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(ADD, {"name": "a"})
    run = (
        "INSERT INTO runs (id, owner, state, executor, output, recipe, progress, cancel_requested, created_at, version)"
        " VALUES ('{id}', 'o', '{state}', 'local', '{output}', '{{}}', '{{}}', 0, 't', 0)"
    )
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.exec_driver_sql(run.format(id="r", state="resting", output="x"))
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.exec_driver_sql(run.format(id="r", state="failed", output="x"))  # failed without saying why
    with database.write() as connection:
        connection.exec_driver_sql(run.format(id="r1", state="running", output="x"))
        connection.exec_driver_sql(run.format(id="r2", state="completed", output="x"))
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.exec_driver_sql(run.format(id="r3", state="queued", output="x"))  # two live runs, one output


def test_migrating_twice_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(ADD, {"name": "a"})
    database.migrate()
    assert count(database) == 1


def test_migrating_waits_for_another_process_that_writes_a_database_not_yet_in_wal(url: str) -> None:
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # here SQLite refuses WAL at once, whatever busy_timeout says
    released = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    released.start()
    database = Database(url)
    database.migrate()
    released.join()
    assert count(database) == 0
    database.close()
    other.close()


MIGRATOR = """
import sys
from tunesmith.kernel.db import Database
sys.stdin.readline()
database = Database(sys.argv[1])
database.migrate()
with database.read() as connection:
    print(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar())
"""


def test_processes_that_migrate_at_once_all_succeed(url: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATOR, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in started] == ["1\n"] * 3


WRITER = """
import sys
import sqlalchemy as sa
from tunesmith.kernel.db import Database
database = Database(sys.argv[1])
for number in range(1000000):
    with database.write() as connection:
        for half in "ab":
            connection.execute(sa.text("INSERT INTO served_models VALUES (:n, 'b', NULL, false, 't')"), {"n": f"{number}{half}"})
    print(number, flush=True)
"""


@pytest.mark.crash
def test_after_kill_9_every_finished_transaction_is_there_and_no_half_one(database: Database, url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(0.1)
        os.kill(writer.pid, signal.SIGKILL)
        told = len((first + writer.stdout.read()).splitlines())
    assert count(database) in (2 * told, 2 * told + 2)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
