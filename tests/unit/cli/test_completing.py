"""What a shell is offered."""

from pathlib import Path

import pytest
import typer

from tests.unit.cli.test_models import make_adapter
from tunesmith.cli import completing


@pytest.fixture
def context(home: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Context:
    monkeypatch.setenv("HF_HOME", str(home.parent / "hf"))
    made = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    made.params["home"] = home
    return made


def test_names_are_offered_by_how_they_begin(context: typer.Context, home: Path) -> None:
    make_adapter(home / "adapters" / "town")
    make_adapter(home / "adapters" / "village")
    for folder in ("data/processed/town", "data/processed/.partial-1-x", "runs/0f3c", "runs/1a2b"):
        (home / folder).mkdir(parents=True)
    assert completing.adapters(context, "adapters/t") == ["adapters/town"]
    assert completing.bases(context, "") == ["tunesmith-small"]
    assert completing.models(context, "t") == ["tunesmith-small"]
    assert completing.datasets(context, "") == ["town"]
    assert completing.runs(context, "1") == ["1a2b"]


def test_completing_makes_no_home_folder_and_never_fails(context: typer.Context, home: Path) -> None:
    for offered in (completing.adapters, completing.bases, completing.datasets, completing.runs):
        assert offered(context, "") == []
    assert not home.exists()
    home.write_text("a file in the way")
    assert completing.datasets(context, "") == []


def test_what_is_known_by_heart_is_what_there_is() -> None:
    from tunesmith.accounts.vault import PROVIDERS
    from tunesmith.projects.dealing import PRESETS

    assert completing.split_types("train_test") == [name for name in PRESETS if name.startswith("train_test")]
    assert set(completing.split_types("")) == set(PRESETS)
    assert completing.providers("") == list(PROVIDERS)
    assert completing.trainers("l") == ["local"]
    assert completing.formats("vertex") == ["vertex_gemini"]
    assert "two_message_cot" in completing.strategies("two")
    assert completing.generators("simple_p") == ["simple_prompt_builder"]
