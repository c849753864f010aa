"""Merged weights: what PEFT merges, in shards that transformers opens."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.models.export.conftest import MakeAdapter, change_json, random_model
from tunesmith.kernel.problems import Invalid, Problem, Unsupported
from tunesmith.models.export.adapter import read_adapter
from tunesmith.models.export.merging import Merged, write_merged
from tunesmith.models.export.tensors import narrowed, read_header, stored, widened
from tunesmith.models.model import Adapter, BaseModel


def merged_by_peft(base: BaseModel, adapter: Adapter) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        loaded = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        whole: Any = PeftModel.from_pretrained(loaded, adapter.path).merge_and_unload()
    weights: dict[str, torch.Tensor] = whole.state_dict()
    return weights


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 3}, "alpha_pattern": {"layers.0.self_attn.k_proj": 32}},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    ],
    ids=["lora", "rslora", "dora", "rsdora", "patterns", "some"],
)
def test_it_merges_as_peft_does(tiny: BaseModel, make_adapter: MakeAdapter, config: dict[str, Any]) -> None:
    adapter = make_adapter(tiny, **config)
    expected = merged_by_peft(tiny, adapter)
    ours, bare = Merged(tiny, read_adapter(adapter)), Merged(tiny, None)
    for name in ours.tensors:
        torch.testing.assert_close(torch.from_numpy(ours.floats(name)), expected[name], rtol=1e-5, atol=1e-5)
    changed = [name for name in ours.tensors if not np.array_equal(ours.floats(name), bare.floats(name))]
    assert len(changed) == (2 if "layers_to_transform" in config else 14)


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A bfloat16 base whose head is its embedding."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("half") / "half"
    base = random_model(folder, "qwen2", tie_word_embeddings=True)
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    return base


def test_what_is_written_is_rounded_once_to_the_bases_type_in_shards_that_transformers_opens(
    half: BaseModel, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = make_adapter(half, std=0.05)
    out = tmp_path / "out"
    out.mkdir()
    write_merged(half, read_adapter(adapter), out, max_shard=60_000)
    names = sorted(file.name for file in out.glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)
    assert index["metadata"]["total_size"] == sum(it.size for it in stored(out).values())
    assert "lm_head.weight" not in index["weight_map"]  # tied: once is enough
    for name in names:  # the embedding alone is larger than a shard
        held = read_header(out / name)
        assert len(held) == 1 or sum(it.size for it in held) <= 60_000

    opened = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert opened.dtype == torch.bfloat16
    expected = merged_by_peft(half, adapter)
    for name, weight in opened.state_dict().items():
        torch.testing.assert_close(weight, expected[name].to(torch.bfloat16), rtol=1e-2, atol=1e-3)
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= {file.name for file in out.iterdir()}


def test_tied_weights_that_lie_in_the_base_twice_are_written_once(half: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    twice = replace(half, path=tmp_path / "twice")
    shutil.copytree(half.path, twice.path)
    weights = load_file(twice.path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, twice.path / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" not in Merged(twice, None).tensors


def test_an_adapter_on_a_tied_head_is_refused(half: BaseModel, make_adapter: MakeAdapter) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = make_adapter(half, target_modules=["q_proj", "lm_head"])
    with pytest.raises(Unsupported, match="shares with its embeddings"):
        Merged(half, read_adapter(adapter))


@pytest.mark.parametrize(
    ("field", "value"),
    [("modules_to_save", ["embed_tokens"]), ("bias", "all"), ("init_lora_weights", "pissa"), ("use_qalora", True)],
)
def test_what_cannot_be_merged_is_named(tiny: BaseModel, make_adapter: MakeAdapter, field: str, value: object) -> None:
    adapter = make_adapter(tiny)
    change_json(adapter.path / "adapter_config.json", **{field: value})
    with pytest.raises(Unsupported, match=field):
        read_adapter(adapter)


@pytest.mark.parametrize(
    "changes", [{"r": 5}, {"lora_alpha": "8"}, {"use_dora": True}, {"rank_pattern": {"q_proj": 3}}, {"r": 0}]
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    tiny: BaseModel, make_adapter: MakeAdapter, changes: dict[str, Any]
) -> None:
    adapter = make_adapter(tiny)
    change_json(adapter.path / "adapter_config.json", **changes)
    with pytest.raises(Invalid):
        read_adapter(adapter)


def test_an_adapter_of_another_base_is_refused(tiny: BaseModel, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter(tiny)
    other = random_model(tmp_path / "other", "qwen2", hidden_size=32, head_dim=8)
    with pytest.raises(Invalid, match="does not fit"):
        Merged(other, read_adapter(adapter))


def test_a_quantized_base_is_refused(tiny: BaseModel, tmp_path: Path) -> None:
    copy = replace(tiny, path=tmp_path / "copy")
    shutil.copytree(tiny.path, copy.path)
    change_json(copy.path / "config.json", quantization_config={"load_in_4bit": True})
    with pytest.raises(Unsupported, match="quantized"):
        Merged(copy, None)


@pytest.mark.parametrize("broken", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{]", b"\x40\0\0\0\0\0\0\0" + b"{}"])
def test_a_damaged_file_is_named(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(broken)
    with pytest.raises(Invalid, match=r"model\.safetensors"):
        stored(tmp_path)


def test_a_tensor_beyond_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(Problem, match="place"):
        stored(tmp_path)


@pytest.mark.parametrize(("ours", "theirs"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_numbers_are_rounded_as_torch_rounds_them(ours: str, theirs: torch.dtype) -> None:
    dice = np.random.default_rng(0)
    values = np.concatenate(
        [dice.standard_normal(5000), [0.0, -0.0, 1e-7, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8]]
    ).astype(np.float32)
    there = torch.from_numpy(values).to(theirs)
    back = widened(narrowed(values, ours).view(np.uint8), ours)
    np.testing.assert_array_equal(back, there.float().numpy())


def test_a_number_too_large_for_float16_is_not_made_infinite() -> None:
    with pytest.raises(OverflowError):
        narrowed(np.array([1e6], np.float32), "F16")
