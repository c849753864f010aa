"""What the kernel and the stores rely on, on every database: one writer at a time where it matters, one migrator."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from tests.postgres import Postgres
from tunesmith.accounts.store import AccountStore
from tunesmith.accounts.user import User
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, Unavailable


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def user(name: str) -> User:
    return User(name=name, role="admin", disabled=False, created_at=datetime(2026, 1, 2, tzinfo=UTC))


def at_once(works: list[Callable[[], None]]) -> int:
    """How many of these succeed; the others are refused."""

    def tried(work: Callable[[], None]) -> bool:
        try:
            work()
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(len(works)) as pool:
        return sum(pool.map(tried, works))


def test_names_alike_added_at_once_leave_one_and_admins_disabled_at_once_leave_one(database: Database) -> None:
    store = AccountStore(database)
    for turn in range(5):
        assert at_once([lambda name=f"{case}{turn}": store.add(user(name), "x") for case in ("Ann", "ann")]) == 1  # type: ignore[misc]
    found = [f"ann{turn}" if store.find(f"ann{turn}") else f"Ann{turn}" for turn in range(5)]
    assert at_once([lambda name=name: store.disable(name) for name in found]) == 4  # type: ignore[misc]


def test_who_must_be_alone_reads_what_the_one_before_has_written(database: Database) -> None:
    count = sa.text("SELECT count(*) FROM served_models")

    def add(_: int) -> None:
        with database.write(alone="counting") as connection:
            seen = connection.execute(count).scalar_one()
            insert = sa.text("INSERT INTO served_models VALUES (:name, 'b', NULL, false, 't')")
            connection.execute(insert, {"name": f"{seen:03}"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(40)))
    with database.read() as connection:
        names = connection.execute(sa.text("SELECT name FROM served_models ORDER BY name")).scalars().all()
    assert names == [f"{n:03}" for n in range(40)]


_MIGRATOR = """
import sys
from tunesmith.kernel.db import Database
print("ready", flush=True)
sys.stdin.readline()
database = Database(sys.argv[1])
database.migrate()
with database.read() as connection:
    print(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar())
"""


@pytest.mark.postgres
def test_processes_that_migrate_an_empty_postgres_at_once_all_succeed(postgres: Postgres) -> None:
    command, pipe = [sys.executable, "-c", _MIGRATOR, postgres.new()], subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in started] == ["1\n"] * 2


def test_a_database_whose_driver_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Unavailable, match=r"pip install 'tunesmith\[postgres\]'"):
        Database("postgresql://somebody@nowhere/x")
