"""Properties are checked without a stopwatch: a busy machine is no reason to fail."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from tunesmith.datasets.worker.__main__ import perform
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


class Here:
    """A worker that does its tasks in this process: what a child does, without the start of one."""

    async def perform(self, task: Any, answer: type[Any], on_progress: Any = None) -> Any:
        found = await asyncio.to_thread(perform, task, on_progress or (lambda _: None))
        return msgspec.json.decode(msgspec.json.encode(found), type=answer)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def database(home: Home) -> Iterator[Database]:
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    database.migrate()
    yield database
    database.close()
