"""The table of kept datasets: an index of the manifests on disk."""

from datetime import datetime

import sqlalchemy as sa

from tunesmith.datasets.dataset import Dataset
from tunesmith.kernel.db import Database, metadata

_table = sa.Table(
    "datasets",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("shape", sa.String, nullable=False),
    sa.Column("examples", sa.Integer, nullable=False),
    sa.Column("skipped", sa.Integer, nullable=False),
    sa.Column("splits", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
)


class DatasetStore:
    """Records of datasets; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, dataset: Dataset) -> None:
        """Record the dataset, in place of an earlier record of that name."""
        values = {
            "name": dataset.name,
            "owner": dataset.owner,
            "shape": dataset.shape,
            "examples": dataset.examples,
            "skipped": dataset.skipped,
            "splits": dict(dataset.splits),
            "created_at": dataset.created_at.isoformat(),
        }
        with self._database.write() as connection:
            connection.execute(sa.delete(_table).where(_table.c.name == dataset.name))
            connection.execute(sa.insert(_table).values(values))

    def get(self, name: str) -> Dataset | None:
        """The dataset of that name, if it is recorded."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.name == name)).mappings().first()
        return _dataset(row) if row else None

    def list(self) -> list[Dataset]:
        """Every dataset, the newest first."""
        query = sa.select(_table).order_by(_table.c.created_at.desc(), _table.c.name)
        with self._database.read() as connection:
            return [_dataset(row) for row in connection.execute(query).mappings()]

    def delete(self, name: str) -> None:
        """Forget the dataset; forgetting twice is fine."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_table).where(_table.c.name == name))


def _dataset(row: sa.RowMapping) -> Dataset:
    return Dataset(
        name=row["name"],
        owner=row["owner"],
        shape=row["shape"],
        examples=row["examples"],
        skipped=row["skipped"],
        splits=row["splits"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )
