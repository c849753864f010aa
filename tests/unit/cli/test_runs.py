"""Looking at runs and cancelling them. No trainer is started here."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.cli.test_data import write_rows
from tunesmith.app import Services
from tunesmith.cli.runs import find
from tunesmith.cli.session import opened
from tunesmith.cli.training import recipe_for
from tunesmith.cli.watching import Curve, completed
from tunesmith.kernel.problems import Invalid, NotFound, Unavailable
from tunesmith.training import run_folder
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import RunStore


def start(services: Services, output: str | None = None) -> Run:
    """A run that is recorded and waits for somebody to start it."""
    write_rows(services.home.root / "rows.jsonl")
    return services.training.start(Recipe("tunesmith-small", "rows.jsonl", max_length=128), output=output)


def test_a_run_is_found_by_the_beginning_of_its_id(home: Path) -> None:
    with opened(home) as services:
        first, second = start(services, "adapters/a"), start(services, "adapters/b")
        assert find(services.training, first.id) == first
        unique = next(n for n in range(1, len(first.id)) if not second.id.startswith(first.id[:n]))
        assert find(services.training, first.id[:unique]).id == first.id
        with pytest.raises(NotFound):
            find(services.training, "zzz")
        with pytest.raises(NotFound):
            find(services.training, "")


def test_a_beginning_that_several_runs_share_is_refused(home: Path) -> None:
    with opened(home) as services:
        runs = [start(services, f"adapters/{n}") for n in range(17)]  # sixteen digits: two begin alike
        letters = [run.id[0] for run in runs]
        twice = next(letter for letter in letters if letters.count(letter) > 1)
        with pytest.raises(Invalid):
            find(services.training, twice)


def test_list_and_show_tell_where_a_run_stands(tunesmith: Invoke, home: Path) -> None:
    with opened(home) as services:
        run = start(services, "adapters/town")
    listed = json.loads(tunesmith("runs", "list", "--json").stdout)["runs"]
    assert [(row["id"], row["state"], row["output"]) for row in listed] == [(run.id, "queued", "adapters/town")]
    assert json.loads(tunesmith("runs", "list", "--state", "completed", "--json").stdout) == {"runs": []}
    assert "adapters/town" in tunesmith("runs", "list").stdout

    shown = json.loads(tunesmith("runs", "show", run.id[:8], "--json").stdout)
    assert (shown["id"], shown["recipe"]["base_model"], shown["losses"]) == (run.id, "tunesmith-small", [])
    assert shown["folder"].endswith(f"runs/{run.id}")
    assert run.id in tunesmith("runs", "show", run.id).stdout


def test_a_run_whose_trainer_shows_no_sign_of_life_is_shown_so(tunesmith: Invoke, home: Path) -> None:
    with opened(home) as services:
        run = start(services, "adapters/town")
        folder = services.home.runs / run.id
        folder.mkdir()
        store = RunStore(services.database)
        store.save(run.to(State.RUNNING, handle=run.id), was=run)
    run_folder.write_trainer(folder, os.getpid())
    os.utime(folder / run_folder.TRAINER, (time.time() - 600,) * 2)
    assert "no sign of life for 1" in tunesmith("runs", "show", run.id).stdout  # ten minutes
    assert "no sign of life" in tunesmith("runs", "list").stdout
    [listed] = json.loads(tunesmith("runs", "list", "--json").stdout)["runs"]
    assert listed["seconds_silent"] == pytest.approx(600, abs=120)
    (folder / run_folder.HEARTBEAT).touch()
    assert json.loads(tunesmith("runs", "show", run.id, "--json").stdout)["seconds_silent"] is None
    assert "no sign of life" not in tunesmith("runs", "list").stdout


def test_a_waiting_run_is_canceled_and_cannot_be_canceled_twice(tunesmith: Invoke, home: Path) -> None:
    with opened(home) as services:
        run = start(services)
    assert json.loads(tunesmith("runs", "cancel", run.id, "--json").stdout)["state"] == "canceled"
    assert error_of(tunesmith("runs", "cancel", run.id, "--json"))["kind"] == "conflict"
    watched = tunesmith("runs", "watch", run.id, "--json")
    assert json.loads(watched.stdout.splitlines()[-1])["state"] == "canceled"


def test_a_run_that_left_no_checkpoint_cannot_be_gone_on_with(tunesmith: Invoke, home: Path) -> None:
    with opened(home) as services:
        run = start(services)
    tunesmith("runs", "cancel", run.id)
    error = error_of(tunesmith("runs", "resume", run.id, "--json"))
    assert error["kind"] == "conflict" and "checkpoint" in error["message"]


@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "resume"])
def test_an_unknown_run_is_not_found(tunesmith: Invoke, verb: str) -> None:
    assert error_of(tunesmith("runs", verb, "nothing", "--json"))["kind"] == "not_found"


def test_an_unknown_state_is_refused_with_those_there_are(tunesmith: Invoke) -> None:
    error = error_of(tunesmith("runs", "list", "--state", "sleeping", "--json"))
    assert error["kind"] == "invalid"
    assert "running" in error["message"]


@pytest.mark.parametrize(("state", "error"), [(State.FAILED, "no memory left"), (State.CANCELED, None)])
def test_a_run_that_did_not_complete_is_a_problem_that_says_why(home: Path, state: State, error: str | None) -> None:
    with opened(home) as services:
        run = start(services).to(state, error=error)
    with pytest.raises(Unavailable) as caught:
        completed(run)
    assert run.id in caught.value.en
    assert (error or "canceled") in caught.value.en


def test_only_steps_are_points_of_the_curve() -> None:
    curve = Curve()
    for row in ({"step": 1, "loss": 2.0}, {"event": "validation", "loss": 9.0}, {"event": "stage"}, {"loss": None}):
        curve.take(row)
    assert curve.losses == [2.0]


def test_the_shipped_model_gets_values_that_teach_it_something(home: Path) -> None:
    with opened(home) as services:
        small = recipe_for(services, "tunesmith-small", "town", {"epochs": None})
        assert small.learning_rate > Recipe("x", "y").learning_rate
        assert (small.dataset, small.replay, small.replay_share) == ("town", None, 0.0)
        assert small.max_length <= services.registry.base("tunesmith-small").context_length
        with pytest.raises(NotFound):
            recipe_for(services, "nobody/nothing", "town", {})


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"rank": 4, "alpha": None}, {"rank": 4, "alpha": 8.0}),
        ({"rank": 4, "alpha": 5.0}, {"rank": 4, "alpha": 5.0}),
        ({"epochs": 1, "learning_rate": 1e-5, "seed": 3}, {"epochs": 1, "learning_rate": 1e-5, "seed": 3}),
    ],
)
def test_what_was_chosen_is_in_the_recipe(home: Path, chosen: dict[str, Any], expected: dict[str, Any]) -> None:
    with opened(home) as services:
        recipe = recipe_for(services, "tunesmith-small", "town", chosen)
    assert {name: getattr(recipe, name) for name in expected} == expected


def test_training_on_a_dataset_that_is_nowhere_records_no_run(tunesmith: Invoke) -> None:
    assert error_of(tunesmith("train", "nothing", "--json"))["kind"] == "not_found"
    assert json.loads(tunesmith("runs", "list", "--json").stdout) == {"runs": []}


def test_training_an_unknown_base_records_no_run(tunesmith: Invoke, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl")
    assert error_of(tunesmith("train", str(file), "--base", "no/such", "--json"))["kind"] == "not_found"
    assert json.loads(tunesmith("runs", "list", "--json").stdout) == {"runs": []}
