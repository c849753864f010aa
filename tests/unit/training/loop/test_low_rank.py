"""The low-rank branch beside products in block fixed point: float32 exact, and the same for any number of threads."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tunesmith.training.loop.lora import LoraLinear
from tunesmith.training.loop.lora_mlp import LoraGatedMLP
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.native.structs import LowRank
from tunesmith.training.run import Recipe

pytestmark = pytest.mark.usefixtures("seeded")

RANKS = [1, 8, 16, 17, 64, 256]
# rows, summed, columns: whole tiles, blocks and panels, and broken ones
SHAPES = [(6, 256, 32), (1, 1, 1), (7, 15, 17), (33, 513, 70), (13, 257, 16), (200, 96, 900)]
RECIPE = Recipe("tiny", "d", rank=16, alpha=32.0, dropout=0.0)


def weights(inner: int, columns: int) -> tuple[Tensor, Tensor]:
    """Plain and transposed."""
    return torch.randn(inner, columns).bfloat16(), torch.randn(columns, inner).bfloat16().t()


def branches(inner: int, columns: int, rank: int) -> tuple[LowRank, LowRank]:
    """As the forward has it, and as the backward."""
    forward = LowRank(torch.randn(rank, inner).t(), torch.randn(columns, rank).t(), second_scale=1.7)
    return forward, LowRank(torch.randn(inner, rank), torch.randn(rank, columns), first_scale=1.7)


def off(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / (exact.norm() + exact.numel() ** 0.5))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_branch_bias_and_what_was_there_are_added_exactly(
    threads: Callable[[int], Library], shape: tuple[int, int, int], rank: int
) -> None:
    rows, inner, columns = shape
    x, bias, onto = torch.randn(rows, inner), torch.randn(columns).bfloat16(), torch.randn(rows, columns)
    for weight in weights(inner, columns):
        bare = threads(1).product(x, weight).double()
        torch.testing.assert_close(threads(1).product(x, weight, bias).double(), bare + bias.double())
        for low in branches(inner, columns, rank):
            middle = low.first_scale * x.double() @ low.first.double()
            wanted = bare + low.second_scale * middle @ low.second.double()
            found, seen = threads(1).product_beside(x, weight, low)
            assert off(found, wanted) < 2e-6 and off(seen, middle) < 2e-6 and seen.shape == (rows, rank)
            given = onto.clone()
            found, seen = threads(1).product_beside(x, weight, low, bias, given)
            assert found is given and off(found, wanted + bias.double() + onto.double()) < 2e-6


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_over_rows_are_exact(threads: Callable[[int], Library], shape: tuple[int, int, int], rank: int) -> None:
    rows, inner, columns = shape
    x, grad = torch.randn(rows, inner), torch.randn(rows, columns)
    low, grad_low = torch.randn(rows, rank + 3)[:, :rank], torch.randn(rows, rank)
    A, B = threads(2).outer_products(grad, low, x, grad_low, 0.3)
    assert A.is_contiguous() and off(A, grad_low.double().t() @ x.double()) < 2e-6
    assert B.is_contiguous() and off(B, 0.3 * grad.double().t() @ low.double()) < 2e-6


@pytest.mark.parametrize("rank", [8, 17])
def test_the_bytes_depend_on_no_threads_and_no_neighbours(threads: Callable[[int], Library], rank: int) -> None:
    for rows, inner, columns in ((1000, 300, 40), (700, 896, 128), (1000, 128, 896), (50, 300, 2000)):
        x, bias, grad = torch.randn(rows, inner), torch.randn(columns), torch.randn(rows, columns)
        for weight, low in zip(weights(inner, columns), branches(inner, columns, rank), strict=True):
            alone, middle = threads(1).product_beside(x, weight, low, bias)
            sums = threads(1).outer_products(grad, middle, x, middle, 0.3)
            for _ in range(3):
                for count in (1, 2, 3):
                    found = threads(count).product_beside(x, weight, low, bias)
                    assert all(map(torch.equal, found, (alone, middle)))
                    assert all(map(torch.equal, threads(count).outer_products(grad, middle, x, middle, 0.3), sums))
            found, part = threads(2).product_beside(x[11:48], weight, low, bias)
            assert torch.equal(found, alone[11:48]) and torch.equal(part, middle[11:48])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rank", [8, 17])
def test_what_is_no_number_shows_where_it_went_in(threads: Callable[[int], Library], wrong: float, rank: int) -> None:
    for weight, low in zip(weights(299, 70), branches(299, 70, rank), strict=True):
        x, grad = torch.randn(40, 299), torch.randn(40, 70)
        right, middle = threads(2).product_beside(x, weight, low)
        sums = threads(2).outer_products(grad, middle, x, middle, 1.0)
        x[4, 298] = wrong
        found, seen = threads(2).product_beside(x, weight, low)
        assert not found[4].isfinite().any() and not seen[4].isfinite().any()
        others = [row for row in range(40) if row != 4]
        assert torch.equal(found[others], right[others])
        A, B = threads(2).outer_products(grad, middle, x, middle, 1.0)
        assert not A[:, 298].isfinite().any() and torch.equal(A[:, :298], sums[0][:, :298])
        grad[39, 69] = wrong
        B = threads(2).outer_products(grad, middle, x, middle, 1.0)[1]
        assert not B[69].isfinite().any() and torch.equal(B[:69], sums[1][:69])
        x[4, 298] = 0.0
        for spoilt in (low.first, low.second):
            before, spoilt[7, rank - 1 if spoilt is low.first else 69] = spoilt[7].clone(), wrong
            found, seen = threads(2).product_beside(x, weight, low)
            if spoilt is low.first:
                assert not seen[:, -1].isfinite().any() and not found.isfinite().any()
            else:
                assert not found[:, 69].isfinite().any() and found[:, :69].isfinite().all()
            spoilt[7] = before


def test_a_spoilt_middle_shows_even_where_b_is_zero(threads: Callable[[int], Library]) -> None:
    """As it is at the first step."""
    low = replace(branches(300, 64, 8)[0], second=torch.zeros(64, 8).t())
    low.first[3, 5] = float("nan")
    assert threads(1).product_beside(torch.randn(40, 300), weights(300, 64)[0], low)[0].isnan().all()


def test_nothing_gives_nothing(threads: Callable[[int], Library]) -> None:
    low, bias = branches(40, 24, 8)[0], torch.randn(24)
    found, middle = threads(2).product_beside(torch.empty(0, 40), weights(40, 24)[0], low)
    assert found.shape == (0, 24) and middle.shape == (0, 8)
    empty = branches(0, 24, 8)[0]
    found, middle = threads(2).product_beside(torch.empty(3, 0), weights(0, 24)[0], empty, bias)
    assert torch.equal(found, bias.expand(3, 24)) and torch.equal(middle, torch.zeros(3, 8))


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= 1e-3 * wanted.norm())


def narrow(inner: int, outer: int, recipe: Recipe, *, bias: bool) -> LoraLinear:
    made = LoraLinear(nn.Linear(inner, outer, bias=bias).requires_grad_(False).bfloat16(), recipe)
    nn.init.normal_(made.lora_B, std=0.3)
    return made


def composed(layer: LoraLinear, x: Tensor) -> Tensor:
    """From torch's own operations."""
    base, bias = layer.base_layer.weight.float(), layer.bias
    y = x @ base.t() + layer.scale * (x @ layer.lora_A.t()) @ layer.lora_B.t()
    return y if bias is None else y + bias.float()


