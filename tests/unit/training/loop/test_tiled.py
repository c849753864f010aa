"""Products of bfloat16 on tiles: right within its rounding, and the same for any number of threads and neighbours."""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tunesmith.training.loop.lora import FrozenLinear, LoraLinear, weight_of
from tunesmith.training.loop.lora_mlp import LoraGatedMLP
from tunesmith.training.loop.native import library as native
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.native.structs import LowRank
from tunesmith.training.run import Recipe

pytestmark = pytest.mark.usefixtures("seeded")

RANKS = [1, 8, 16, 17, 64, 256]
# rows, summed, columns: whole stripes, blocks and panels, and broken ones
SHAPES = [(32, 256, 32), (1, 1, 1), (7, 15, 17), (33, 2081, 70), (13, 257, 16), (200, 96, 900), (40, 4864, 128)]
RECIPE = Recipe("tiny", "d", rank=16, alpha=32.0, dropout=0.0)
HALF = 2.0**-8  # the largest error of rounding to bfloat16, relatively
COMPILERS = ("cc", "gcc", "clang")


def test_tiles_are_used_wherever_there_are_any() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    compiler = os.environ.get("CC") or any(map(shutil.which, COMPILERS))
    there = {"amx_bf16", "amx_tile", "amx_int8", "avx512_bf16"} <= set(flags.split())
    if not (there and compiler and platform.machine().lower() in ("x86_64", "amd64")):
        pytest.skip("no tiles, or no compiler")
    assert native.reason(torch.bfloat16) == "", "python hatch_build.py compiles them, with GCC 11 or clang 12"


def weights(inner: int, columns: int) -> tuple[Tensor, Tensor]:
    """Plain and transposed."""
    return torch.randn(inner, columns).bfloat16(), torch.randn(columns, inner).bfloat16().t()


def branches(inner: int, columns: int, rank: int) -> tuple[LowRank, LowRank]:
    """As the forward has it, and as the backward."""
    forward = LowRank(torch.randn(rank, inner).t(), torch.randn(columns, rank).t(), second_scale=1.7)
    return forward, LowRank(torch.randn(inner, rank), torch.randn(rank, columns), first_scale=1.7)


def off(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_exact_but_for_rounding_the_result(
    in_tiles: Callable[[int], Library], shape: tuple[int, int, int]
) -> None:
    rows, inner, columns = shape
    x, bias = torch.randn(rows, inner).bfloat16(), torch.randn(columns)
    narrow, wide = torch.randn(rows, columns).bfloat16(), torch.randn(rows, columns)
    for weight in weights(inner, columns):
        exact = x.double() @ weight.double()
        found = in_tiles(1).product(x, weight, bias, wide=True)
        assert found.dtype is torch.float32 and off(found, exact + bias.double()) < 2e-6
        assert torch.equal(in_tiles(1).product(x, weight, bias), found.bfloat16())
        bare = in_tiles(1).product(x, weight, wide=True)
        onto = wide.clone()
        assert in_tiles(1).product(x, weight, onto=onto) is onto and torch.equal(onto, bare + wide)
        onto = narrow.clone()
        assert in_tiles(1).product(x, weight, onto=onto) is onto
        assert torch.equal(onto, (bare + narrow.float()).bfloat16())


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_branch_is_as_exact_as_bfloat16(
    in_tiles: Callable[[int], Library], shape: tuple[int, int, int], rank: int
) -> None:
    rows, inner, columns = shape
    x, bias, onto = torch.randn(rows, inner).bfloat16(), torch.randn(columns), torch.randn(rows, columns).bfloat16()
    for weight in weights(inner, columns):
        for low in branches(inner, columns, rank):
            first = (low.first_scale * low.first).bfloat16().double()
            middle = x.double() @ first
            found, seen = in_tiles(1).product_beside(x, weight, low)
            assert seen.dtype is torch.float32 and seen.shape == (rows, rank) and off(seen, middle) < 2e-6
            second = (low.second_scale * low.second).bfloat16().double()
            wanted = x.double() @ weight.double() + seen.bfloat16().double() @ second
            assert found.dtype is torch.bfloat16 and off(found, wanted) < HALF
            given = onto.clone()
            found, again = in_tiles(1).product_beside(x, weight, low, bias, given)
            assert found is given and torch.equal(again, seen)
            assert off(found, wanted + bias.double() + onto.double()) < HALF


@pytest.mark.parametrize("rank", [*RANKS, 300])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_over_rows_are_exact_but_for_rounding_the_low_ones(
    in_tiles: Callable[[int], Library], shape: tuple[int, int, int], rank: int
) -> None:
    rows, inner, columns = shape
    x, grad = torch.randn(rows, inner).bfloat16(), torch.randn(rows, columns).bfloat16()
    low, grad_low = torch.randn(rows, rank + 3)[:, :rank], torch.randn(rows, rank).bfloat16()
    A, B = in_tiles(2).outer_products(grad, low, x, grad_low, 0.3)
    assert A.dtype is torch.float32 and A.is_contiguous() and off(A, grad_low.double().t() @ x.double()) < 2e-6
    assert B.is_contiguous() and off(B, 0.3 * grad.double().t() @ low.bfloat16().double()) < 2e-6


@pytest.mark.parametrize("rank", [8, 17])
def test_the_bytes_depend_on_no_threads_and_no_neighbours(in_tiles: Callable[[int], Library], rank: int) -> None:
    for rows, inner, columns in ((1000, 300, 40), (700, 896, 128), (1100, 128, 896), (50, 300, 2000), (600, 2100, 600)):
        x, bias = torch.randn(rows, inner).bfloat16(), torch.randn(columns)
        grad = torch.randn(rows, columns).bfloat16()
        for weight, low in zip(weights(inner, columns), branches(inner, columns, rank), strict=True):
            alone, middle = in_tiles(1).product_beside(x, weight, low, bias)
            sums = in_tiles(1).outer_products(grad, middle, x, middle, 0.3)
            for count in (1, 2, 5):
                found = in_tiles(count).product_beside(x, weight, low, bias)
                assert all(map(torch.equal, found, (alone, middle)))
                assert all(map(torch.equal, in_tiles(count).outer_products(grad, middle, x, middle, 0.3), sums))
            found, part = in_tiles(2).product_beside(x[11:48], weight, low, bias)
            assert torch.equal(found, alone[11:48]) and torch.equal(part, middle[11:48])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 298])
