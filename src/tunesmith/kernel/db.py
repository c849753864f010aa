"""The SQL database: SQLite under home by default, PostgreSQL by URL; SQLAlchemy Core, synchronous.

Tables are declared beside the store that owns them, on ``metadata`` here. On SQLite writers take the write lock at once
(``BEGIN IMMEDIATE``), so two processes never deadlock by upgrading; readers never wait for writers (WAL). On PostgreSQL
writers run under READ COMMITTED: what two of them must not do at once names itself (``write(alone=...)``).
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from tunesmith.kernel.problems import Unavailable

metadata = sa.MetaData()
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_WAIT = 10  # seconds
# a connection into nowhere is given up after some seconds: whoever waits for it holds leases meanwhile
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": f"-c lock_timeout={_LOCK_WAIT}s",
}


class Database:
    """Connections for reading and writing. Open once per process, share between threads.

    Raises:
        Unavailable: the URL is PostgreSQL's, whose driver is not installed.
    """

    def __init__(self, url: str) -> None:
        asked = sa.make_url(url)
        if asked.drivername in ("postgres", "postgresql"):
            asked = asked.set(drivername="postgresql+psycopg")
        self.sqlite = asked.get_backend_name() == "sqlite"
        patience = {} if self.sqlite else {name: at for name, at in _PATIENCE.items() if name not in asked.query}
        try:
            self._engine = sa.create_engine(asked, pool_pre_ping=not self.sqlite, connect_args=patience)
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"缺少数据库驱动 {error.name}：pip install 'tunesmith[postgres]'",
                f"the database driver {error.name} is not installed: pip install 'tunesmith[postgres]'",
            ) from error
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
            try:
                yield connection
            except BaseException:
                self._give_up(connection)
                raise

    @contextmanager
    def write(self, alone: str | None = None) -> Iterator[sa.Connection]:
        """A transaction, committed at the end, undone by an exception.

        Args:
            alone: no other that names the same is in its transaction meanwhile; SQLite has one writer at a time anyway.
        """
        with self._engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                if alone is not None and not self.sqlite:
                    key = zlib.crc32(alone.encode())
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
                yield connection
            except BaseException:
                connection.rollback()
                self._give_up(connection)
                raise
            connection.commit()

    def _give_up(self, connection: sa.Connection) -> None:
        """Rows that nobody reads to the end keep what SQLite saw, for whoever has the connection next: it is not kept."""
        if self.sqlite:
            connection.invalidate()

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
        with self.write(alone="migrations") as connection:
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
