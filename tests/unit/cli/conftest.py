"""A runner for verbs that speaks English, on a home folder of its own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.upstreams.together_api import TogetherApi, together_api
from tunesmith.kernel.db import Database

Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the home folder of a test lies; not made yet."""
    return tmp_path / "home"


@pytest.fixture
def tunesmith(home: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a verb in this process with ``--home`` added; gives its exit code, stdout and stderr."""
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    monkeypatch.setenv("HF_HOME", str(home.parent / "hf"))
    for name in ("TUNESMITH_HOME", "TUNESMITH_DATABASE_URL", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, stdin: str = "") -> Result:
        from tunesmith.cli.commands import app

        return CliRunner().invoke(app, [*arguments, "--home", str(home)], input=stdin)

    return invoke


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database that is up to date; making one takes longer than most verbs."""
    file = tmp_path_factory.mktemp("empty") / "tunesmith.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file.read_bytes()


@pytest.fixture
def ready(home: Path, empty: bytes) -> Path:
    """The home folder, made, with nothing in it."""
    home.mkdir(mode=0o700)
    (home / "tunesmith.db").write_bytes(empty)
    return home


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Iterator[TogetherApi]:
    """A stand-in of Together that is configured, and of nobody else."""
    for name in ("TOGETHER_API_KEY", "FIREWORKS_API_KEY", "FIREWORKS_BASE_URL", "FIREWORKS_ACCOUNT_ID"):
        monkeypatch.delenv(name, raising=False)
    with together_api() as api:
        monkeypatch.setenv("TOGETHER_BASE_URL", api.v1)
        monkeypatch.setenv("TOGETHER_API_KEY", api.key)
        yield api


def error_of(result: Result) -> dict[str, Any]:
    """The error object of a failed verb with --json, which must be all there is on standard output."""
    assert result.exit_code == 1, result.output
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    assert set(error) == {"kind", "message", "details"}
    return error
