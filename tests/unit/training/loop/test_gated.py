"""The gate of a feed-forward block in one pass: against autograd in float64, at its ends, for any number of threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.loop.lora_mlp import _ACTIVATIONS, Activation
from tunesmith.training.loop.native.library import GELU_TANH, SILU, Library

pytestmark = pytest.mark.usefixtures("seeded")

SHAPES = [(1, 1), (3, 5), (2, 8), (7, 13), (37, 451), (1, 32769)]
EXACT: dict[int, Callable[[Tensor], Tensor]] = {
    SILU: functional.silu,
    GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
}
kinds = pytest.mark.parametrize("kind", EXACT, ids={SILU: "silu", GELU_TANH: "gelu"}.get)
# computed in float32, and rounded once where it is bfloat16
CLOSE = {torch.float32: {"rtol": 2e-6, "atol": 1e-6}, torch.bfloat16: {"rtol": 2**-7.99, "atol": 1e-6}}


def drawn(by: Library, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the gate, up and the gradient of their product."""
    g, u, grad = (torch.randn(shape).to(by.computes) for _ in range(3))
    return 3 * g, u, grad


def computed(by: Library, kind: int, g: Tensor, u: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The product and the gradients of g and u."""
    h = by.gated(g, u, kind)
    grad_g, grad_u, again = by.gated_back(grad.clone(), g, u, kind)
    assert torch.equal(h.view(torch.uint8), again.view(torch.uint8))
    return h, grad_g, grad_u


def exact(kind: int, g: Tensor, u: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g, u = (each.double().requires_grad_(True) for each in (g, u))
    h = EXACT[kind](g) * u
    return h.detach(), *torch.autograd.grad(h, (g, u), grad.double())


@kinds
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_autograds(
    either: Callable[[int], Library], kind: int, shape: tuple[int, int]
) -> None:
    by = either(1)
    given = drawn(by, *shape)
    for got, want in zip(computed(by, kind, *given), exact(kind, *given), strict=True):
        torch.testing.assert_close(got.double(), want, **CLOSE[by.computes])


@kinds
def test_in_bfloat16_it_is_more_exact_than_torch(in_tiles: Callable[[int], Library], kind: int) -> None:
    g, u, grad = drawn(in_tiles(1), 67, 451)
    leaves = [g.clone().requires_grad_(True), u.clone().requires_grad_(True)]
    h = EXACT[kind](leaves[0]) * leaves[1]
    torchs = h.detach(), *torch.autograd.grad(h, leaves, grad)
    wanted = exact(kind, g, u, grad)
    for got, other, want in zip(computed(in_tiles(1), kind, g, u, grad), torchs, wanted, strict=True):
        assert (got - want).norm() < (other - want).norm()


@kinds
def test_nothing_overflows_at_any_magnitude(either: Callable[[int], Library], kind: int) -> None:
    by = either(1)
    size = torch.tensor([0.0, 1e-30, 1e-4, 1.0, 5.0, 9.9, 10.1, 20.0, 86.9, 87.1, 88.5, 100.0, 1e4, 1e18, 1e30, 3e38])
    g = torch.cat([size, -size]).to(by.computes)
    u = grad = torch.ones_like(g)
    for got, want in zip(computed(by, kind, g, u, grad), exact(kind, g, u, grad), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got.double(), want, **CLOSE[by.computes])


@kinds
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 17], ids=["in front", "behind the last sixteen"])
def test_what_is_no_number_shows_and_stays_where_it_is(
    either: Callable[[int], Library], kind: int, bad: float, at: int
) -> None:
    by = either(1)
    for place in range(3):
        given = drawn(by, 18)
        given[place][at] = bad
        h, *grads = computed(by, kind, *given)
        shown = torch.stack([*(grads if place == 2 else [h, *grads])]).isfinite().logical_not().any(0)
        assert shown.nonzero().flatten().tolist() == [at]


@kinds
def test_the_bytes_are_the_same_for_any_number_of_threads(either: Callable[[int], Library], kind: int) -> None:
    g, u, grad = drawn(either(1), 67, 4099)
    one = computed(either(1), kind, g, u, grad)
    for count in (2, 3):
        assert all(map(torch.equal, computed(either(count), kind, g, u, grad), one))
    whole = computed(either(2), kind, g[:5].contiguous(), u[:5].contiguous(), grad[:5].contiguous())
    assert all(torch.equal(part, all_[:5]) for part, all_ in zip(whole, one, strict=True))


@pytest.mark.parametrize(
    "activation", dict.fromkeys(_ACTIVATIONS.values()), ids=lambda each: {SILU: "silu"}.get(each.kind, "gelu")
)
@pytest.mark.parametrize("compiled", [True, False])
def test_without_the_library_torch_gives_the_same(
    activation: Activation, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("tunesmith.training.loop.lora_mlp.library_for", lambda x: None)
    g, u, grad = (torch.randn(7, 13) for _ in range(3))
    h = activation.gated(g, u)
    *grads, again = activation.gradients(grad.clone(), g, u)
    assert torch.equal(h, again)
    for got, want in zip((h, *grads), exact(activation.kind, g, u, grad), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-6)
