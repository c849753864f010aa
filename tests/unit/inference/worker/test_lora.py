"""Adapters: the same numbers as peft, and a clear refusal of all that would not be."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_model import make_tiny_adapter, make_tiny_base
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.lora import AdapterWeights, Segment
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.step import Step
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unsupported

TOKENS = [5, 17, 40, 300, 8, 99]


def our_logits(model: LanguageModel, *worn: AdapterWeights | None) -> list[torch.Tensor]:
    """Last logits of one row for each of ``worn``, all in one step."""
    leases = [model.cache.lease(len(TOKENS)) for _ in worn]
    count = len(TOKENS)
    chunks = [Chunk(lease, n * count, (n + 1) * count, 0) for n, lease in enumerate(leases)]
    segments = [Segment(n * count, (n + 1) * count, one) for n, one in enumerate(worn) if one is not None]
    keep = [(n + 1) * count - 1 for n in range(len(worn))]
    with torch.inference_mode():
        step = Step(TOKENS * len(worn), [*range(count)] * len(worn), chunks, [], segments, keep)
        logits = model.forward(step).logits
    for lease in leases:
        model.cache.release(lease)
    return list(logits)


def peft_logits(base: Path, adapter: Path) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        worn = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        logits: torch.Tensor = worn(torch.tensor([TOKENS])).logits[0, -1]
    return logits


def write_adapter(base: Path, folder: Path, **config: Any) -> Path:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied embeddings, too
        torch.manual_seed(7)
        bare = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(bare, LoraConfig(task_type="CAUSAL_LM", **config))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
            if "magnitude" in name:
                weight.data.mul_(1 + torch.rand_like(weight))
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_each_row_of_a_step_wears_its_own_adapter_as_in_peft(
    base: Path, adapters: list[Path], computed_by: str
) -> None:
    model = LanguageModel(base, cache_bytes=1 << 24)
    one, two = (model.lora.read(folder.name, folder) for folder in adapters)
    bare, first, second, again = our_logits(model, None, one, two, one)
    assert torch.allclose(first, peft_logits(base, adapters[0]), atol=1e-4, rtol=1e-4)
    assert torch.allclose(second, peft_logits(base, adapters[1]), atol=1e-4, rtol=1e-4)
    assert torch.allclose(first, again, atol=1e-5)
    assert torch.allclose(bare, our_logits(model, None)[0], atol=1e-5)
    assert not torch.allclose(bare, first, atol=0.1)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj"]},
        {"r": 16, "lora_alpha": 4, "target_modules": ["down_proj", "v_proj"], "use_rslora": True},
        {"r": 2, "lora_alpha": 8, "target_modules": "all-linear", "layers_to_transform": None},
        {"r": 256, "lora_alpha": 16, "target_modules": ["k_proj", "gate_proj"], "layers_to_transform": [1]},
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj", "down_proj"], "use_dora": True},
    ],
)
def test_rank_scaling_and_targets_are_read_as_peft_reads_them(
    base: Path, computed_by: str, tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = write_adapter(base, tmp_path / "adapter", **config)
    model = LanguageModel(base, cache_bytes=1 << 24)
    ours = our_logits(model, model.lora.read("adapter", folder))[0]
    assert torch.allclose(ours, peft_logits(base, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 2]]},
        {"something_of_next_year": True},
    ],
)
def test_what_this_engine_does_not_compute_is_refused_by_name(
    model: LanguageModel, adapters: list[Path], tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    with pytest.raises(Unsupported) as refused:
        model.lora.read("town", folder)
    assert next(iter(config)) in refused.value.en
    assert "town" in refused.value.zh


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_embeddings_or_head_is_refused(
    model: LanguageModel, base: Path, tmp_path: Path, target: str
) -> None:
    folder = write_adapter(
        base, tmp_path / "adapter", r=2, target_modules=["q_proj", target], ensure_weight_tying=False
    )
    with pytest.raises(Problem):
        model.lora.read("town", folder)


def broken_weights(folder: Path, change: str) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    key = next(key for key in sorted(weights) if "lora_B" in key)
    if change == "not finite":
        weights[key][0, 0] = float("nan")
    elif change == "wrong shape":
        weights[key] = torch.zeros(3, 3)
    elif change == "half missing":
        del weights[key]
    elif change == "unknown":
        weights["base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight"] = torch.zeros(2, 2)
    elif change == "no such layer":
        weights[key.replace("layers.0", "layers.9")] = weights[key]
        other = key.replace("lora_B", "lora_A")
        weights[other.replace("layers.0", "layers.9")] = weights[other].clone()
    elif change == "integers":
        weights[key] = weights[key].to(torch.int32)
    elif change == "empty":
        weights = {}
    save_file({name: weight.contiguous().clone() for name, weight in weights.items()}, path)


@pytest.mark.parametrize(
    "change", ["not finite", "wrong shape", "half missing", "unknown", "no such layer", "integers", "empty"]
)
def test_weights_that_do_not_fit_are_refused(
    model: LanguageModel, adapters: list[Path], tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    broken_weights(folder, change)
    with pytest.raises((Invalid, Unsupported)) as refused:
        model.lora.read("town", folder)
    assert "town" in refused.value.en


def test_weights_that_are_out_of_range_once_scaled_are_refused(
    model: LanguageModel, adapters: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(written | {"lora_alpha": 1e300}))
    with pytest.raises(Invalid, match="out of range"):
        model.lora.read("town", folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "IA3"}', '{"peft_type": "LORA", "r": 0, "lora_alpha": 1}'])
def test_a_config_that_is_no_lora_is_refused(
    model: LanguageModel, adapters: list[Path], tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(Invalid):
        model.lora.read("town", folder)


def test_a_folder_without_safetensors_is_not_found(model: LanguageModel, adapters: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(NotFound):
        model.lora.read("town", folder)
    with pytest.raises(NotFound):
        model.lora.read("town", tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["a pickle", "truncated", "nothing", "a header that lies"])
def test_a_file_that_is_no_safetensors_is_refused_whatever_its_name(
    model: LanguageModel, adapters: list[Path], tmp_path: Path, content: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    if content == "a pickle":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        size = (1 << 62).to_bytes(8, "little")
        path.write_bytes({"truncated": whole[:-100], "nothing": b"", "a header that lies": size + whole[8:]}[content])
    with pytest.raises(Invalid) as refused:
        model.lora.read("town", folder)
    assert "town" in refused.value.en


def test_an_adapter_for_a_base_of_another_size_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    larger = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(other))
    shutil.rmtree(other)
    larger.save_pretrained(other)
    folder = make_tiny_adapter(other, tmp_path / "adapter", seed=1)
    with pytest.raises(Invalid, match="expected"):
        model.lora.read("town", folder)
