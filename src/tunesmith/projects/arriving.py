"""What comes from elsewhere is recorded in one transaction: all of it, or nothing."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.clock import Clock
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Unavailable
from tunesmith.projects import tables
from tunesmith.projects.checks import is_id, shown
from tunesmith.projects.importing import check_shares, checked_rows, dealt_tags
from tunesmith.projects.kiln import Found, read_folder, spooled
from tunesmith.projects.project import DatasetSplit, Imported, Project, Task, TaskRun
from tunesmith.projects.rows import free_ids, project_row, split_row, task_row
from tunesmith.projects.run_store import insert_spooled, spool_rows

_LONGEST_NAME = 1024
_TRIES = 3  # somebody may take an id between the look whether it is free and the writing


@dataclass(frozen=True, slots=True)
class Arriving:
    """Blocking; share between threads."""

    database: Database
    clock: Clock

    def file(self, task: Task, file: BinaryIO, filename: str, shares: Mapping[str, float] | None) -> Imported | None:
        """Add a run to the task for every row; None where the task has gone meanwhile.

        Raises:
            Invalid: as ``importing.checked_rows`` and ``importing.check_shares``.
        """
        asked = check_shares(shares)
        with checked_rows(file, filename, task) as found, tempfile.TemporaryFile() as rows:
            for _ in range(_TRIES):
                with self.database.read() as connection:
                    ids = free_ids(connection, tables.task_runs, [None] * found.count)
                spool_rows(found.runs(task, self.clock(), dealt_tags(asked, found.count)), ids, rows)
                try:
                    with self.database.write() as connection:
                        insert_spooled(connection, rows)
                except IntegrityError:
                    continue
                return Imported(shown(filename, _LONGEST_NAME), found.count, found.conversations or None)
        return None

    def kiln(self, folder: Path, owner: str) -> Project:
        """Add the project of a folder of Kiln's; ids are kept where nobody has them.

        Raises:
            NotFound, Forbidden, Invalid: as ``kiln.read_folder``. Unavailable: others import the same all the time.
        """
        with tempfile.TemporaryFile() as spool, tempfile.TemporaryFile() as rows:
            project, found = read_folder(folder, owner, spool)
            for _ in range(_TRIES):
                with self.database.read() as connection:
                    renamed = _Renamed.free(connection, project, found)
                spool_rows(renamed.runs(spool), chain.from_iterable(renamed.run_ids), rows)
                try:
                    with self.database.write() as connection:
                        _insert(connection, renamed, rows)
                except IntegrityError:
                    continue
                return renamed.project
        raise Unavailable("导入过于频繁，请重试", "the same is being imported by somebody else; ask again")


def _insert(connection: sa.Connection, renamed: "_Renamed", rows: IO[bytes]) -> None:
    connection.execute(sa.insert(tables.projects).values(project_row(renamed.project)))
    for task in renamed.tasks:
        connection.execute(sa.insert(tables.tasks).values(task_row(task)))
    insert_spooled(connection, rows)
    for split in renamed.splits:
        connection.execute(sa.insert(tables.dataset_splits).values(split_row(split)))


@dataclass(frozen=True, slots=True)
class _Renamed:
    """What a folder holds, under ids that were free a moment ago; ``run_ids`` has those of each task's runs."""

    project: Project
    tasks: Sequence[Task]
    splits: Sequence[DatasetSplit]
    run_ids: Sequence[Sequence[str]]
    by_old: Sequence[Mapping[str, str]]

    @staticmethod
    def free(connection: sa.Connection, project: Project, found: Sequence[Found]) -> "_Renamed":
        project = replace(project, id=free_ids(connection, tables.projects, [project.id])[0])
        task_ids = free_ids(connection, tables.tasks, [each.task.id for each in found])
        run_ids = iter(free_ids(connection, tables.task_runs, [id for each in found for id in each.runs]))
        split_ids = iter(
            free_ids(connection, tables.dataset_splits, [split.id for each in found for split in each.splits])
        )
        by_task = [[next(run_ids) for _ in each.runs] for each in found]
        by_old = [dict(zip(each.runs, ids, strict=True)) for each, ids in zip(found, by_task, strict=True)]
        tasks, splits = [], []
        for each, task_id, known in zip(found, task_ids, by_old, strict=True):
            tasks.append(replace(each.task, id=task_id, project_id=project.id))
            for split in each.splits:
                contents = {part: _known(ids, known) for part, ids in split.contents.items()}
                splits.append(replace(split, id=next(split_ids), task_id=task_id, contents=contents))
        return _Renamed(project, tasks, splits, by_task, by_old)

    def runs(self, spool: IO[bytes]) -> Iterator[TaskRun]:
        """The runs of all tasks, with their task and parent renamed, not themselves."""
        read = spooled(spool)
        for task, ids, known in zip(self.tasks, self.run_ids, self.by_old, strict=True):
            for _ in ids:
                run = next(read)
                parent = known.get(run.parent_id) if run.parent_id else None
                yield replace(run, task_id=task.id, parent_id=parent)


def _known(ids: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """What Kiln's split has lost is lost here too, and is told when it is needed."""
    return tuple(known.get(id, id) for id in ids if id in known or is_id(id))
