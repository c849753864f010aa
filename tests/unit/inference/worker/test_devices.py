"""What runs on a GPU, as far as a machine without one shows it.

Meta tensors have no numbers, but refuse to meet tensors of the processor as a GPU's do.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from tests.unit.inference.worker.taping import Taping
from tunesmith.inference.worker import attention as attentions
from tunesmith.inference.worker.attention import Chunk, PackedAttention, Plan, decode_groups
from tunesmith.inference.worker.block import Decoder
from tunesmith.inference.worker.cache import Cache, LayerShape
from tunesmith.inference.worker.graphs import Graphs
from tunesmith.inference.worker.lora import Lora, Segment
from tunesmith.inference.worker.precision import Precision
from tunesmith.inference.worker.step import Step
from tunesmith.inference.worker.weights import Dense, sliced

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 600,
}
META = torch.device("meta")


class Meta:
    """A model without numbers.

    Attributes:
        cache: two rows of some tokens are in it.
        decoding: their next tokens.
    """

    def __init__(self, config: Any) -> None:
        with META:
            hf = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        self.attention = PackedAttention()
        windows = {0: getattr(config, "sliding_window", None), 1: None}
        precision, lora = Precision("float32", torch.float32), Lora(torch.float32, META)
        self.decoder = Decoder(hf, precision, lora, self.attention, windows, 600)
        self.cache = Cache([LayerShape(2, 16, 16)] * 2, 600, limit=1 << 24, device=META, settled=True)
        one, two = self.cache.lease(20), self.cache.lease(20)
        self.chunks = [Chunk(one, 0, 4, 0), Chunk(two, 4, 7, 3)]
        one.length, two.length = 4, 6
        self.decoding = [(one, 0), (two, 1)]

    def compute(
        self, tokens_T: Tensor, positions_T: Tensor, plan: Plan, segments: Sequence[Segment], keep: Sequence[int]
    ) -> Tensor:
        self.attention.plan = plan
        return self.decoder(tokens_T, positions_T, keep)


@pytest.fixture(
    params=[
        LlamaConfig(**SIZES),
        Gemma3TextConfig(**SIZES, sliding_window=9, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=lambda config: str(config.model_type),
)
def meta(request: pytest.FixtureRequest) -> Any:
    with torch.inference_mode():
        yield Meta(request.param)


def test_nothing_of_a_step_is_on_another_device_than_the_model(meta: Meta) -> None:
    ids = torch.zeros(2, 8, dtype=torch.long, device=META)
    reading = meta.compute(ids[0, :7], ids[1, :7], Plan(meta.chunks, []), (), [6])
    assert (reading.shape, reading.device) == ((1, 97), META)
    saying = meta.compute(ids[0, :2], ids[1, :2], Plan([], decode_groups(meta.decoding, META)), (), [0, 1])
    assert (saying.shape, saying.device) == ((2, 97), META)


def test_nothing_of_a_recorded_step_is_on_another_device(meta: Meta) -> None:
    taping = Taping()
    longest = meta.decoder.tabulated(META)
    graphs = Graphs(meta.compute, taping, vocabulary=97, dtype=torch.float32, device=META, longest=longest)
    step = Step([5, 6], [4, 6], [], meta.decoding, [], [0, 1])
    assert graphs.run(step) is None
    logits = graphs.run(step)
    assert graphs.on and taping.tapes == 1
    assert logits is not None and (logits.shape, logits.device) == ((2, 97), META)


def test_the_weight_a_dora_asks_for_is_on_the_models_device(meta: Meta) -> None:
    for layer in meta.decoder.layers:
        for product in (layer.attention.qkv, layer.attention.out, layer.gate_up, layer.down):
            weight = product.site.weight()
            assert weight.device == META and weight.shape[1] == product.site.inputs


def test_a_head_of_many_outputs_is_one_product_where_nothing_is_packed() -> None:
    weight = torch.empty(100_000, 8, device=META)
    head = sliced(weight, None, Precision("float32", torch.float32))
    assert isinstance(head, Dense) and head._weight is weight  # tied embeddings are in memory once
    assert head(torch.empty(3, 8, device=META)).shape == (3, 100_000)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_by_key_head_is_attention(masked: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        query, key, value = (torch.randn(1, heads, 9, 16) for heads in (6, 2, 2))
    mask = torch.rand(9, 9) < 0.5 if masked else None
    if mask is not None:
        mask.fill_diagonal_(True)
    right = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=not masked, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(attentions._by_key_head(query, key, value, mask, 0.3), right, atol=1e-6)
