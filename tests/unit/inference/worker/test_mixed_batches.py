"""Any family, base and adapters of several ranks, up to 16 rows that come and go at random, beginnings used again.

What a row says is compared with one plain forward of transformers over all of it: greedy tokens are the most likely ones
in every place, which is what ``generate`` takes, and the log-probabilities are those of the same forward.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tests.unit.inference.worker.conftest import every_way
from tunesmith.inference.engine import Sampling, TokenLogprob
from tunesmith.inference.worker.events import Ended, RowEvent, Text
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler

ROUNDING = 1e-4
RANKS = (1, 4, 9)
VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BOOK = [5 + (7 * i * i + 3 * i) % 90 for i in range(200)]


@dataclass(frozen=True)
class Ask:
    """One row: it begins like others do, then goes its own way.

    Attributes:
        turn: goes on from what the row before it said.
        wait: steps before it comes. lives: steps until it is canceled; 0 for ever.
    """

    shared: int
    own: int
    worn: int
    tokens: int
    turn: bool
    told: bool
    wait: int
    lives: int


asks = st.builds(
    Ask,
    shared=st.sampled_from([1, 15, 40, 90]),
    own=st.integers(0, 40),
    worn=st.integers(0, len(RANKS)),
    tokens=st.integers(1, 14),
    turn=st.booleans(),
    told=st.booleans(),
    wait=st.integers(0, 4),
    lives=st.sampled_from([0, 0, 0, 1, 5]),
)


class Engine:
    """A family's tiny model in our engine, and for each adapter a plain model it is merged into."""

    def __init__(self, config: Any, folder: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
            self.plain = [AutoModelForCausalLM.from_pretrained(folder / "base")]
            self.model = LanguageModel(folder / "base", cache_bytes=1 << 22)
            self.worn: list[AdapterWeights | None] = [None]
            for rank in RANKS:
                self.plain.append(merged(self.plain[0], rank, folder / f"rank{rank}"))
                self.worn.append(self.model.lora.read(f"rank{rank}", folder / f"rank{rank}"))
        self.events: list[tuple[Row, RowEvent]] = []
        self.scheduler = Scheduler(
            self.model, lambda ids: "x" * len(ids), frozenset(), max_rows=16, deliver=self.events.extend
        )
        self.reused = 0

    def run(self, plan: list[Ask]) -> None:
        rows: list[tuple[Ask, Row]] = []
        for ask in plan:
            prompt = BOOK[: ask.shared] + BOOK[ask.own : 2 * ask.own]
            if ask.turn and rows:
                before = rows[-1][1]
                prompt = [*before.prompt, *before.tokens, *BOOK[: ask.own + 1]]
            sampling = Sampling(ask.tokens, 0.0, 1.0, 0, 1.0, top_logprobs=1 if ask.told else None)
            spell = (lambda token: bytes([token])) if ask.told else None
            rows.append((ask, Row(prompt, sampling, self.worn[ask.worn], str(ask.worn), spell=spell)))
            self.scheduler.add(rows[-1][1])
            self.steps(ask.wait, rows)
        while not self.scheduler.idle:
            self.steps(1, rows)
        for ask, row in rows:
            self.check(ask, row)

    def steps(self, times: int, rows: list[tuple[Ask, Row]]) -> None:
        for _ in range(times):
            for ask, row in rows:
                row.canceled = 0 < ask.lives <= len(row.tokens)
            with torch.inference_mode():
                self.scheduler.step()

    def check(self, ask: Ask, row: Row) -> None:
        said = [event for owner, event in self.events if owner is row]
        whole = isinstance(said[-1], Ended) if said else False
        assert whole or row.canceled
        assert len(row.tokens) == ask.tokens or not whole
        if not row.tokens:
            return
        self.reused += max(0, row.cached)
        first = len(row.prompt) - 1
        with torch.no_grad():
            logits = self.plain[ask.worn](torch.tensor([[*row.prompt, *row.tokens]])).logits[0, first:-1].float()
        shares = logits.log_softmax(-1)
        best = logits.max(-1)
        for place, token in enumerate(row.tokens):
            assert token == best.indices[place] or logits[place, token] > best.values[place] - ROUNDING
        told = [one for event in said if isinstance(event, Text) for one in event.logprobs]
        expected = [float(shares[place, token]) for place, token in enumerate(row.tokens)]
        assert [one.logprob for one in told] == pytest.approx(expected[: len(told)], abs=ROUNDING)
        assert len(told) == (len(row.tokens) if ask.told and whole else len(told))
        assert all(likeliest(one) == pytest.approx(one.logprob, abs=ROUNDING) for one in told)


def likeliest(told: TokenLogprob) -> float:
    return told.top[0].logprob if told.top else math.nan


def merged(base: Any, rank: int, folder: Path) -> Any:
    """Write a random adapter to ``folder``; a copy of ``base`` that has it in its weights."""
    model = copy.deepcopy(base)
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            A = torch.randn(rank, module.in_features) * 0.3
            B = torch.randn(module.out_features, rank) * 0.3
            module.weight.data += 2 * B @ A
            weights[f"base_model.model.{name}.lora_A.weight"] = A
            weights[f"base_model.model.{name}.lora_B.weight"] = B
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}))
    return model


@every_way
@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZES, tie_word_embeddings=True),
        Qwen3Config(**SIZES, head_dim=16),
        LlamaConfig(**SIZES),
        MistralConfig(**SIZES, sliding_window=11),
        GemmaConfig(**SIZES, head_dim=16),
        Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=9, layer_types=["sliding_attention", "full_attention"]),
        Phi3Config(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_rows_of_any_batch_say_what_transformers_says(config: Any, computed_by: str, tmp_path: Path) -> None:
    engine = Engine(config, tmp_path)
    assert (engine.model._program is not None) == (computed_by == "compiled")

    @settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(asks, min_size=8, max_size=16))
    def any_batch(plan: list[Ask]) -> None:
        engine.run(plan)

    any_batch()
    assert engine.reused > 0
    recorded = engine.model._graphs
    assert (recorded is not None) == (computed_by in ("graphs", "cuda"))
    if recorded is None:
        assert engine.model.cache.allocated == 0
    else:
        assert recorded.on and recorded.recorded > 3
