"""Products in block fixed point: how exact, at the edge of what fits, and the same for any number of threads."""

import os
import platform
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tunesmith.training.loop import frozen
from tunesmith.training.loop.frozen import Weight
from tunesmith.training.loop.lora import FrozenLinear, LoraLinear, weight_of
from tunesmith.training.loop.native import library as native
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.surprise import surprise
from tunesmith.training.run import Recipe

pytestmark = pytest.mark.usefixtures("seeded")

# rows, summed, columns: whole tiles, blocks and panels, and broken ones
SHAPES = [(6, 256, 32), (1, 1, 1), (7, 15, 17), (40, 896, 128), (33, 513, 70), (5, 4864, 33), (13, 257, 16)]
COMPILERS = ("cc", "gcc", "clang")


def usable() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def test_the_kernels_are_there_wherever_they_can_be_compiled() -> None:
    compiler = os.environ.get("CC") or any(map(shutil.which, COMPILERS))
    compiled = bool(compiler) and platform.machine().lower() in ("x86_64", "amd64")
    assert native.library() is not None or not (compiled and usable()), "python hatch_build.py compiles them"


@pytest.fixture
def product(threads: Callable[[int], Library]) -> Callable[[Tensor, Tensor], Tensor]:
    return threads(1).product


def off(found: Tensor, x_NK: Tensor, weight_KO: Tensor) -> float:
    """The largest error, beside the lengths of the row and the column that were multiplied."""
    exact = x_NK.double() @ weight_KO.double()
    lengths = x_NK.double().norm(dim=1)[:, None] * weight_KO.double().norm(dim=0)
    return float(((found.double() - exact).abs() / lengths.clamp_min(1e-300)).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_right_to_four_digits(
    product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, transposed: bool, shape: tuple[int, int, int]
) -> None:
    rows, inner, columns = shape
    x = torch.randn(rows, inner) * torch.randn(inner).exp()
    weight = (
        torch.randn(columns, inner).mul(0.02).to(dtype).t() if transposed else torch.randn(inner, columns).to(dtype)
    )
    found, exact = product(x, weight), x.double() @ weight.double()
    assert found.shape == exact.shape and float((found - exact).norm() / exact.norm()) < 4e-4


def test_they_are_more_exact_than_with_inputs_rounded_to_bfloat16(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, weight = torch.randn(64, 896), torch.randn(896, 256).bfloat16()
    exact = x.double() @ weight.double()
    rounded = x.bfloat16().double() @ weight.double()
    assert (product(x, weight) - exact).norm() * 8 < (rounded - exact).norm()


@pytest.mark.parametrize("size", [1e-25, 1.0, 3e25])
@pytest.mark.parametrize(
    "pattern",
    [
        lambda k: torch.ones(k),  # every sum grows from the first number to the last, as far as it can
        lambda k: torch.ones(k).cumsum(0).remainder(2).mul(2).sub(1),
        lambda k: torch.ones(k).index_fill_(0, torch.arange(k // 2, k), -1.0),
        lambda k: torch.full((k,), 1e-3).index_fill_(0, torch.tensor([0]), 1.0),
        lambda k: torch.zeros(k).index_fill_(0, torch.tensor([0, 1]), 1.0),  # one pair alone
        lambda k: torch.randn(k).sign(),
        lambda k: torch.randn(k),
    ],
)  # fmt: skip
def test_no_sum_overflows_where_rows_and_columns_are_parallel(
    product: Callable[[Tensor, Tensor], Tensor], pattern: Callable[[int], Tensor], size: float
) -> None:
    for inner in (2, 16, 250, 256, 300, 1024):
        along = pattern(inner)
        x = torch.stack([along, -along, along * 7]).mul(size)
        for weight in (
            torch.stack([along, -along, along / 3], dim=1).bfloat16(),
            torch.stack([along, -along]).bfloat16().t(),
        ):
            assert off(product(x, weight), x, weight) < 1e-3


def test_nothing_gives_nothing(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    weight = torch.randn(40, 24).bfloat16()
    assert product(torch.empty(0, 40), weight).shape == (0, 24)
    assert product(torch.randn(3, 40), weight[:, :0]).shape == (3, 0)
    assert torch.equal(product(torch.empty(3, 0), weight[:0]), torch.zeros(3, 24))
    assert torch.equal(product(torch.zeros(3, 40), weight), torch.zeros(3, 24))
    assert torch.equal(product(torch.randn(3, 40), torch.zeros_like(weight)), torch.zeros(3, 24))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 7, 39, 298])
def test_what_is_no_number_stays_none_and_spoils_its_own_row_alone(
    product: Callable[[Tensor, Tensor], Tensor], wrong: float, at: int
) -> None:
    for weight in (torch.randn(299, 24).bfloat16(), torch.randn(24, 299).bfloat16().t()):
        x = torch.randn(9, 299)
        right, x[4, at] = product(x, weight), wrong
        found = product(x, weight)
        assert not found[4].isfinite().any()
        assert torch.equal(found[[0, 3, 5, 8]], right[[0, 3, 5, 8]])
        x[4, at], weight[at, 17] = 0.0, wrong
        found = product(x, weight)
        assert not found[:, 17].isfinite().any() and found[:, :17].isfinite().all()


def test_the_bytes_depend_on_no_threads_and_no_neighbours(threads: Callable[[int], Library]) -> None:
    for inner, columns in ((300, 40), (896, 128), (128, 896)):
        x, weight = torch.randn(1000, inner), torch.randn(inner, columns).bfloat16()
        alone = threads(1).product(x, weight)
        for _ in range(5):
            assert all(torch.equal(threads(count).product(x, weight), alone) for count in (1, 2, 5))
        assert torch.equal(threads(2).product(x[11:60], weight), alone[11:60])


def test_float32_and_few_rows_are_multiplied_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wide = torch.randn(200, 300), torch.nn.Linear(300, 200)
    assert torch.equal(weight_of(wide).times(x, wide.bias), wide(x))
    assert torch.equal(weight_of(wide).back(x[:, :200]), x[:, :200] @ wide.weight)
    narrow = torch.nn.Linear(300, 200).bfloat16()
    assert torch.equal(weight_of(narrow).times(x[:8], None), x[:8] @ narrow.weight.float().t())
    monkeypatch.setattr(frozen, "library", lambda: None)
    assert torch.equal(weight_of(narrow).times(x, None), torch.nn.functional.linear(x, narrow.weight.float()))


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= 1e-3 * wanted.norm())


@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_autograds_within_rounding(threads: Callable[[int], Library], dora: bool) -> None:
    recipe = Recipe("tiny", "d", rank=4, alpha=8.0, dropout=0.0, use_dora=dora)
    base = torch.nn.Linear(300, 200).requires_grad_(False).bfloat16()
    narrow, wide = LoraLinear(base, recipe), LoraLinear(torch.nn.Linear(300, 200).requires_grad_(False), recipe)
    torch.nn.init.normal_(narrow.lora_B, std=0.3)
    wide.load_state_dict({name: value.float() for name, value in narrow.state_dict().items()})
    x, probe = torch.randn(100, 300, requires_grad=True), torch.randn(100, 200)
    assert not torch.equal(narrow(x), wide(x)) and close(narrow(x), wide(x))
    found, wanted = (
        torch.autograd.grad((each(x) * probe).sum(), (x, *(p for p in each.parameters() if p.requires_grad)))
        for each in (narrow, wide)
    )
    assert all(map(close, found, wanted))
    bare = torch.autograd.grad((FrozenLinear(base)(x) * probe).sum(), x)[0]
    assert close(bare, probe @ base.weight.float())


def test_the_output_head_is_scored_within_rounding(threads: Callable[[int], Library]) -> None:
    weight, labels = torch.randn(1000, 64).mul(0.3).bfloat16(), torch.randint(1000, (50,))
    hidden = torch.randn(50, 64, requires_grad=True)
    found, wanted = (surprise(hidden, each, None, labels) for each in (weight, weight.float()))
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
    assert close(*(torch.autograd.grad(each.sum(), hidden)[0] for each in (found, wanted)))


def test_a_weight_that_is_codes_is_widened() -> None:
    codes = torch.randn(64, 300)
    weight = Weight(lambda dtype: codes.to(dtype))
    x = torch.randn(100, 300)
    assert torch.equal(weight.times(x, None), torch.nn.functional.linear(x, codes))
    assert torch.equal(weight.back(x[:, :64]), x[:, :64] @ codes)


def with_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the library be looked for in ``folder``, a copy of where it is."""
    here, parts = Path(native.__file__).parent, Path("inference/worker/native")
    there = folder / "training/loop/native"
    shutil.copytree(here, there)
    shutil.copytree(here.parents[2] / parts, folder / parts)
    monkeypatch.setattr(native, "__file__", str(there / "library.py"))
    return there


def test_a_library_that_is_not_there_or_of_other_sources_is_not_used(
    threads: Callable[[int], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_files(tmp_path, monkeypatch)
    library = (folder / "kernels.so").rename(tmp_path / "kernels.so")
    assert "kernels.so" in native.reason()
    assert cache(native.library.__wrapped__)() is None
    library.rename(folder / "kernels.so")
    assert native.reason() == ""
    for source in (folder / "fixed.h", tmp_path / "inference/worker/native/pool.h"):
        before = source.read_text()
        source.write_text(before + "\n")
        assert native.reason() == "compiled from other sources, install again"
        source.write_text(before)
