"""The table of uploads."""

from collections.abc import Callable, Iterable
from datetime import datetime

import sqlalchemy as sa

from tunesmith.datasets.upload import Upload
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Conflict

_table = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("path", sa.String, nullable=False, unique=True),
    sa.Column("format", sa.String, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.UniqueConstraint("owner", "name", name="uploads_name"),
)
_TRIES = 20  # of writers that chose one path at the same moment


class UploadStore:
    """Records of uploads; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, choices: Callable[[], Iterable[Upload]]) -> Upload:
        """Record the first of ``choices()`` whose path nobody has, whatever its case; they differ in their path alone.

        Raises:
            Conflict: the owner has an upload of that name.
        """
        for _ in range(_TRIES):
            for upload in choices():
                try:
                    if self._inserted(upload):
                        return upload
                except sa.exc.IntegrityError:  # somebody was faster, with the path or with the name
                    break
        raise Conflict("上传过于频繁，请重试", "too many uploads of that file at once; ask again", field="file")

    def require_new_name(self, owner: str, name: str) -> None:
        """Refuse a name early.

        Raises:
            Conflict: the owner has an upload of that name.
        """
        with self._database.read() as connection:
            if self._named(connection, owner, name) is not None:
                raise _taken(name)

    def with_id(self, id: str) -> Upload | None:
        """The upload with that id."""
        return self._first(_table.c.id == id)

    def at(self, path: str) -> Upload | None:
        """The upload whose file has that name under home, whatever its case."""
        with self._database.read() as connection:
            id = _id_at(connection, path)
        return self.with_id(id) if id else None

    def named(self, name: str, owner: str | None) -> Upload | None:
        """The newest upload of that name, of ``owner`` or (None) of anybody."""
        return next((upload for upload in self.list(owner) if upload.name == name), None)

    def list(self, owner: str | None = None) -> list[Upload]:
        """Every upload of ``owner`` (None: of all), the newest first."""
        query = sa.select(_table).order_by(_table.c.created_at.desc(), _table.c.id)
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        with self._database.read() as connection:
            return [_upload(row) for row in connection.execute(query).mappings()]

    def delete(self, id: str) -> None:
        """Forget the upload; forgetting twice is fine."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_table).where(_table.c.id == id))

    def _inserted(self, upload: Upload) -> bool:
        with self._database.write() as connection:
            if self._named(connection, upload.owner, upload.name) is not None:
                raise _taken(upload.name)
            if _id_at(connection, upload.path) is not None:
                return False
            connection.execute(sa.insert(_table).values(_values(upload)))
            return True

    def _named(self, connection: sa.Connection, owner: str, name: str) -> str | None:
        query = sa.select(_table.c.id).where(_table.c.owner == owner, _table.c.name == name)
        found: str | None = connection.execute(query).scalar()
        return found

    def _first(self, condition: sa.ColumnElement[bool]) -> Upload | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(condition)).mappings().first()
        return _upload(row) if row else None


def _id_at(connection: sa.Connection, path: str) -> str | None:
    """The upload at ``path``, whatever its case; compared here, as SQLite knows the case of ASCII alone."""
    wanted = path.casefold()
    rows = connection.execute(sa.select(_table.c.id, _table.c.path))
    return next((id for id, other in rows if other.casefold() == wanted), None)


def _values(upload: Upload) -> dict[str, object]:
    return {
        "id": upload.id,
        "name": upload.name,
        "owner": upload.owner,
        "path": upload.path,
        "format": upload.format,
        "samples": upload.samples,
        "size_bytes": upload.size_bytes,
        "description": upload.description,
        "created_at": upload.created_at.isoformat(),
    }


def _upload(row: sa.RowMapping) -> Upload:
    return Upload(**{**row, "created_at": datetime.fromisoformat(row["created_at"])})


def _taken(name: str) -> Conflict:
    return Conflict(f"您已有名为 {name} 的数据集", f"you already have a dataset called {name}", field="name", name=name)
