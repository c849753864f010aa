"""The SQL database: SQLite under home by default, PostgreSQL by URL; SQLAlchemy Core, synchronous.

Tables are declared beside the store that owns them, on ``metadata`` here. Writers take the write lock at once
(``BEGIN IMMEDIATE``), so two processes never deadlock by upgrading; readers never wait for writers (WAL).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

metadata = sa.MetaData()
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_WAIT = 10  # seconds


class Database:
    """Connections for reading and writing. Open once per process, share between threads."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self.sqlite = self._engine.dialect.name == "sqlite"
        if self.sqlite:
            sa.event.listen(self._engine, "connect", _pragmas)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing done in it is kept."""
        with self._engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN")  # or each SELECT would see what was committed before it
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end, undone by an exception."""
        with self._engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def migrate(self) -> None:
        """Bring the schema to the newest revision; safe from several processes at once."""
        if self.sqlite:
            self._use_wal()
        if self._revision() == _newest_revision():
            return
        from alembic import command  # 0.3 s to import: only a start that migrates pays
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.write() as connection:
            if not self.sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7410267)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _use_wal(self) -> None:
        """Kept by the file, so once is enough. SQLite answers "locked" here without asking busy_timeout."""
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
            except sa.exc.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return revision

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _newest_revision() -> str:
    """Revisions are files named by number: the last name is the head."""
    return max(file.name[:4] for file in _MIGRATIONS.joinpath("versions").glob("[0-9]*.py"))


def _pragmas(connection: object, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in (f"busy_timeout={_LOCK_WAIT * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
