"""A softmax in one pass, and what is made of it: against float64, at its ends, for any number of threads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.loop import surprise as loop
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.native.structs import Sums
from tunesmith.training.loop.surprise import surprise

pytestmark = pytest.mark.usefixtures("seeded")

SHAPES = [(1, 1), (3, 5), (2, 16), (7, 1023), (5, 1041), (4, 151936)]
OFF = {torch.float32: 1e-6, torch.bfloat16: 2**-7.99}  # of an exponential, relative


def computed(by: Library, x: Tensor, labels: Tensor, width: int | None = None) -> tuple[Tensor, Sums]:
    """The exponentials, against the largest of all, and what is known of the rows; by blocks of so many columns."""
    sums, blocks = Sums.none(len(x), x.device), []
    for first in range(0, x.shape[1], width or x.shape[1]):
        block = x[:, first : first + (width or x.shape[1])].clone()
        shares = None if by.computes is torch.float32 else torch.empty_like(block, dtype=by.computes)
        factor = by.softmax_parts(block, sums, labels, first, shares)
        blocks = [before * factor[:, None] for before in blocks] + [block if shares is None else shares.float()]
    return torch.cat(blocks, 1), sums


@pytest.mark.parametrize("width", [None, 401])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e30])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exponentials_and_sums_are_right(
    either: Callable[[int], Library], shape: tuple[int, int], size: float, width: int | None
) -> None:
    x, labels = size * torch.randn(shape), torch.randint(shape[1], (shape[0],))
    exact = (x - x.amax(1)[:, None]).double().exp()
    by = either(1)
    found, sums = computed(by, x, labels, width)
    off = OFF[by.computes] * (1 if width is None else 10)  # a factor for each block
    torch.testing.assert_close(found.double(), exact, rtol=off, atol=1e-37)
    torch.testing.assert_close(sums.total.double(), exact.sum(1), rtol=1e-6, atol=0)
    assert torch.equal(sums.most, x.amax(1)) and torch.equal(sums.chosen, x[torch.arange(len(x)), labels])


def test_sums_are_found_where_no_exponentials_are_wanted(in_tiles: Callable[[int], Library]) -> None:
    x, labels = torch.randn(3, 451), torch.tensor([0, 450, 7])
    sums, kept = Sums.none(3, x.device), x.clone()
    in_tiles(1).softmax_parts(x, sums, labels, 0)
    assert torch.equal(x, kept) and torch.equal(sums.total, computed(in_tiles(1), x, labels)[1].total)


@pytest.mark.parametrize("width", [None, 16])
def test_what_is_no_number_shows_in_its_row_and_no_other(either: Callable[[int], Library], width: int | None) -> None:
    by, labels = either(1), torch.tensor([0, 20, 7])
    for bad in (float("nan"), float("inf")):
        for at in (0, 20):
            x = torch.randn(3, 21)
            x[1, at] = bad
            found, sums = computed(by, x, labels, width)
            assert not sums.total[1].isfinite() and not found[1, at].isfinite()
            assert sums.total[[0, 2]].isfinite().all() and found[[0, 2]].isfinite().all()
    for at in (3, 19):
        none = torch.full((3, 21), float("-inf"))
        none[0, at] = 2.0
        found, sums = computed(by, none, labels, width)
        assert found[0].nonzero().flatten().tolist() == [at] and float(sums.total[0]) == 1.0
        assert not (sums.total.log() + sums.most - none[:, 7])[1:].isfinite().any()


def test_the_bytes_are_the_same_for_any_number_of_threads_and_any_neighbours(
    either: Callable[[int], Library],
) -> None:
    x, labels = torch.randn(43, 2051), torch.randint(2051, (43,))
    one, sums = computed(either(1), x, labels, 700)
    for count in (2, 3):
        found, again = computed(either(count), x, labels, 700)
        assert torch.equal(found, one) and torch.equal(again.total, sums.total)
    found, again = computed(either(2), x[20:23], labels[20:23], 700)
    assert torch.equal(found, one[20:23]) and torch.equal(again.total, sums.total[20:23])


@pytest.mark.parametrize("compiled", [True, False])
def test_surprise_and_its_gradient_are_autograds(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("tunesmith.training.loop.surprise.library", lambda computes: None)
    monkeypatch.setattr("tunesmith.training.loop.surprise._MOST_WEIGHTS", 16 * 150)  # blocks of the vocabulary
    hidden, head, bias = torch.randn(9, 16, requires_grad=True), torch.randn(401, 16), torch.randn(401)
    labels, probe = torch.randint(401, (9,)), torch.randn(9)
    wide = hidden.detach().double().requires_grad_(True)
    wanted = functional.cross_entropy(wide @ head.double().t() + bias.double(), labels, reduction="none")
    found = surprise(hidden, head, bias, labels)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    (got,) = torch.autograd.grad(found, hidden, probe)
    (want,) = torch.autograd.grad(wanted, wide, probe.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
def test_in_bfloat16_surprise_is_that_of_its_own_logits(
    in_tiles: Callable[[int], Library], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("tunesmith.training.loop.surprise.library", lambda computes: None)
        monkeypatch.setattr("tunesmith.training.loop.surprise.library_for", lambda x: None)
    monkeypatch.setattr("tunesmith.training.loop.surprise._MOST_WEIGHTS", 64 * 150)
    hidden, head = torch.randn(33, 64).bfloat16().requires_grad_(True), (torch.randn(451, 64) / 4).bfloat16()
    labels, probe = torch.randint(451, (33,)), torch.randn(33)
    seen: list[Tensor] = []
    product = loop._product

    def noted(*given: Any, **named: Any) -> Tensor:
        found = product(*given, **named)
        if "onto_NO" not in named:
            seen.append(found.clone())
        return found

    monkeypatch.setattr(loop, "_product", noted)
    found = surprise(hidden, head, None, labels)
    logits = torch.cat(seen, 1)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(found, functional.cross_entropy(logits, labels, reduction="none"), rtol=1e-6, atol=1e-5)

    wide = hidden.detach().double().requires_grad_(True)
    exact = functional.cross_entropy(wide @ head.double().t(), labels, reduction="none")
    assert torch.equal(surprise(hidden.detach(), head, None, labels), found)  # without a gradient
    (want,) = torch.autograd.grad(exact, wide, probe.double())
    usual = functional.cross_entropy(functional.linear(hidden, head), labels, reduction="none")
    (torchs,) = torch.autograd.grad(usual, hidden, probe.bfloat16())
    (got,) = torch.autograd.grad(found, hidden, probe)
    assert (got - want).norm() < (torchs - want).norm()
