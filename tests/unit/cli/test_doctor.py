"""What doctor says of a machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke


def checks(output: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(output)["checks"]}


def test_json_names_every_finding_with_its_level(tunesmith: Invoke) -> None:
    result = tunesmith("doctor", "--json")
    found = checks(result.stdout)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    assert {"python", "tunesmith", "torch", "transformers", "peft", "cpu", "memory", "disk", "gpu"} <= set(found)
    assert {"home", "database", "tunesmith-small", "[postgres]", "[quantization]"} <= set(found)
    assert {check["level"] for check in found.values()} <= {"ok", "info", "warning"}


def test_it_looks_without_making_the_home_folder(tunesmith: Invoke, home: Path) -> None:
    tunesmith("doctor", "--json")
    assert not home.exists()


def test_a_home_folder_that_cannot_be_made_is_an_error_and_exit_1(tunesmith: Invoke, home: Path) -> None:
    home.write_text("a file where the folder should be")
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert checks(result.stdout)["home"]["level"] == "error"


def test_a_broken_database_is_an_error(tunesmith: Invoke, home: Path) -> None:
    home.mkdir()
    (home / "tunesmith.db").write_bytes(b"not a database" * 100)
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert checks(result.stdout)["database"]["level"] == "error"


def test_secrets_in_settings_are_never_shown(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://someone:hunter2@localhost:1/x")
    result = tunesmith("doctor", "--json")
    assert "hunter2" not in result.output


def test_a_setting_that_cannot_be_read_is_named(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_MAX_ROWS", "many")
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert "TUNESMITH_MAX_ROWS" in checks(result.stdout)["settings"]["advice"]


def test_without_json_a_person_can_read_it(tunesmith: Invoke) -> None:
    result = tunesmith("doctor")
    assert result.exit_code == 0
    assert "everything is in order" in result.stdout or "warnings" in result.stdout
