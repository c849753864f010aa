"""What transformers says of a model is asked once, and a record is of use for the very model it was made of."""

import dataclasses
import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tests.unit.inference.worker.test_model import SIZES, write_model
from tunesmith.inference.worker import recording, records
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.step import Step

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.5] * 8, "long_factor": [4.0] * 8}


class Asked(BaseException):
    """Transformers was asked; no fault of the model."""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LanguageModel]:
    def one(folder: Path, precision: str = "auto") -> LanguageModel:
        return LanguageModel(folder, cache_bytes=1 << 26, precision=precision, records=tmp_path / "records")

    return one


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, nothing in this process may ask transformers."""

    def never(*given: Any, **named: Any) -> Any:
        raise Asked

    return lambda: monkeypatch.setattr(recording, "survey", never)


def said(model: LanguageModel) -> torch.Tensor:
    tokens = [5, 17, 40, 8, 93]
    lease = model.cache.lease(len(tokens))
    with torch.inference_mode():
        found = model.forward(Step(tokens, [*range(5)], [Chunk(lease, 0, 5, 0)], [], [], [1, 4])).logits.clone()
    model.cache.release(lease)
    return found


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "records").iterdir())


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**(SIZES | {"num_key_value_heads": 4}), attention_bias=True, tie_word_embeddings=True),
        LlamaConfig(**SIZES, rope_parameters=YARN),
        LlamaConfig(**SIZES, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 64}),
        LlamaConfig(**SIZES, dtype="bfloat16"),
        MistralConfig(**SIZES, sliding_window=6),
        Qwen3Config(**SIZES, head_dim=16),
        Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        Phi3Config(**SIZES),
        Phi3Config(**SIZES, partial_rotary_factor=0.5),
        Phi3Config(**SIZES, rope_parameters=LONG, original_max_position_embeddings=64),
        Qwen2Config(**SIZES, tie_word_embeddings=True),
        GemmaConfig(**SIZES, head_dim=16),
        GemmaConfig(**SIZES, head_dim=16, dtype="bfloat16"),
        Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_with_a_record_is_the_same_to_the_bit_and_transformers_is_not_asked(
    config: Any, computed_by: str, tmp_path: Path, load: Callable[..., LanguageModel], unasked: Callable[[], None]
) -> None:
    folder = write_model(tmp_path / "model", config)
    first = load(folder)
    assert first.fused and [path.suffix for path in files(tmp_path)] == [".record"]
    unasked()
    second = load(folder)
    assert second.fused and (second.context, second.vocabulary) == (first.context, first.vocabulary)
    assert (second.architecture, second.dtype) == (first.architecture, first.dtype)
    assert torch.equal(said(first), said(second))
    assert second.cache.arenas[0].capacity == first.cache.arenas[0].capacity


def test_one_record_serves_every_precision_that_reads_and_computes_alike(
    tmp_path: Path, load: Callable[..., LanguageModel], unasked: Callable[[], None]
) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES, dtype="float16"))
    load(folder, "int8")
    unasked()
    assert load(folder, "float32").precision.name == "float32"


@pytest.mark.parametrize("large", [False, True])
def test_weights_or_settings_that_have_changed_are_looked_at_anew(
    large: bool,
    tmp_path: Path,
    load: Callable[..., LanguageModel],
    unasked: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if large:  # told apart by what the system says of them
        monkeypatch.setattr(records, "_MOST_FILE_BYTES", 0)
    folder, other = (write_model(tmp_path / name, LlamaConfig(**SIZES)) for name in ("model", "other"))
    load(folder)
    unasked()
    load(folder)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(Asked):
        load(folder)
    weights.write_bytes(kept)
    if large:  # as far as anybody can tell it is another file
        with pytest.raises(Asked):
            load(folder)
    else:
        load(folder)
        load(other)
    shutil.copy(tmp_path / "other" / "config.json", folder / "config.json")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("1e-06", "1e-05"))
    with pytest.raises(Asked):
        load(folder)


@pytest.mark.parametrize("version", ["torch", "transformers", "tunesmith"])
def test_another_version_of_a_library_asks_anew(
    version: str,
    tmp_path: Path,
    load: Callable[..., LanguageModel],
    unasked: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES))
    load(folder)
    unasked()
    from importlib.metadata import version as now

    monkeypatch.setattr(records, "version", lambda name: "0" if name == version else now(name))
    with pytest.raises(Asked):
        load(folder)


@pytest.mark.parametrize("harm", ["cut", "noise", "empty", "longer"])
def test_a_damaged_record_is_made_anew(harm: str, tmp_path: Path, load: Callable[..., LanguageModel]) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES))
    first = said(load(folder))
    (record,) = files(tmp_path)
    whole = record.read_bytes()
    middle = len(whole) // 2
    noise = whole[:middle] + bytes([whole[middle] ^ 8]) + whole[middle + 1 :]
    record.write_bytes({"cut": whole[:middle], "noise": noise, "empty": b"", "longer": whole + b"x"}[harm])
    assert torch.equal(said(load(folder)), first)
    assert files(tmp_path) == [record] and record.read_bytes() == whole


def test_a_record_that_gives_other_logits_is_not_asked_again(
    tmp_path: Path, load: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES))
    first = said(load(folder))
    true = recording.surveyed
    wrong: list[bool] = []

    def turned(record: records.Record, *given: Any) -> Any:
        wrong.append(True)
        found = true(record, *given)
        return dataclasses.replace(found, expected=-found.expected)

    monkeypatch.setattr(recording, "surveyed", turned)
    for _ in range(2):
        again = load(folder)
        assert again.fused and torch.equal(said(again), first)
    assert len(wrong) == 1


def test_a_large_model_is_looked_at_by_another_process(
    base: Path,
    tmp_path: Path,
    load: Callable[..., LanguageModel],
    unasked: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = said(LanguageModel(base, cache_bytes=1 << 26))
    monkeypatch.setattr(recording, "_LARGE", 0)
    recording.prepare(base, tmp_path / "records", "auto")
    unasked()
    assert torch.equal(said(load(base)), asked)
    kinds = [path.stem.partition("-")[2] for path in files(tmp_path)]
    assert kinds == ["float32-float32", "words"]
    monkeypatch.setattr(subprocess, "run", unasked)  # there is nothing to do
    recording.prepare(base, tmp_path / "records", "auto")


def test_what_a_record_cannot_say_is_asked_each_time_but_not_recorded_each_time(
    tmp_path: Path, load: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES, hidden_act="relu"))
    tried: list[bool] = []
    true = recording.recorded

    def counted(*given: Any) -> Any:
        tried.append(True)
        return true(*given)

    monkeypatch.setattr(recording, "recorded", counted)
    assert torch.equal(said(load(folder)), said(load(folder)))
    assert len(tried) == 1 and [path.suffix for path in files(tmp_path)] == [".none"]


def test_an_architecture_outside_the_block_has_no_record(tmp_path: Path, load: Callable[..., LanguageModel]) -> None:
    assert not load(write_model(tmp_path / "model", Olmo2Config(**SIZES))).fused
    assert not (tmp_path / "records").exists()


def test_a_full_disk_is_no_reason_not_to_load(
    tmp_path: Path, load: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(records, "written_whole", full)
    assert load(write_model(tmp_path / "model", LlamaConfig(**SIZES))).fused
    assert files(tmp_path) == []


def test_the_records_of_many_models_do_not_pile_up(
    tmp_path: Path, load: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_KEPT", 2)
    for name in "abc":
        folder = write_model(tmp_path / name, LlamaConfig(**SIZES))
        (folder / "generation_config.json").write_text("{}" + " " * ord(name))
        load(folder)
    assert len(files(tmp_path)) == 2
