"""Versions and aliases from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.models.numbered import put_adapter
from tunesmith.cli import promoting
from tunesmith.evaluation.promotion import Outcome
from tunesmith.kernel.home import Home


@pytest.fixture
def promote(tunesmith: Invoke, home: Path) -> Invoke:
    """Points ``prod`` at an adapter without asking any model."""
    for number in (1, 2):
        put_adapter(Home(home), f"adapters/v{number}", bytes([number]))
    return lambda adapter, *more: tunesmith("models", "promote", adapter, "--alias", "prod", "--force", *more)


def test_versions_say_where_they_lie_and_who_points_at_them(tunesmith: Invoke, promote: Invoke, home: Path) -> None:
    promote("v1")
    tunesmith("models", "versions")
    shutil.rmtree(home / "adapters" / "v2")
    put_adapter(Home(home), "adapters/v2", b"new")
    found = json.loads(tunesmith("models", "versions", "--json").stdout)["versions"]
    assert [(each["version"], each["aliases"], each["there"]) for each in found] == [
        ("v1@1", ["prod"], True),
        ("v2@2", [], True),
        ("v2@1", [], False),
    ]
    only = tunesmith("models", "versions", "v2").stdout
    assert "v2@2" in only and "(gone)" in only and "v1@1" not in only


def test_an_alias_is_moved_rolled_back_and_its_history_shown(tunesmith: Invoke, promote: Invoke) -> None:
    assert "prod → v1@1" in promote("adapters/v1").stdout
    moved = json.loads(promote("v2@1", "--json").stdout)
    assert (moved["moved"], moved["version"], moved["report"]) == (True, "v2@1", None)
    assert "(it did already)" in promote("v2").stdout
    assert json.loads(tunesmith("models", "aliases", "--json").stdout)["aliases"][0]["version"] == "v2@1"
    assert "v2@1 → v1@1" in tunesmith("models", "rollback", "prod").stdout
    moves = json.loads(tunesmith("models", "aliases", "prod", "--json").stdout)["moves"]
    assert [(each["kind"], each["version"], each["by"]) for each in moves] == [
        ("rolled_back", "v1@1", "local"), ("forced", "v2@1", "local"), ("forced", "v1@1", "local"),
    ]  # fmt: skip
    shown = tunesmith("models", "aliases", "prod").stdout
    assert "rolled back" in shown and "forced" in shown
    assert error_of(tunesmith("models", "rollback", "prod", "--json"))["kind"] == "conflict"


def test_a_list_of_models_says_which_version_each_adapter_is_and_who_points_at_it(
    tunesmith: Invoke, promote: Invoke
) -> None:
    promote("v2")
    found = json.loads(tunesmith("models", "list", "--json").stdout)["adapters"]
    assert {each["name"]: (each["adapter_version"], each["aliases"]) for each in found} == {
        "adapters/v1": ("v1@1", []), "adapters/v2": ("v2@1", ["prod"]),
    }  # fmt: skip
    [row] = [line for line in tunesmith("models", "list").stdout.splitlines() if "adapters/v2" in line]
    assert "v2@1" in row and "prod" in row


def test_an_adapter_is_removed_once_no_alias_points_at_it(tunesmith: Invoke, promote: Invoke, home: Path) -> None:
    promote("v1")
    kept = error_of(tunesmith("models", "remove", "v1", "--json"))
    assert kept["kind"] == "conflict" and "models unalias prod" in kept["message"]
    assert json.loads(tunesmith("models", "unalias", "prod", "--json").stdout) == {"removed": "prod", "version": "v1@1"}
    assert error_of(tunesmith("models", "unalias", "prod", "--json"))["kind"] == "not_found"
    assert json.loads(tunesmith("models", "aliases", "--json").stdout) == {"aliases": []}
    assert "removed adapters/v1" in tunesmith("models", "remove", "v1").stdout
    assert not (home / "adapters" / "v1").exists()
    assert error_of(tunesmith("models", "remove", "v1", "--json"))["kind"] == "not_found"
    promote("v2")
    assert "which pointed at v2@1" in tunesmith("models", "unalias", "prod").stdout


def test_an_alias_is_asked_for_like_any_model(tunesmith: Invoke, promote: Invoke) -> None:
    promote("v1")
    asked = ("evaluate", "prod", "data/none.jsonl", "--json")
    assert "data/none.jsonl" in error_of(tunesmith(*asked))["message"], "the alias was found, the data was not"


def test_without_a_test_set_an_alias_moves_only_by_force(tunesmith: Invoke, promote: Invoke) -> None:
    assert promote("v1").exit_code == 0
    assert tunesmith("models", "promote", "v2", "--alias", "prod").exit_code == 2
    for wrong in (["v2", "--alias", "No"], ["none", "--alias", "prod"]):
        assert error_of(tunesmith("models", "promote", *wrong, "--force", "--json"))["kind"] in ("invalid", "not_found")
    assert error_of(tunesmith("models", "rollback", "other", "--json"))["kind"] == "not_found"


def test_a_refusal_is_a_table_that_names_what_became_worse_and_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe gets the table as wide as it needs to be
    monkeypatch.setenv("TUNESMITH_LANG", "en")

    def figure(value: float, **more: Any) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, **more}

    result = {
        "metrics": {"exact_match": figure(0.5), "perplexity": figure(2.0)},
        "base": {"exact_match": figure(0.9), "perplexity": figure(2.1)},
        "difference": {
            "exact_match": figure(-0.4, p=0.002, significant=True), "perplexity": figure(-0.1, p=0.5, significant=False),
        },
        "count": 40,
    }  # fmt: skip
    worse = [{"role": "control", "dataset": "old/test", "metric": "exact_match"}]
    sets = [{"role": "control", "dataset": "old/test", "evaluations": {}, "result": result}]
    report = {"before": "town@1", "after": "town@2", "sets": sets, "worse": worse}
    for as_json in (False, True):
        with pytest.raises(promoting.typer.Exit) as ended:
            promoting._show_outcome(Outcome(False, None, report), "prod", as_json=as_json)
        assert ended.value.exit_code == 1
        said = capsys.readouterr()
        if as_json:
            assert json.loads(said.out) == {"alias": "prod", "moved": False, "version": None, "report": report}
            continue
        [row] = [line for line in said.out.splitlines() if "exact_match" in line]
        assert "-0.400 [-0.500, -0.300]" in row and row.rstrip().endswith("worse")
        assert "worse" not in next(line for line in said.out.splitlines() if "perplexity" in line)
        assert "prod was not moved and still points at town@1" in said.err and "--force" in said.err
