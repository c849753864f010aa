"""The shipped model with an adapter, taken elsewhere: it says there what it says here."""

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest

from tests.unit.models.export.conftest import MakeAdapter
from tunesmith.datasets.reading import read_file
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound, Unavailable, Unsupported
from tunesmith.models.export import checking, exporting, parity
from tunesmith.models.export.exporting import Export, export
from tunesmith.models.export.parity import Check, Parity
from tunesmith.models.model import Adapter, BaseModel
from tunesmith.models.registry import SHIPPED, Registry

NO_CHECK = parity.not_done("跳过", "left out")


def quietly(zh: str, en: str) -> None:
    assert zh and en


@pytest.fixture
def shipped(tmp_path: Path) -> BaseModel:
    return Registry(Home(tmp_path)).base(SHIPPED)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check runs in this process, which has torch already; llama.cpp stays in one of its own."""
    monkeypatch.setattr(parity, "checked", checking.check)


def questions() -> Check:
    sample = Path(str(files("tunesmith.datasets") / "samples" / "facts.test.jsonl"))
    rows = islice(read_file(sample), 0, 80, 20)
    return Check("facts", [[turn.as_dict() for turn in row.prompt] for row in rows], max_tokens=24)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("form", "config", "separate"),
    [
        ("peft", {"use_rslora": True}, False),
        ("merged", {"use_dora": True}, False),
        ("gguf", {"use_dora": True}, False),
        ("ollama", {}, True),
    ],
)
def test_it_answers_as_we_do(
    shipped: BaseModel,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    form: parity.Form,
    config: dict[str, bool],
    separate: bool,
) -> None:
    adapter = make_adapter(shipped, std=0.06, **config)
    out = tmp_path / "out"
    found = export(Export(shipped, adapter, out, form, separate=separate), questions(), quietly)
    assert found.state in ("same", "rounding"), found
    assert found.rows == found.prompts_equal == 4
    assert found.identical >= 3
    assert json.loads((out / "parity.json").read_text())["identical"] == found.identical
    assert not list(tmp_path.glob(".partial-*"))
    made = {file.name for file in out.iterdir()}
    expected = {
        "peft": {"adapter_model.safetensors", "adapter_config.json"},
        "merged": {"model.safetensors", "tokenizer.json", "config.json"},
        "gguf": {"model-f16.gguf"},
        "ollama": {"base-f16.gguf", "adapter-f32.gguf", "Modelfile", "README.md"},
    }
    assert expected[form] <= made


@pytest.mark.usefixtures("here")
def test_an_export_that_lost_the_adapter_is_found_out_even_if_no_answer_changed(
    shipped: BaseModel,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter(shipped, std=0.06)
    monkeypatch.setattr(exporting, "read_adapter", lambda adapter: None)
    monkeypatch.setattr(exporting, "_prepared", lambda wanted: 0)
    found = export(Export(shipped, adapter, tmp_path / "out", "gguf", "q8_0"), questions(), quietly)
    assert found.state == "different" and found.alarming
    assert found.drift > found.effect / 2


@pytest.fixture
def adapter(tiny: BaseModel, make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(tiny)


def test_nothing_is_left_of_an_export_that_fails(
    tiny: BaseModel, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_merged", full)
    with pytest.raises(OSError):
        export(Export(tiny, adapter, tmp_path / "there" / "out", "merged"), NO_CHECK, quietly)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_without_room_is_found_before_anything_is_written(
    tiny: BaseModel, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(Unavailable, match="not enough disk"):
        export(Export(tiny, adapter, tmp_path / "there" / "out", "gguf"), NO_CHECK, quietly)
    assert list((tmp_path / "there").iterdir()) == []


def test_what_lies_at_the_destination_stays(tiny: BaseModel, adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(Conflict):
        export(Export(tiny, adapter, tmp_path / "out", "gguf"), NO_CHECK, quietly)
    assert [file.read_text() for file in (tmp_path / "out").iterdir()] == ["precious"]


def test_without_the_base_only_peft_is_exported(tiny: BaseModel, adapter: Adapter, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tiny"):
        export(Export(None, adapter, tmp_path / "a", "merged"), NO_CHECK, quietly)
    asked = export(Export(None, adapter, tmp_path / "b", "peft"), Check("d", [[]]), quietly)
    assert asked.state == "not_done" and (tmp_path / "b" / "adapter_config.json").is_file()


def test_what_gguf_cannot_hold_is_refused_before_anything_is_written(
    tiny: BaseModel, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    dora = make_adapter(tiny, "dora", use_dora=True)
    with pytest.raises(Unsupported, match="--separate"):
        export(Export(tiny, dora, tmp_path / "out", "gguf", separate=True), NO_CHECK, quietly)
    unknown = replace(tiny, path=tmp_path / "unknown")
    shutil.copytree(tiny.path, unknown.path)
    config = unknown.path / "config.json"
    config.write_text(config.read_text().replace('"qwen2"', '"unheard_of"'))
    with pytest.raises(Unsupported, match="unheard_of"):
        export(Export(unknown, dora, tmp_path / "out", "ollama"), NO_CHECK, quietly)
    assert not (tmp_path / "out").exists()


def test_a_check_that_was_left_out_leaves_no_report(tiny: BaseModel, adapter: Adapter, tmp_path: Path) -> None:
    found: Parity = export(Export(tiny, adapter, tmp_path / "out", "merged"), NO_CHECK, quietly)
    assert found == NO_CHECK and not (tmp_path / "out" / "parity.json").exists()
