"""What an adapter was made from, and what has changed since."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CHATML
from tunesmith.datasets.service import DatasetService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.training import bundle
from tunesmith.training.bundle import Bundle, Ingredients
from tunesmith.training.run import Recipe

RECIPE = Recipe("tiny", "data/a.jsonl", validation="town/validation", control="data/c.jsonl")
ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(40)]


class Tokenizer:
    """All that is asked of one here."""

    def __init__(self, template: str = CHATML) -> None:
        self.template = template

    def get_chat_template(self) -> str:
        return self.template


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    for name in ("a", "c"):
        write(home.root / "data" / f"{name}.jsonl", ROWS[:4])
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate()
    datasets = DatasetService(database, home)
    datasets.add("town", write(tmp_path / "town.jsonl", ROWS))
    datasets.split("town", {"train": 0.5, "validation": 0.5}, seed=7)
    database.close()
    return home


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    return folder


Gather = Callable[..., Ingredients]


@pytest.fixture
def gather(home: Home, base: Path) -> Gather:
    return lambda recipe=RECIPE, threads=1, template=CHATML: bundle.gathered(
        home, recipe, base, Tokenizer(template), threads
    )


def said(then: Ingredients, now: Ingredients, **computed: Any) -> list[tuple[str, bool]]:
    made = Bundle(RECIPE, then, "0" * 64, None, computed)
    return [(each.en, each.decides) for each in bundle.differences(made, now)]


def test_every_file_of_data_is_named_with_its_hash_and_its_split(gather: Gather, home: Home) -> None:
    main, validation, control = gather().data
    assert (main.role, main.file, main.dataset_id, main.split) == ("dataset", "data/a.jsonl", None, None)
    assert main.sha256 == bundle.sha256(home.root / "data" / "a.jsonl") == control.sha256
    assert validation.role == "validation" and (validation.dataset_id or "").startswith("dataset_")
    assert validation.split is not None
    assert (validation.split["part"], validation.split["seed"]) == ("validation", 7)
    assert home.root.joinpath(validation.file).stat().st_size == validation.size_bytes


def test_replay_that_is_not_mixed_in_is_no_ingredient(gather: Gather) -> None:
    unused = replace(RECIPE, replay="data/none.jsonl")
    assert len(gather(unused).data) == 3
    with pytest.raises(NotFound):
        gather(replace(unused, replay_share=0.1))


def test_nothing_differs_from_itself(gather: Gather) -> None:
    assert said(gather(), gather(), threads=1) == []


def test_changed_data_decides_and_is_named(gather: Gather, home: Home) -> None:
    before = gather()
    write(home.root / "data" / "c.jsonl", ROWS[:5])
    assert said(before, gather(), threads=1) == [("the data of data/c.jsonl (data/c.jsonl, control) was changed", True)]


def test_another_base_or_template_decides_but_its_readme_does_not(gather: Gather, base: Path) -> None:
    before = gather()
    (base / "README.md").write_text("new")
    assert said(before, gather(), threads=1) == []
    (base / "model.safetensors").write_text("other weights of the same length"[:17])
    (base / "chat_template.jinja").write_text("new")
    (base / "tokenizer.json").unlink()
    found = said(before, gather(template="other"), threads=1)
    assert [text for text, decides in found if decides] == [
        "the base model's chat_template.jinja is new",
        "the base model's model.safetensors was changed",
        "the base model's tokenizer.json is gone",
        "the base model has another chat template now",
    ]


@pytest.mark.parametrize(
    "then, now, used, differs",
    [
        (1, 1, 1, False),
        (0, 0, 2, False),  # left to torch, on as many CPUs
        (0, 2, 2, False),
        (0, 3, 2, True),
        (1, 0, 1, True),
        (1, 2, 1, True),
    ],
)
def test_other_threads_are_told_with_the_setting_that_makes_them_the_same(
    gather: Gather, then: int, now: int, used: int, differs: bool
) -> None:
    found = said(gather(threads=then), gather(threads=now), threads=used)
    assert [(f"TUNESMITH_THREADS={used}" in text, decides) for text, decides in found] == [(True, False)] * differs


def test_other_versions_and_another_processor_are_told_but_do_not_decide(gather: Gather) -> None:
    before = gather()
    now = replace(
        before,
        versions=before.versions | {"torch": "9.9"},
        machine=replace(before.machine, cpu_capability="AVX1024"),
    )
    assert [decides for _, decides in said(before, now, threads=1)] == [False, False]
    assert "torch was" in said(before, now, threads=1)[0][0] and "AVX1024" in said(before, now, threads=1)[1][0]


def test_a_large_file_is_told_apart_by_pieces_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_WHOLE", 1 << 12)
    monkeypatch.setattr(bundle, "_PIECE", 1 << 9)
    file = tmp_path / "weights"
    content = bytearray(range(256)) * 100
    file.write_bytes(content)
    first = bundle.digest(file)
    assert first.startswith("sampled:") and bundle.digest(file) == first
    for changed in (content + b"x", bytes([1]) + content[1:], content[:-1] + bytes([1])):
        file.write_bytes(changed)
        assert bundle.digest(file) != first


def test_a_bundle_is_read_as_it_was_written(gather: Gather, tmp_path: Path) -> None:
    facts = {
        "recipe": asdict(RECIPE),
        "ingredients": asdict(gather()),
        "weights_sha256": "ab",
        "computed": {"threads": 2},
    }
    (tmp_path / "tunesmith.json").write_text(json.dumps(facts))
    read = bundle.read(tmp_path, "adapters/town")
    assert read == Bundle(RECIPE, gather(), "ab", None, {"threads": 2})


@pytest.mark.parametrize(
    "facts", ["", "[]", "{}", "null", '{"recipe": {}}', '{"recipe": {"base_model": "x", "dataset": "y"}}', "[" * 9999]
)
def test_an_adapter_without_a_bundle_says_so(tmp_path: Path, facts: str) -> None:
    (tmp_path / "tunesmith.json").write_text(facts)
    with pytest.raises(Invalid, match="adapters/town"):
        bundle.read(tmp_path, "adapters/town")
    shutil.rmtree(tmp_path)
    with pytest.raises(Invalid):
        bundle.read(tmp_path, "adapters/town")
