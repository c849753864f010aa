"""LoRA layers against autograd and against PEFT: the same numbers, the same gradients."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.training.conftest import encoded
from tunesmith.training.data.encoding import Encoded, Encoder
from tunesmith.training.loop.layout import packed, padded
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora import FrozenLinear, LoraLinear, kept
from tunesmith.training.loop.lora_mlp import LoraGatedMLP
from tunesmith.training.loop.lora_modules import linear_modules, lora_layers, with_lora
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.peft_files import save_adapter
from tunesmith.training.run import Recipe

pytestmark = pytest.mark.usefixtures("seeded")

RECIPE = Recipe("tiny", "d", rank=4, alpha=8.0, dropout=0.0)
CPU = torch.device("cpu")


def linear(inner: int, outer: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    made = nn.Linear(inner, outer, bias=bias).to(dtype)
    made.requires_grad_(False)
    return made


def layer(recipe: Recipe = RECIPE, **options: Any) -> LoraLinear:
    made = LoraLinear(linear(12, 10, **options), recipe)
    nn.init.normal_(made.lora_B, std=0.3)
    return made


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("dropped", [False, True])
def test_a_layer_gives_what_autograd_gives(dropped: bool) -> None:
    lora = layer(replace(RECIPE, dropout=0.4 if dropped else 0.0)).train(dropped)
    x, probe = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 10)
    torch.manual_seed(9)
    ours = lora(x)
    torch.manual_seed(9)
    mask = kept(x.flatten(0, 1), 12, lora.dropout if dropped else 0.0)
    seen = x if mask is None else x * mask.view_as(x)
    base = lora.base_layer
    plain = functional.linear(x, base.weight, base.bias) + 2.0 * seen @ lora.lora_A.t() @ lora.lora_B.t()
    torch.testing.assert_close(ours, plain)
    wanted = gradients((plain * probe).sum(), x, lora.lora_A, lora.lora_B)
    for got, want in zip(gradients((ours * probe).sum(), x, lora.lora_A, lora.lora_B), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_gated_block_gives_what_its_layers_give_one_by_one() -> None:
    class Block(nn.Module):
        def __init__(self, recipe: Recipe) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = (LoraLinear(linear(12, 20, bias=False), recipe) for _ in range(2))
            self.down_proj, self.act_fn = LoraLinear(linear(20, 12, bias=False), recipe), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    block = Block(RECIPE)
    for each in (block.gate_proj, block.up_proj, block.down_proj):
        nn.init.normal_(each.lora_B, std=0.3)
    weights = [p for p in block.parameters() if p.requires_grad]
    x, probe = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 12)
    ours, plain = LoraGatedMLP(block)(x), block(x)
    torch.testing.assert_close(ours, plain)
    wanted = gradients((plain * probe).sum(), x, *weights)
    for got, want in zip(gradients((ours * probe).sum(), x, *weights), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_block_that_computes_something_else_keeps_its_own_forward(tiny_base: Path) -> None:
    model = load_base(tiny_base, None)
    original = type(model.model.layers[0].mlp).forward
    model.model.layers[0].mlp.forward = lambda x: 2 * original(model.model.layers[0].mlp, x)
    with_lora(model, RECIPE)
    assert [isinstance(each.mlp, LoraGatedMLP) for each in model.model.layers] == [False, True]


def test_a_narrow_weight_is_computed_with_wide() -> None:
    narrow = layer(dtype=torch.bfloat16)
    wide = layer()
    wide.load_state_dict({name: value.float() for name, value in narrow.state_dict().items()})
    x = torch.randn(7, 12, requires_grad=True)
    assert narrow(x).dtype is torch.float32 and torch.equal(narrow(x), wide(x))
    for one, other in zip(
        gradients(narrow(x).square().sum(), x, narrow.lora_A, narrow.lora_B),
        gradients(wide(x).square().sum(), x, wide.lora_A, wide.lora_B),
        strict=True,
    ):
        assert torch.equal(one, other)
    bare = FrozenLinear(narrow.base_layer)
    assert torch.equal(bare(x), FrozenLinear(wide.base_layer)(x))


@pytest.fixture
def facts(tokenizer: Any) -> list[Encoded]:
    encoder = Encoder(tokenizer, 64)
    asked = ("Who is the mayor?", "市长是谁？", "What is the river called, and who gave it that name?", "Hi.")
    return [encoded(encoder, ("user", q), ("assistant", f"{q} Ada."), line=n) for n, q in enumerate(asked, 1)]


def stirred(model: Any) -> Any:
    """The model with LoRA weights that are not zero."""
    for each in lora_layers(model).values():
        nn.init.normal_(each.lora_B, std=0.05)
        if each.magnitude is not None:
            each.magnitude.data.mul_(1 + 0.1 * torch.rand_like(each.magnitude))
    return model


def through_peft(base: Path, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder, is_trainable=True).eval()


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "two modules", "one module of one layer"])
def test_peft_opens_what_is_saved_and_finds_the_same_loss_and_gradients(
    kind: str, tiny_base: Path, tmp_path: Path, facts: list[Encoded]
) -> None:
    targets: dict[str, tuple[str, ...]] = {
        "two modules": ("q_proj", "down_proj"), "one module of one layer": ("layers.1.self_attn.v_proj",),
    }  # fmt: skip
    recipe = replace(RECIPE, use_rslora=kind == "rslora", use_dora=kind == "dora", target_modules=targets.get(kind, ()))
    model = stirred(with_lora(load_base(tiny_base, None), recipe))
    save_adapter(tmp_path, model, recipe)
    peft = through_peft(tiny_base, tmp_path)
    batch = padded(facts, CPU)
    logits = peft(input_ids=batch.tokens_BT).logits.flatten(0, 1)[batch.from_N]
    theirs = functional.cross_entropy(logits, batch.labels_N, reduction="sum")
    theirs.backward()
    surprise = Surprise(model)
    assert surprise.packs
    ours = surprise(packed(facts, CPU)).sum()
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    found = {name: p.grad for name, p in peft.named_parameters() if p.grad is not None}
    for name, each in lora_layers(model).items():
        for got, part in ((each.lora_A, "lora_A.default.weight"), (each.lora_B, "lora_B.default.weight")):
            want = found[f"base_model.model.{name}.{part}"]
            torch.testing.assert_close(got.grad, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()) + 1e-6)
        if each.magnitude is not None:
            want = found[f"base_model.model.{name}.lora_magnitude_vector.default.weight"]
            torch.testing.assert_close(each.magnitude.grad, want, rtol=1e-3, atol=1e-4)
    assert len(found) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kernels", [True, False])
def test_a_base_in_bfloat16_on_a_processor_without_it_is_computed_as_one_in_float32(
    kernels: bool, tiny_base: Path, tmp_path: Path, facts: list[Encoded], monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    from transformers import AutoModelForCausalLM

    if not kernels:
        monkeypatch.setattr("tunesmith.training.loop.frozen.library", lambda: None)
    else:
        request.getfixturevalue("threads")
    folder = tmp_path / "narrow"
    AutoModelForCausalLM.from_pretrained(tiny_base).to(torch.bfloat16).save_pretrained(folder)
    monkeypatch.setattr("tunesmith.training.loop.loading._SMALL", 0)
    monkeypatch.setattr("tunesmith.training.loop.loading._native_bfloat16", lambda: False)
    recipe = replace(RECIPE, target_modules=("q_proj", "down_proj"))
    narrow = stirred(with_lora(load_base(folder, None), recipe))
    torch.manual_seed(3)
    monkeypatch.setattr("tunesmith.training.loop.loading._SMALL", 1 << 40)
    wide = with_lora(load_base(folder, None), recipe)
    wide.load_state_dict(narrow.state_dict(), strict=False)
    for one, other in zip(lora_layers(narrow).values(), lora_layers(wide).values(), strict=True):
        other.lora_A.data.copy_(one.lora_A)
        other.lora_B.data.copy_(one.lora_B)
    kept_as = {p.dtype for p in narrow.model.layers.parameters() if not p.requires_grad and p.ndim == 2}
    assert kept_as == {torch.bfloat16} and {p.dtype for p in wide.parameters()} == {torch.float32}

    def scored(model: Any) -> tuple[Tensor, list[Tensor]]:
        loss = Surprise(model)(packed(facts, CPU)).sum()
        return loss, gradients(loss, *(p for p in model.parameters() if p.requires_grad))

    (loss, grads), (wanted, expected) = scored(narrow), scored(wide)
    torch.testing.assert_close(loss, wanted, rtol=1e-4 if kernels else 1e-6, atol=1e-5)
    for got, want in zip(grads, expected, strict=True):
        assert (got - want).norm() <= (3e-3 if kernels else 1e-5) * want.norm()


@pytest.mark.parametrize("quantization,off", [("int8", 0.02), ("int4", 0.2)])
def test_a_quantized_base_is_computed_with_as_what_its_codes_stand_for(
    quantization: str, off: float, tiny_base: Path, facts: list[Encoded]
) -> None:
    quantized = stirred(with_lora(load_base(tiny_base, quantization), RECIPE))
    plain = with_lora(load_base(tiny_base, None), RECIPE)
    for name, each in lora_layers(quantized).items():
        twin = lora_layers(plain)[name]
        exact, stands_for = twin.base_layer.weight, each.weight_as(torch.float32)
        error = (stands_for - exact).norm() / exact.norm()
        assert 0 < error < off
        twin.base_layer.weight.data.copy_(stands_for)
        twin.lora_A.data.copy_(each.lora_A)
        twin.lora_B.data.copy_(each.lora_B)

    def scored(model: Any) -> list[Tensor]:
        loss = Surprise(model)(packed(facts, CPU)).sum()
        return [loss, *gradients(loss, *(p for p in model.parameters() if p.requires_grad))]

    for got, want in zip(scored(quantized), scored(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_layers_of_a_quantized_base_that_wear_no_lora_are_computed_with_alike(tiny_base: Path) -> None:
    x = torch.randn(3, 64)

    def of(*targets: str) -> Any:
        model = with_lora(load_base(tiny_base, "int4"), replace(RECIPE, target_modules=targets))
        return model.model.layers[0].self_attn

    assert torch.equal(of("q_proj").q_proj(x), of("k_proj").q_proj(x))


def test_a_row_of_zeros_has_no_direction_and_stays_zero() -> None:
    base = linear(12, 10, bias=False)
    base.weight[3] = 0
    dora = LoraLinear(base, replace(RECIPE, use_dora=True))
    x = torch.randn(4, 12, requires_grad=True)
    assert dora(x).isfinite().all() and not dora(x)[:, 3].any()


def test_a_model_whose_positions_depend_on_the_longest_in_a_row_is_not_packed() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_type": "longrope", "rope_theta": 10000.0}
    model = llama(
        rope_parameters=factors | {"original_max_position_embeddings": 16}, original_max_position_embeddings=16
    ).eval()
    model.requires_grad_(False)
    assert not Surprise(with_lora(model, RECIPE)).packs


def test_only_layers_that_are_linear_and_nothing_else_wear_lora(tiny_base: Path) -> None:
    class Router(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return x, super().forward(x)

    model = load_base(tiny_base, None)
    model.model.layers[0].router = Router(64, 2)
    assert "router" not in linear_modules(model)


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


def mistral_with_a_window() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6))


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=600, n_embd=32, n_layer=2, n_head=4, n_positions=128))


def phi3() -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**SHAPE, pad_token_id=0))


SHAPE: dict[str, Any] = {
    "vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    "make,packs",
    [(llama, True), (mistral_with_a_window, True), (qwen3, True), (phi3, True), (gemma2, False), (gpt2, True)],
)
def test_any_architecture_is_scored_as_it_scores_each_example_alone(
    make: Callable[[], Any], packs: bool, facts: list[Encoded]
) -> None:
    model = make().eval()
    model.requires_grad_(False)
    expected = 0.0
    for example in facts:
        logits = model(input_ids=torch.tensor([list(example.tokens)])).logits[0]
        said = functional.log_softmax(logits.float(), -1)
        expected -= sum(
            float(said[at - 1, token]) for at, token in enumerate(example.tokens) if example.trained[at]
        )  # fmt: skip
    surprise = Surprise(with_lora(model, RECIPE))
    assert surprise.packs is packs
    assert max(map(len, facts)) > 6  # longer than the window of the model that has one
    total = sum(float(surprise(surprise.laid(part)).sum().detach()) for part in surprise.parts(facts))
    assert math.isclose(total, expected, rel_tol=1e-4)
