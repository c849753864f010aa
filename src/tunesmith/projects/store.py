"""Projects and tasks in the database. What is recorded is whole: a task has its project as long as it is there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database
from tunesmith.projects import tables
from tunesmith.projects.project import Project, Task
from tunesmith.projects.rows import changed_row, free_ids, project_of, project_row, task_of, task_row


class ProjectStore:
    """Blocking; share between threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_project(self, project: Project) -> Project:
        """Record it; its id is kept where it is one that nobody has."""
        with self._database.write() as connection:
            project = replace(project, id=free_ids(connection, tables.projects, [project.id])[0])
            connection.execute(sa.insert(tables.projects).values(project_row(project)))
            return project

    def projects(self, owner: str | None) -> list[Project]:
        """Those of ``owner`` (None: of all), the newest first."""
        query = sa.select(tables.projects).order_by(tables.projects.c.created_at.desc(), tables.projects.c.id)
        if owner is not None:
            query = query.where(tables.projects.c.owner == owner)
        with self._database.read() as connection:
            return [project_of(row) for row in connection.execute(query).mappings()]

    def project(self, id: str) -> Project | None:
        """The project with that id."""
        query = sa.select(tables.projects).where(tables.projects.c.id == id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else project_of(row)

    def add_task(self, task: Task) -> Task | None:
        """Record it; None where its project has gone meanwhile."""
        try:
            with self._database.write() as connection:
                task = replace(task, id=free_ids(connection, tables.tasks, [task.id])[0])
                connection.execute(sa.insert(tables.tasks).values(task_row(task)))
                return task
        except IntegrityError:
            return None

    def tasks(self, project_id: str) -> list[Task]:
        """Those of the project, the oldest first."""
        query = sa.select(tables.tasks).where(tables.tasks.c.project_id == project_id)
        query = query.order_by(tables.tasks.c.created_at, tables.tasks.c.id)
        with self._database.read() as connection:
            return [task_of(row) for row in connection.execute(query).mappings()]

    def task(self, project_id: str, id: str) -> Task | None:
        """The task of the project with that id."""
        query = sa.select(tables.tasks).where(tables.tasks.c.id == id, tables.tasks.c.project_id == project_id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else task_of(row)

    def change(self, table: sa.Table, id: str, values: Mapping[str, Any]) -> None:
        """Set some attributes; what has gone meanwhile is nobody's any more."""
        if values:
            with self._database.write() as connection:
                connection.execute(sa.update(table).where(table.c.id == id).values(changed_row(values)))

    def delete(self, table: sa.Table, id: str) -> None:
        """Remove a row and all that is in it, at once or not at all; removing twice is fine."""
        with self._database.write() as connection:
            connection.execute(sa.delete(table).where(table.c.id == id))
