"""A softmax in one pass, and what is made of it: against float64, at its ends, for any number of threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.surprise import surprise

pytestmark = pytest.mark.usefixtures("seeded")

SHAPES = [(1, 1), (3, 5), (2, 16), (7, 1023), (5, 1041), (4, 151936)]


def computed(by: Library, x: Tensor) -> tuple[Tensor, Tensor]:
    found = x.clone()
    return found, by.softmax_parts(found, x.amax(1))


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e30])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exponentials_and_sums_are_right(
    threads: Callable[[int], Library], shape: tuple[int, int], size: float
) -> None:
    x = size * torch.randn(shape)
    exact = (x - x.amax(1)[:, None]).double().exp()
    found, total = computed(threads(1), x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(total.double(), exact.sum(1), rtol=1e-6, atol=0)


def test_what_is_no_number_shows_in_its_row_and_no_other(threads: Callable[[int], Library]) -> None:
    for bad in (float("nan"), float("inf")):
        for at in (0, 20):
            x = torch.randn(3, 21)
            x[1, at] = bad
            found, total = computed(threads(1), x)
            assert not total[1].isfinite() and not found[1, at].isfinite()
            assert total[[0, 2]].isfinite().all() and found[[0, 2]].isfinite().all()
    none = torch.full((2, 21), float("-inf"))
    none[0, 3] = 2.0
    found, total = computed(threads(1), none)
    assert found[0].nonzero().flatten().tolist() == [3] and float(total[0]) == 1.0
    assert total[1].isnan()


def test_the_bytes_are_the_same_for_any_number_of_threads_and_any_neighbours(
    threads: Callable[[int], Library],
) -> None:
    x = torch.randn(43, 2051)
    one = computed(threads(1), x)
    for count in (2, 3):
        assert all(map(torch.equal, computed(threads(count), x), one))
    for got, want in zip(computed(threads(2), x[20:23]), one, strict=True):
        assert torch.equal(got, want[20:23])


@pytest.mark.parametrize("compiled", [True, False])
def test_surprise_and_its_gradient_are_autograds(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("tunesmith.training.loop.surprise.library_for", lambda x: None)
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
