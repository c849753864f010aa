"""Rotary embeddings in one pass: against transformers in float64, and in attention modules of models that have them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.training.loop.test_lora import RECIPE, gemma2, gpt2, llama, mistral_with_a_window, phi3, qwen3
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.rotary import TurnedAttention, turned

pytestmark = pytest.mark.usefixtures("seeded", "in_tiles")

SHAPES = [(1, 1, 2), (3, 2, 6), (17, 3, 64), (33, 14, 80), (5, 1, 256)]


def drawn(tokens: int, heads: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heads that lie apart, cosines and sines, and a gradient; each half has angles of its own."""
    x = torch.randn(heads, tokens, dim + 8).bfloat16()[:, :, :dim].transpose(0, 1)
    angles = 9 * torch.rand(tokens, dim)
    return x, angles.cos().bfloat16(), angles.sin().bfloat16(), torch.randn(tokens, heads, dim).bfloat16()


def theirs(x: Tensor, cos: Tensor, sin: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x = x.detach().requires_grad_(True)
    y, _ = apply_rotary_pos_emb(x[None], x[None], cos[None], sin[None], unsqueeze_dim=2)
    return y.detach()[0], torch.autograd.grad(y, x, grad[None])[0]


def ours(by: Library, x: Tensor, cos: Tensor, sin: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return by.turned(x, cos, sin), by.turned(grad, cos, sin, back=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_heads_and_gradients_are_transformers(in_tiles: Callable[[int], Library], shape: tuple[int, int, int]) -> None:
    given = drawn(*shape)
    exact = theirs(*(each.double() for each in given))
    for got, want, other in zip(ours(in_tiles(1), *given), exact, theirs(*given), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2**-7.99, atol=1e-6)
        assert (got - want).norm() <= (other - want).norm()


def test_what_is_no_number_spoils_its_head_and_no_other(in_tiles: Callable[[int], Library]) -> None:
    x, cos, sin, grad = drawn(5, 3, 64)
    for bad in (float("nan"), float("inf")):
        x[2, 1, 40] = grad[2, 1, 40] = bad
        for found in ours(in_tiles(1), x, cos, sin, grad):
            assert found.isfinite().all(2).logical_not().nonzero().tolist() == [[2, 1]]


def test_the_bytes_are_the_same_for_any_number_of_threads_and_any_neighbours(
    in_tiles: Callable[[int], Library],
) -> None:
    x, cos, sin, grad = drawn(77, 3, 48)
    one = ours(in_tiles(1), x, cos, sin, grad)
    for count in (2, 3):
        assert all(map(torch.equal, ours(in_tiles(count), x, cos, sin, grad), one))
    for got, want in zip(ours(in_tiles(2), *(each[30:35] for each in (x, cos, sin, grad))), one, strict=True):
        assert torch.equal(got, want[30:35])


@pytest.mark.parametrize(
    "make,count", [(llama, 2), (qwen3, 2), (mistral_with_a_window, 2), (gemma2, 2), (phi3, 0), (gpt2, 0)]
)
def test_modules_that_turn_heads_so_are_replaced_and_their_layers_keep_their_names(
    make: Callable[[], Any], count: int
) -> None:
    names = {name for name, _ in make().named_modules()}
    model = with_lora(make().bfloat16().requires_grad_(False), RECIPE)
    found = [module for module in model.modules() if isinstance(module, TurnedAttention)]
    assert len(found) == count
    assert {name.replace(".base_layer", "") for name, _ in model.named_modules()} == names
    for module in found:
        assert [module.train(mode)._own[0].training for mode in (False, True)] == [False, True]


def test_it_is_told_the_window_that_the_model_tells_its_own() -> None:
    model = with_lora(mistral_with_a_window().bfloat16().requires_grad_(False), RECIPE)
    windows = {each._given["sliding_window"] for each in model.modules() if isinstance(each, TurnedAttention)}
    assert windows == {model.config.sliding_window}


def attention(change: Callable[[Any], None]) -> Any:
    module = llama().bfloat16().requires_grad_(False).model.layers[0].self_attn
    change(module)
    return module


def _dropped(module: Any) -> None:
    module.attention_dropout = 0.1


def _doubled(module: Any) -> None:
    module.q_proj.register_forward_hook(lambda layer, given, out: 2 * out)
    own = module.forward
    module.forward = lambda *given, **named: (own(*given, **named)[0] / 2, None)


def _gated(module: Any) -> None:
    module.gate = nn.Linear(4, 4)


@pytest.mark.parametrize("change", [_dropped, _doubled, _gated])
def test_a_module_that_computes_something_else_keeps_its_own_forward(change: Callable[[Any], None]) -> None:
    assert turned(attention(lambda module: None), torch.bfloat16) is not None
    assert turned(attention(change), torch.bfloat16) is None


def test_only_what_is_computed_in_bfloat16_is_replaced() -> None:
    assert turned(llama().requires_grad_(False).model.layers[0].self_attn, torch.float32) is None
