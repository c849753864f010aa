"""Any architecture that uses the attention interface runs and stays exact; the others are refused when loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.unit.inference.worker.conftest import every_way
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.events import RowEvent
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler
from tunesmith.inference.worker.step import Step
from tunesmith.kernel.problems import Invalid, Unsupported

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_model(folder: Path, config: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@every_way
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**(SIZES | {"num_key_value_heads": 4}), attention_bias=True, tie_word_embeddings=True),
        MistralConfig(**SIZES, sliding_window=6),
        Qwen3Config(**SIZES, head_dim=16),
        Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        Phi3Config(**SIZES),
        Phi3Config(**SIZES, partial_rotary_factor=0.5),
        Phi3Config(**SIZES | {"hidden_size": 32}),  # heads too narrow for the compiled library
        Qwen2Config(**SIZES, tie_word_embeddings=True),
        GemmaConfig(**SIZES, head_dim=16),
        Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"]),
        Olmo2Config(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_greedy_rows_equal_transformers_generate(config: Any, computed_by: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", config)
    model = LanguageModel(folder, cache_bytes=1 << 26)
    assert model.fused == (config.model_type != "olmo2")
    assert (model._program is not None) == (computed_by == "compiled" and model.fused and config.hidden_size == 64)
    events: list[tuple[Row, RowEvent]] = []
    scheduler = Scheduler(model, lambda ids: "x" * len(ids), frozenset(), max_rows=8, deliver=events.extend)
    greedy = Sampling(max_new_tokens=20, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
    rows = [Row([5 + (7 * i * n) % 90 for i in range(1, 4 + 5 * n)], greedy) for n in range(1, 6)]
    with torch.inference_mode():
        for row in rows:
            scheduler.add(row)
            scheduler.step()
        while not scheduler.idle:
            scheduler.step()
    recorded = computed_by in ("graphs", "cuda") and model.fused
    assert (model._graphs is not None and model._graphs.on) == recorded
    plain = AutoModelForCausalLM.from_pretrained(folder)
    plain.generation_config.eos_token_id = None
    for row in rows:
        ids = torch.tensor([list(row.prompt)])
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert row.tokens == out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, head_dim=8),  # caps its attention scores
        PhimoeConfig(**SIZES, num_local_experts=2, sliding_window=20),  # tells its window to its masks alone
        FalconConfig(
            vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
        ),  # its own attention code
    ],
    ids=["gemma2", "phimoe", "falcon"],
)
def test_an_architecture_this_engine_would_get_wrong_is_refused(config: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", config)
    with pytest.raises(Unsupported) as refused:
        LanguageModel(folder, cache_bytes=1 << 26)
    assert "built-in engine" in refused.value.en
    assert "内置引擎" in refused.value.zh


@pytest.mark.parametrize(("precision", "error"), [("auto", 1e-4), ("float32", 1e-5), ("int8", 0.05)])
def test_a_checkpoint_of_16_bits_gives_what_transformers_computes_in_32(
    precision: str, error: float, computed_by: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES, dtype="bfloat16"))
    model = LanguageModel(folder, cache_bytes=1 << 26, precision=precision)
    tokens = [5, 17, 40, 8]
    lease = model.cache.lease(4)
    with torch.inference_mode():
        found = model.forward(Step(tokens, [0, 1, 2, 3], [Chunk(lease, 0, 4, 0)], [], [], [1, 3])).logits
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        right = plain(torch.tensor([tokens])).logits[0, [1, 3]]
    assert model.fused and plain.config.num_hidden_layers == 2
    if model.precision.name == "bfloat16":  # inputs of products, and through torch all numbers, have 8 bits
        error = 0.01 if computed_by == "compiled" else 0.03
    assert (found - right).norm() < error * right.norm()


def test_gemma_of_16_bits_runs_fused_whatever_its_embeddings_are_scaled_by(tmp_path: Path) -> None:
    sizes = SIZES | {"hidden_size": 40, "num_attention_heads": 4, "dtype": "bfloat16"}  # the root of 40 is not exact
    folder = write_model(tmp_path / "model", GemmaConfig(**sizes, head_dim=16))
    assert LanguageModel(folder, cache_bytes=1 << 26).fused
    capped = Gemma3TextConfig(**sizes, head_dim=16, final_logit_softcapping=1.0)
    assert not LanguageModel(write_model(tmp_path / "capped", capped), cache_bytes=1 << 26).fused


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4))
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Invalid):
        LanguageModel(folder, cache_bytes=1 << 26)


def test_code_in_a_model_folder_is_never_run(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", LlamaConfig(**SIZES))
    config = (folder / "config.json").read_text()
    mapping = '"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"'
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', mapping))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(Invalid):
        LanguageModel(folder, cache_bytes=1 << 26)
    assert not (tmp_path / "ran").exists()


LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (
            Phi3Config(
                **SIZES,
                rope_parameters=LONG | {"original_max_position_embeddings": 100},
                original_max_position_embeddings=100,
            ),
            100,
        ),
        (
            LlamaConfig(
                **SIZES | {"max_position_embeddings": 300},
                rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
            ),
            300,
        ),
    ],
    ids=["longrope", "dynamic"],
)
def test_rotary_embeddings_that_change_with_length_are_used_only_where_they_do_not(
    config: Any, context: int, computed_by: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", config)
    model = LanguageModel(folder, cache_bytes=1 << 26)
    assert model.fused and model.context == context
    tokens = [5 + 7 * n * n % 90 for n in range(context)]
    lease = model.cache.lease(context)
    with torch.inference_mode():
        found = model.forward(
            Step(tokens, range(context), [Chunk(lease, 0, context, 0)], [], [], range(context))
        ).logits
        right = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([tokens])).logits[0]
    assert (found - right).norm() < 1e-5 * right.norm()
