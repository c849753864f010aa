"""A plan is held against the run that followed it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.training.plan.test_plan import drawn
from tunesmith.kernel.home import Home
from tunesmith.training.plan import accuracy
from tunesmith.training.plan.accuracy import Foretold, hold, keep, read
from tunesmith.training.run import Recipe

RECIPE = Recipe("big", "data/a.jsonl")


def ran(home: Home, *rows: dict[str, object]) -> Path:
    folder = home.runs / "a"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def steps(count: int, each_s: float) -> list[dict[str, object]]:
    return [{"step": n, "total_steps": 10, "time": 1000.0 + 5 + each_s * n} for n in range(1, count + 1)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_kept_plan_is_held_against_its_run(home: Home) -> None:
    plan = drawn(100_000_000_000)
    keep(home, RECIPE, plan)
    folder = ran(home, *steps(10, 1.0))
    held = hold(folder, home, RECIPE, 1000.0, 1000.0 + plan.seconds * 2, plan.memory_bytes // 2)
    assert held == read(folder) and held is not None
    assert held.predicted == Foretold("rehearsal", plan.seconds, plan.memory_bytes)
    assert held.seconds_error == pytest.approx(-0.5) and held.memory_error == pytest.approx(1.0)


def test_a_plan_for_another_recipe_is_no_plan_for_this_one(home: Home) -> None:
    keep(home, replace(RECIPE, batch_size=2), drawn(100_000_000_000))
    folder = ran(home, *steps(10, 2.0))
    held = hold(folder, home, RECIPE, 1000.0, 1027.0, 5)
    assert held is not None and held.predicted.by == "first steps"
    # seven seconds to the first step, nine more of two seconds each
    assert held.predicted.seconds == pytest.approx(25.0) and held.memory_error is None


def test_a_run_too_short_to_tell_or_gone_on_with_is_not_compared(home: Home) -> None:
    folder = ran(home, *steps(3, 1.0))
    assert hold(folder, home, RECIPE, 1000.0, 1010.0, 5) is None and read(folder) is None
    keep(home, RECIPE, drawn(100_000_000_000))
    rows = [{"event": "stage", "stage": "training", "from_step": 2}, *steps(5, 1.0)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert hold(folder, home, RECIPE, 1000.0, 1010.0, 5) is None


def test_only_the_newest_plans_are_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_KEPT", 3)
    for seed in range(5):
        keep(home, replace(RECIPE, seed=seed), drawn(100_000_000_000))
    assert len(list((home.runs / ".plans").iterdir())) == 3
