"""The table of kept datasets: an index of the manifests on disk."""

from datetime import datetime

import sqlalchemy as sa

from tunesmith.datasets.dataset import Dataset
from tunesmith.kernel.db import Database, metadata

_table = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("shape", sa.String, nullable=False),
    sa.Column("examples", sa.Integer, nullable=False),
    sa.Column("skipped", sa.Integer, nullable=False),
    sa.Column("splits", sa.JSON, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
)


class DatasetStore:
    """Records of datasets; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, dataset: Dataset) -> None:
        """Record the dataset, in place of an earlier record of that name or id."""
        values = {
            "id": dataset.id,
            "name": dataset.name,
            "owner": dataset.owner,
            "shape": dataset.shape,
            "examples": dataset.examples,
            "skipped": dataset.skipped,
            "splits": dict(dataset.splits),
            "size_bytes": dataset.size_bytes,
            "description": dataset.description,
            "created_at": dataset.created_at.isoformat(),
        }
        with self._database.write() as connection:
            connection.execute(
                sa.delete(_table).where(sa.or_(_table.c.name == dataset.name, _table.c.id == dataset.id))
            )
            connection.execute(sa.insert(_table).values(values))

    def get(self, name: str) -> Dataset | None:
        """The dataset of that name, if it is recorded."""
        return self._first(_table.c.name == name)

    def with_id(self, id: str) -> Dataset | None:
        """The dataset with that id, if it is recorded."""
        return self._first(_table.c.id == id)

    def list(self, owner: str | None = None) -> list[Dataset]:
        """Every dataset of ``owner`` (None: of all), the newest first."""
        query = sa.select(_table).order_by(_table.c.created_at.desc(), _table.c.name)
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        with self._database.read() as connection:
            return [_dataset(row) for row in connection.execute(query).mappings()]

    def delete(self, name: str) -> None:
        """Forget the dataset; forgetting twice is fine."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_table).where(_table.c.name == name))

    def _first(self, condition: sa.ColumnElement[bool]) -> Dataset | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(condition)).mappings().first()
        return _dataset(row) if row else None


def _dataset(row: sa.RowMapping) -> Dataset:
    return Dataset(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        shape=row["shape"],
        examples=row["examples"],
        skipped=row["skipped"],
        splits=row["splits"],
        size_bytes=row["size_bytes"],
        description=row["description"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )
