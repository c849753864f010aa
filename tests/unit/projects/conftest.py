"""A task to work with, in a real database of its own."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.projects.project import TaskRun
from tunesmith.projects.service import ProjectService

AMY, BOB = Caller("amy"), Caller("bob")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database with all tables and no rows."""
    path = tmp_path_factory.mktemp("migrated") / "tunesmith.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield opened
    opened.close()


def ticking() -> Callable[[], datetime]:
    """A clock that goes on a second each time it is read."""
    seconds = count()
    return lambda: datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=next(seconds))


@pytest.fixture
def service(database: Database) -> ProjectService:
    return ProjectService(database, ticking())


@dataclass(frozen=True, slots=True)
class Desk:
    """A task of Amy's, and what she does with it."""

    service: ProjectService
    project: str
    task: str

    @property
    def at(self) -> tuple[str, str]:
        return self.project, self.task

    def add(self, input: str = "question", output: str = "answer", **fields: Any) -> TaskRun:
        return self.service.add_run(*self.at, {"input": input, "output": output, **fields}, AMY)

    def passing(self, filter: str) -> list[str]:
        return [run.input for run in self.service.runs(*self.at, AMY, filter=filter)]


@pytest.fixture
def desk(service: ProjectService) -> Desk:
    project = service.create_project("shop", None, AMY)
    task = service.create_task(project.id, {"name": "answers", "instruction": "You help."}, AMY)
    return Desk(service, project.id, task.id)