@pytest.mark.parametrize("rank", [1, 16, 17])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_layer_are_autograds(threads: Callable[[int], Library], rank: int, bias: bool) -> None:
    layer = narrow(300, 200, replace(RECIPE, rank=rank), bias=bias)
    x, probe = torch.randn(3, 37, 300, requires_grad=True), torch.randn(3, 37, 200)
    found, wanted = layer(x), composed(layer, x)
    assert not torch.equal(found, wanted) and close(found, wanted)
    of = (x, layer.lora_A, layer.lora_B)
    found, wanted = (torch.autograd.grad((each * probe).sum(), of) for each in (found, wanted))
    assert all(map(close, found, wanted))
    # an input that is no leaf needs no gradient: that of A and B is the same
    bare = torch.autograd.grad((layer(x.detach()) * probe).sum(), of[1:])
    assert all(map(close, bare, wanted[1:]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_a_gated_block_are_autograds(threads: Callable[[int], Library], dropout: float) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            recipe = replace(RECIPE, dropout=dropout)
            self.gate_proj, self.up_proj = (narrow(96, 300, recipe, bias=False) for _ in range(2))
            self.down_proj, self.act_fn = narrow(300, 96, recipe, bias=False), nn.SiLU()

    block = Block()
    gated = LoraGatedMLP(block)
    x, probe = torch.randn(100, 96, requires_grad=True), torch.randn(100, 96)
    of = [x, *(weight for weight in gated.parameters() if weight.requires_grad)]
    torch.manual_seed(9)
    found = torch.autograd.grad((gated(x) * probe).sum(), of)
    torch.manual_seed(9)

    def masked(wide: int) -> Tensor:
        return torch.empty(100, wide).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else torch.ones(100, wide)

    def through(layer: LoraLinear, x: Tensor, kept: Tensor) -> Tensor:
        low = ((x * kept) @ layer.lora_A.t()) @ layer.lora_B.t()
        return x @ layer.base_layer.weight.float().t() + layer.scale * low

    kept_ND, kept_NF = masked(96), masked(300)
    h = nn.functional.silu(through(block.gate_proj, x, kept_ND)) * through(block.up_proj, x, kept_ND)
    wanted = torch.autograd.grad((through(block.down_proj, h, kept_NF) * probe).sum(), of)
    assert all(map(close, found, wanted))
