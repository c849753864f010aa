"""A migrated database and a home folder for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def database(home: Home) -> Iterator[Database]:
    database = Database(f"sqlite:///{home.root / 'tunesmith.db'}")
    database.migrate()
    yield database
    database.close()
