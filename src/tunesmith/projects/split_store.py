"""Frozen splits in the database."""

from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database
from tunesmith.projects.project import DatasetSplit
from tunesmith.projects.rows import free_ids, split_of, split_row
from tunesmith.projects.tables import dataset_splits as table


@dataclass(frozen=True, slots=True)
class SplitStore:
    """Blocking; share between threads and processes."""

    database: Database

    def add(self, split: DatasetSplit) -> DatasetSplit | None:
        """Record it under an id of its own; None where its task has gone meanwhile."""
        try:
            with self.database.write() as connection:
                split = replace(split, id=free_ids(connection, table, [split.id])[0])
                connection.execute(sa.insert(table).values(split_row(split)))
                return split
        except IntegrityError:
            return None

    def splits(self, task_id: str) -> list[DatasetSplit]:
        """Those of the task, the oldest first."""
        query = sa.select(table).where(table.c.task_id == task_id).order_by(table.c.created_at, table.c.id)
        with self.database.read() as connection:
            return [split_of(row) for row in connection.execute(query).mappings()]

    def split(self, task_id: str, id: str) -> DatasetSplit | None:
        """The split of the task with that id."""
        query = sa.select(table).where(table.c.task_id == task_id, table.c.id == id)
        with self.database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else split_of(row)
