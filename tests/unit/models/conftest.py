"""A migrated database, a home folder and a clock that stands still for each test."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home


class Clock:
    """Stands still until told to pass."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def database(home: Home) -> Iterator[Database]:
    database = Database(f"sqlite:///{home.root / 'tunesmith.db'}")
    database.migrate()
    yield database
    database.close()
