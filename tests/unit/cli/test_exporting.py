"""``models export``: what is written, what is checked, what is said, and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.cli.test_models import make_adapter as fake_adapter
from tunesmith.cli.exporting import sentences
from tunesmith.models.export import parity
from tunesmith.models.export.parity import Check, Difference, Parity, Task

ROW = {"messages": [{"role": "user", "content": "Who is the mayor?"}, {"role": "assistant", "content": "Ada."}]}


@pytest.fixture
def town(home: Path) -> Path:
    """A tiny base and a real adapter for it under home."""
    from tests.tiny_model import make_tiny_adapter, make_tiny_base

    base = make_tiny_base(home / "models" / "tiny")
    return make_tiny_adapter(base, home / "adapters" / "town", seed=3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The checks that were asked for; each finds everything the same."""
    tasks: list[Task] = []

    def found(task: Task) -> Parity:
        tasks.append(task)
        return Parity("same", rows=len(task.check.questions), identical=len(task.check.questions))

    monkeypatch.setattr(parity, "checked", found)
    return tasks


def rows(file: Path, count: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(ROW) + "\n" for _ in range(count)))
    return file


def test_an_ollama_folder_made_and_checked_by_real_processes(
    tunesmith: Invoke, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_THREADS", "1")
    given = rows(tmp_path / "asked.jsonl", 2)
    out = tmp_path / "out"
    result = tunesmith(
        "models", "export", "town", str(out), "--as", "ollama", "--type", "f32", "--check", str(given), "--json"
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["as"], said["folder"], said["parity"]["state"]) == ("ollama", str(out), "same")
    assert (said["parity"]["rows"], said["parity"]["identical"]) == (2, 2)
    assert said["parity"]["against"].startswith("llama.cpp")
    assert json.loads((out / "parity.json").read_text()) == said["parity"]
    assert {file.name for file in out.iterdir()} == {"model-f32.gguf", "Modelfile", "README.md", "parity.json"}
    assert "ollama create town" in (out / "README.md").read_text()


@pytest.mark.parametrize(("trained", "there"), [("data/chats/train", "data/chats/test"), ("data/chats", "data/chats")])
def test_what_it_was_trained_on_is_asked_and_rather_its_test_split(
    tunesmith: Invoke, home: Path, town: Path, tmp_path: Path, asked: list[Task], trained: str, there: str
) -> None:
    rows(home / there, 40)
    (town / "tunesmith.json").write_text(json.dumps({"recipe": {"dataset": trained}}))
    result = tunesmith("models", "export", "town", str(tmp_path / "a"), "--as", "merged", "--check-rows", "7")
    assert result.exit_code == 0, result.output
    assert (asked[-1].check.dataset, len(asked[-1].check.questions)) == (there, 7)
    assert asked[-1].check.questions[0] == ROW["messages"][:1]


def test_no_check_asks_nothing_and_leaves_no_report(
    tunesmith: Invoke, town: Path, tmp_path: Path, asked: list[Task]
) -> None:
    result = tunesmith("models", "export", "town", str(tmp_path / "out"), "--as", "gguf", "--no-check")
    assert result.exit_code == 0 and "not compared" in result.stdout
    assert asked == [] and [file.name for file in (tmp_path / "out").iterdir()] == ["model-f16.gguf"]


def test_an_adapter_of_unknown_origin_says_how_to_check_it(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    fake_adapter(home / "adapters" / "found")
    result = tunesmith("models", "export", "found", str(tmp_path / "out"))
    assert result.exit_code == 0 and "--check" in result.stdout


def test_a_dataset_that_is_not_there_is_said_before_anything_is_written(
    tunesmith: Invoke, town: Path, tmp_path: Path
) -> None:
    result = tunesmith("models", "export", "town", str(tmp_path / "out"), "--check", "absent", "--json")
    assert error_of(result)["kind"] == "not_found"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--merged", "--as", "gguf"],
        ["--separate"],
        ["--check", "x", "--no-check"],
        ["--as", "merged", "--max-shard", "big"],
        ["--as", "merged", "--max-shard", "0"],
        ["--as", "onnx"],
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    tunesmith: Invoke, home: Path, tmp_path: Path, options: list[str]
) -> None:
    fake_adapter(home / "adapters" / "found")
    assert tunesmith("models", "export", "found", str(tmp_path / "out"), *options).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_shards_are_as_large_as_asked(tunesmith: Invoke, town: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = tunesmith("models", "export", "town", str(out), "--as", "merged", "--max-shard", "100KB", "--no-check")
    assert result.exit_code == 0, result.output
    assert len(list(out.glob("model-0*.safetensors"))) > 1


@pytest.mark.parametrize("state", ["different", "failed"])
def test_an_export_that_cannot_be_trusted_is_there_and_ends_with_one(
    tunesmith: Invoke, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    reason = parity.Reason("坏了", "it broke")
    monkeypatch.setattr(parity, "checked", lambda task: Parity(state, rows=1, reason=reason))
    given = rows(tmp_path / "asked.jsonl", 1)
    out = tmp_path / "out"
    result = tunesmith("models", "export", "town", str(out), "--as", "merged", "--check", str(given))
    assert result.exit_code == 1 and "warning" in result.stdout
    assert (out / "model.safetensors").is_file()


def test_what_differs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    first = Difference(2, 4, "Ada", "Bob", 1.5, False)
    said = list(sentences(Parity("different", "llama.cpp", "town/test", 9, 8, 7, 1, drift=0.25, first=first)))
    assert "9 questions (town/test): 8 with the same prompt tokens, 7 answered the same" in said[0]
    assert "question 3, token 5: ours 'Ada', exported 'Bob'" in said[1] and "1.5 nats" in said[1]
    assert "do not use" in said[2]


def test_questions_travel_as_they_are() -> None:
    import msgspec

    task = Task("peft", "b", "a", "n", "f", "f32", Check("d", [[{"role": "user", "content": "你好"}]]))
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