def test_what_is_no_number_shows_where_it_went_in(in_tiles: Callable[[int], Library], wrong: float, at: int) -> None:
    for weight, low in zip(weights(299, 70), branches(299, 70, 17), strict=True):
        x, grad = torch.randn(40, 299).bfloat16(), torch.randn(40, 70).bfloat16()
        right, middle = in_tiles(2).product_beside(x, weight, low)
        sums = in_tiles(2).outer_products(grad, middle, x, middle, 1.0)
        others = [row for row in range(40) if row != 4]
        x[4, at] = wrong
        found, seen = in_tiles(2).product_beside(x, weight, low)
        assert not found[4].isfinite().any() and not seen[4].isfinite().any()
        assert torch.equal(found[others], right[others]) and torch.equal(seen[others], middle[others])
        columns = [column for column in range(299) if column != at]
        A, _ = in_tiles(2).outer_products(grad, middle, x, middle, 1.0)
        assert not A[:, at].isfinite().any() and torch.equal(A[:, columns], sums[0][:, columns])
        x[4, at], weight[at, 17] = 0.0, wrong
        found = in_tiles(2).product(x, weight)
        assert not found[:, 17].isfinite().any() and found[:, :17].isfinite().all() and found[:, 18:].isfinite().all()


def test_a_spoilt_middle_shows_even_where_b_is_zero(in_tiles: Callable[[int], Library]) -> None:
    """As it is at the first step."""
    low = replace(branches(300, 64, 8)[0], second=torch.zeros(64, 8).t())
    low.first[3, 5] = float("nan")
    assert in_tiles(1).product_beside(torch.randn(40, 300).bfloat16(), weights(300, 64)[0], low)[0].isnan().all()


def test_nothing_gives_nothing(in_tiles: Callable[[int], Library]) -> None:
    low, bias = branches(40, 24, 8)[0], torch.randn(24)
    found, middle = in_tiles(2).product_beside(torch.empty(0, 40).bfloat16(), weights(40, 24)[0], low)
    assert found.shape == (0, 24) and middle.shape == (0, 8)
    empty, x = branches(0, 24, 8)[0], torch.empty(3, 0).bfloat16()
    found, middle = in_tiles(2).product_beside(x, weights(0, 24)[0], empty, bias)
    assert torch.equal(found, bias.bfloat16().expand(3, 24)) and torch.equal(middle, torch.zeros(3, 8))
    assert in_tiles(2).product(torch.randn(3, 40).bfloat16(), weights(40, 24)[0][:, :0]).shape == (3, 0)
    none = torch.empty(0, 8)
    A, B = in_tiles(2).outer_products(torch.empty(0, 24).bfloat16(), none, torch.empty(0, 40).bfloat16(), none, 1.0)
    assert torch.equal(A, torch.zeros(8, 40)) and torch.equal(B, torch.zeros(24, 8))


