"""``train --from``: the same adapter again, to the byte, through real trainers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_base
from tests.unit.cli.conftest import Invoke, error_of
from tunesmith.cli import repeating
from tunesmith.cli.session import opened

ROWS = [{"prompt": q, "completion": a} for q, a in (("Who is the mayor?", "Ada."), ("市长是谁？", "小林。")) * 3]
SMALL = ["--epochs", "2", "--rank", "2", "--max-length", "64", "--batch-size", "2", "--dropout", "0.1"]


@pytest.fixture
def made(tunesmith: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a first run says of itself."""
    monkeypatch.setenv("TUNESMITH_THREADS", "1")
    make_tiny_base(home / "models" / "tiny")
    data = home / "data" / "town.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = ("--validation", "data/town.jsonl", "--output", "adapters/town", "--json")
    result = tunesmith("train", "data/town.jsonl", "--base", "tiny", *SMALL, *options)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def test_an_adapter_is_made_again_to_the_same_bytes_and_not_from_other_data(
    tunesmith: Invoke, home: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = home / "adapters" / "town"
    facts = json.loads((folder / "tunesmith.json").read_text())
    assert {each["role"] for each in facts["ingredients"]["data"]} == {"dataset", "validation"}
    assert facts["metrics"]["validation_loss"] == facts["validation_loss"] > 0
    assert facts["computed"]["threads"] == 1 and facts["run_id"] == made["id"]
    assert facts["computed"]["arithmetic"] == "float32"  # such a small base lies in memory as float32
    assert isinstance(facts["computed"]["kernels"], bool)
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nbase_model: "tiny"\nlibrary_name: peft\n') and facts["weights_sha256"] in card

    again = tunesmith("train", "--from", "town", "--output", "adapters/again", "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["same_bytes"] and found["differences"] == [] and found["adapter"] == "adapters/again"
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (home / "adapters" / "again" / file).read_bytes() == (folder / file).read_bytes()

    # a digest that no run gives stands in for other bytes, made by other arithmetic; other threads are told of before
    # anything starts
    facts["weights_sha256"] = "0" * 64
    facts["computed"]["arithmetic"] = "block fixed point"
    (folder / "tunesmith.json").write_text(json.dumps(facts))
    monkeypatch.setenv("TUNESMITH_THREADS", "2")
    with opened(home) as services:
        original = repeating.checked(services, "adapters/town")
        assert "TUNESMITH_THREADS=1" in capsys.readouterr().err
        differing = repeating.compared(services, original, services.training.get(found["id"]))
    assert not differing["same_bytes"]
    assert differing["differences"] == ["arithmetic: block fixed point → float32"]
    repeating.show(differing)
    assert "not the same bytes" in capsys.readouterr().out

    data = home / "data" / "town.jsonl"
    data.write_text(data.read_text() + json.dumps(ROWS[0]) + "\n")
    refused = error_of(tunesmith("train", "--from", "adapters/town", "--json"))
    assert refused["kind"] == "conflict" and "data/town.jsonl" in refused["message"]
    assert len(json.loads(tunesmith("runs", "list", "--json").stdout)["runs"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "data.jsonl", "--from", "town"],
        ["train", "--from", "town", "--epochs", "2"],
        ["train", "--from", "town", "--detach"],
    ],
)
def test_neither_or_both_of_what_to_train_on_is_wrong_usage(tunesmith: Invoke, arguments: list[str]) -> None:
    assert tunesmith(*arguments).exit_code == 2


def test_an_adapter_from_elsewhere_cannot_be_repeated(tunesmith: Invoke, home: Path) -> None:
    folder = home / "adapters" / "town"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "tunesmith-small"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    assert error_of(tunesmith("train", "--from", "town", "--json"))["kind"] == "invalid"
