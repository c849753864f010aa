"""A runner for verbs that speaks English, on a home folder of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

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


def error_of(result: Result) -> dict[str, Any]:
    """The error object of a failed verb with --json, which must be all there is on standard output."""
    assert result.exit_code == 1, result.output
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    assert set(error) == {"kind", "message", "details"}
    return error
