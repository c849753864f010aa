"""A private PostgreSQL for tests: a cluster of its own in a temporary folder, reached through a socket there."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_USER = "postgres"
# a test's cluster need not outlive the power
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=100")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running cluster; nothing outside this machine reaches it."""

    folder: Path

    def url(self, name: str) -> str:
        """Of the database of that name."""
        return f"postgresql+psycopg://{_USER}@/{name}?host={self.folder}"

    def new(self, template: str = "template0") -> str:
        """The URL of a database made now, as ``template`` is."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def run(self, statement: str) -> None:
        """Outside of every transaction."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user=_USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a cluster, and end it and everything in it afterwards."""
    # short, and open to the user that the cluster runs as: the folders of pytest are neither
    with tempfile.TemporaryDirectory(prefix="pg-") as made:
        folder = Path(made)
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        data = folder / "data"
        _asked(["initdb", "--no-sync", "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C", "-D", str(data)], folder)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        for option in _FAST:
            options += ["-c", option]
        log = folder / "log"
        start = ["pg_ctl", "-D", str(data), "-l", str(log), "-w", "-t", "60", "-o", " ".join(options), "start"]
        try:
            _asked(start, folder)
            yield Postgres(folder)
        finally:
            _asked(["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"], folder)


def _asked(command: Sequence[str], folder: Path) -> None:
    """Run a program of PostgreSQL's, as somebody who is not root: it refuses root."""
    first = [_program(command[0]), *command[1:]]
    if os.geteuid() == 0:
        first = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", *first]
    # a file, no pipe: the server it leaves behind would hold a pipe open
    with (folder / "said").open("a+") as said:
        done = subprocess.run(first, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder, timeout=90)
        said.seek(0)
        assert done.returncode == 0, said.read()


def _program(name: str) -> str:
    """Debian keeps them in a folder of their own, one a version."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(newest[-1]) if newest else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for all tests of this process that want one."""
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """Name of a database with all tables and no rows, to make others from."""
    from tunesmith.kernel.db import Database

    postgres.run("CREATE DATABASE migrated TEMPLATE template0")
    database = Database(postgres.url("migrated"))
    database.migrate()
    database.close()
    return "migrated"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database with all tables; the test runs once for each kind of database."""
    if request.param == "sqlite":
        from tunesmith.kernel.db import Database

        url = f"sqlite:///{tmp_path}/every.db"
        database = Database(url)
        database.migrate()
        database.close()
        return url
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.new(request.getfixturevalue("postgres_template"))