def test_few_rows_and_weights_of_other_formats_are_multiplied_by_torch(in_tiles: Callable[[int], Library]) -> None:
    linear, x = nn.Linear(300, 200).bfloat16(), torch.randn(100, 300).bfloat16()
    assert torch.equal(weight_of(linear).times(x, linear.bias), in_tiles(1).product(x, linear.weight.t(), linear.bias))
    assert torch.equal(weight_of(linear).times(x[:8], linear.bias), linear(x[:8]))
    wide = nn.Linear(300, 200)
    assert torch.equal(weight_of(wide).times(x, None), nn.functional.linear(x, wide.weight.bfloat16()))


def narrow(inner: int, outer: int, recipe: Recipe, *, bias: bool = False) -> LoraLinear:
    made = LoraLinear(nn.Linear(inner, outer, bias=bias).requires_grad_(False).bfloat16(), recipe)
    nn.init.normal_(made.lora_B, std=0.3)
    return made


def gradients(y: Tensor, probe: Tensor, of: list[Tensor]) -> list[Tensor]:
    return [grad.float() for grad in torch.autograd.grad((y.float() * probe.float()).sum(), of)]


def no_worse(found: list[Tensor], torchs: list[Tensor], exact: list[Tensor]) -> None:
    for mine, other, right in zip(found, torchs, exact, strict=True):
        assert off(mine, right.double()) < max(2 * HALF, 1.2 * off(other, right.double()))


@pytest.mark.parametrize(("inner", "outer"), [(300, 200), (200, 40), (40, 200)])
@pytest.mark.parametrize("rank", [1, 16, 17])
def test_gradients_of_a_layer_are_autograds_within_rounding(
    in_tiles: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, rank: int, inner: int, outer: int
) -> None:
    layer = narrow(inner, outer, replace(RECIPE, rank=rank), bias=True)
    x, probe = torch.randn(3, 37, inner).bfloat16().requires_grad_(), torch.randn(3, 37, outer).bfloat16()
    wide = x.detach().float().requires_grad_()
    low = (wide @ layer.lora_A.t()) @ layer.lora_B.t()
    y = wide @ layer.base_layer.weight.float().t() + layer.scale * low + layer.bias.float()
    exact = gradients(y, probe, [wide, layer.lora_A, layer.lora_B])
    of = [x, layer.lora_A, layer.lora_B]
    mine = layer(x)
    found, bare = gradients(mine, probe, of), gradients(layer(x.detach()), probe, of[1:])
    with monkeypatch.context() as without:
        without.setattr("tunesmith.training.loop.frozen.library_for", lambda x: None)
        other = layer(x)
        torchs = gradients(other, probe, of)
    assert mine.dtype is torch.bfloat16
    no_worse([mine, *found, *bare], [other, *torchs, *torchs[1:]], [y, *exact, *exact[1:]])
    grad = gradients(FrozenLinear(layer.base_layer)(x), probe, [x])[0]
    assert off(grad, (probe.float() @ layer.base_layer.weight.float()).double()) < HALF


def test_gradients_of_a_gated_block_are_autograds_within_rounding(
    in_tiles: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = narrow(96, 300, RECIPE), narrow(96, 300, RECIPE), narrow(300, 96, RECIPE)  # fmt: skip
            self.act_fn = nn.SiLU()

    block = Block()
    gated = LoraGatedMLP(block)
    x, probe = torch.randn(100, 96).bfloat16().requires_grad_(), torch.randn(100, 96).bfloat16()
    wide = x.detach().float().requires_grad_()
    learned = [weight for weight in gated.parameters() if weight.requires_grad]

    def through(layer: LoraLinear, x: Tensor) -> Tensor:
        return x @ layer.base_layer.weight.float().t() + layer.scale * (x @ layer.lora_A.t()) @ layer.lora_B.t()

    y = through(block.down_proj, nn.functional.silu(through(block.gate_proj, wide)) * through(block.up_proj, wide))
    exact = gradients(y, probe, [wide, *learned])
    found = gradients(gated(x), probe, [x, *learned])
    monkeypatch.setattr("tunesmith.training.loop.frozen.library_for", lambda x: None)
    no_worse(found, gradients(gated(x), probe, [x, *learned]), exact)
