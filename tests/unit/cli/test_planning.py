"""What ``train --dry-run`` and ``runs show`` say of a plan. No rehearsal is made here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.cli.test_data import write_rows
from tests.unit.training.plan.test_plan import drawn
from tunesmith.cli.planning import judged
from tunesmith.cli.session import opened
from tunesmith.kernel.files import write_json
from tunesmith.training.plan import accuracy
from tunesmith.training.plan.accuracy import Foretold, Held
from tunesmith.training.plan.planning import Planner
from tunesmith.training.run import Recipe

HELD = Held(Foretold("rehearsal", 100.0, 2_000_000_000), 80.0, 1_900_000_000, 0.25, 0.0526)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Plans are drawn of what was measured elsewhere, for a machine with 7 GB; the recipes they were asked for."""
    recipes: list[Recipe] = []

    async def rehearsed(self: Planner, recipe: Recipe, measure: bool) -> object:
        recipes.append(recipe)
        return drawn(100_000_000_000 if recipe.batch_size == 1 else 7_000_000_000)

    monkeypatch.setattr(Planner, "_rehearsed", rehearsed)
    return recipes


def test_a_dry_run_says_what_the_run_would_take_and_records_none(
    tunesmith: Invoke, tmp_path: Path, asked: list[Recipe]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    shown = tunesmith("train", str(rows), "--dry-run", "--batch-size", "1")
    assert shown.exit_code == 0, shown.output
    assert "21 (7 an epoch)" in shown.stdout and "60,000, 27,000 of them learned" in shown.stdout
    assert "about 10 min" in shown.stdout and "it fits" in shown.stdout
    assert [recipe.batch_size for recipe in asked] == [1] and asked[0].dataset.startswith("rows-")
    assert json.loads(tunesmith("runs", "list", "--json").stdout) == {"runs": []}


def test_a_dry_run_that_does_not_fit_exits_with_1_and_says_what_would(
    tunesmith: Invoke, tmp_path: Path, asked: list[Recipe]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    shown = tunesmith("train", str(rows), "--dry-run")
    assert shown.exit_code == 1
    assert "does not fit" in shown.stdout and "max_length=2048: about 6.1 GB; cuts 10.0%" in shown.stdout
    told = tunesmith("train", str(rows), "--dry-run", "--json")
    plan = json.loads(told.stdout)
    assert told.exit_code == 1 and (plan["fits"], plan["steps"], plan["measured"]) == (False, 21, True)
    assert plan["remedies"][0]["changes"] == {"max_length": 2048}


def test_a_dry_run_refuses_what_a_run_would(tunesmith: Invoke, tmp_path: Path, asked: list[Recipe]) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl"))
    assert error_of(tunesmith("train", rows, "--dry-run", "--epochs", "0", "--json"))["details"]["field"] == "epochs"
    assert error_of(tunesmith("train", rows, "--dry-run", "--output", "runs/x", "--json"))["kind"] == "invalid"
    assert asked == []


def test_a_run_shows_how_right_its_plan_was(tunesmith: Invoke, home: Path) -> None:
    with opened(home) as services:
        write_rows(services.home.root / "rows.jsonl")
        run = services.training.start(Recipe("tunesmith-small", "rows.jsonl", max_length=128))
        folder = services.home.runs / run.id
        folder.mkdir()
        write_json(folder / accuracy.RECORD, HELD)
    assert json.loads(tunesmith("runs", "show", run.id, "--json").stdout)["plan"]["seconds_error"] == 0.25
    assert "1 min 40 s -> 1 min 20 s (+25%), 2.0 GB -> 1.9 GB (+5%), from rehearsal" in tunesmith(
        "runs", "show", run.id
    ).stdout.replace("\n", "")


def test_a_plan_without_memory_tells_of_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    held = replace(HELD, predicted=Foretold("first steps", 100.0), memory_error=None)
    assert judged(held) == "1 min 40 s -> 1 min 20 s (+25%), from its first steps"
