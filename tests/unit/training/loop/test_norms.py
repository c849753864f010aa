"""Root mean square norms in one pass: against autograd in float64, and in place of those of any model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.training.conftest import encoded
from tests.unit.training.loop.test_lora import RECIPE, gemma2, gpt2, llama, mistral_with_a_window, phi3, qwen3, stirred
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.native.library import Library
from tunesmith.training.loop.norms import Norm, normed
from tunesmith.training.loop.objective import Surprise

pytestmark = pytest.mark.usefixtures("seeded")

SHAPES = [(1, 1), (3, 5), (2, 16), (7, 23), (129, 128), (37, 896), (2, 16385)]
OFF = {torch.float32: 1e-6, torch.bfloat16: 2**-8.5}  # what one rounding is off by, on average


class RMSNorm(nn.Module):
    """As transformers writes it."""

    def __init__(self, width: int, *, beside_one: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps, self.beside_one = nn.Parameter(torch.randn(width)), eps, beside_one
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        over = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x * over * ((1 + self.weight.to(x.dtype)) if self.beside_one else self.weight)


def computed(by: Library, norm: RMSNorm, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    y, over = by.norm(x, norm.weight, norm.eps)
    return y, by.norm_back(grad, x, norm.weight, over)


def exact(norm: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    norm, x = norm.double(), x.double().requires_grad_(True)
    y = norm(x)
    found = y.detach(), torch.autograd.grad(y, x, grad.double())[0]
    norm.float()
    return found


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_autograds(
    either: Callable[[int], Library], shape: tuple[int, int], size: float
) -> None:
    by = either(1)
    norm, x, grad = RMSNorm(shape[1]), (size * torch.randn(shape)).to(by.computes), torch.randn(shape).to(by.computes)
    x[0] += size
    for got, want in zip(computed(by, norm, x, grad), exact(norm, x, grad), strict=True):
        if shape[1] > 1:  # a single number is always 1, and its gradient what rounding leaves of it
            assert (got - want).norm() <= OFF[by.computes] * want.norm()
        assert (got - want).abs().max() <= 20 * OFF[by.computes] * max(1.0, 1 / size)


@pytest.mark.parametrize("make", [qwen3, gemma2])
def test_in_bfloat16_it_is_as_exact_as_transformers_or_more(
    in_tiles: Callable[[int], Library], make: Callable[[], Any]
) -> None:
    own = make().bfloat16().base_model.norm.requires_grad_(False)
    own.weight += torch.randn_like(own.weight)
    ours = normed(own, torch.bfloat16)
    assert ours is not None
    x, grad = (torch.randn(67, len(own.weight)).bfloat16() for _ in range(2))
    x.requires_grad_(True)
    found, theirs = ((y.detach(), *torch.autograd.grad(y, x, grad)) for y in (ours(x), own(x)))
    for got, other, want in zip(found, theirs, exact(own.float(), x.detach(), grad), strict=True):
        assert got.dtype is torch.bfloat16 and (got - want).norm() < 1.001 * (other - want).norm()


def test_what_is_no_number_spoils_its_row_and_no_other(either: Callable[[int], Library]) -> None:
    by, norm = either(1), RMSNorm(21)
    for bad in (float("nan"), float("inf"), float("-inf")):
        for at in (0, 20):
            x, grad = torch.randn(4, 21).to(by.computes), torch.randn(4, 21).to(by.computes)
            x[1, at] = grad[2, at] = bad
            y, grad_x = computed(by, norm, x, grad)
            assert y[[0, 2, 3]].isfinite().all() and not y[1, at].isfinite()
            assert grad_x[[0, 3]].isfinite().all() and not grad_x[1, at].isfinite() and not grad_x[2].isfinite().any()


def test_the_bytes_are_the_same_for_any_number_of_threads_and_any_neighbours(
    either: Callable[[int], Library],
) -> None:
    norm, x, grad = RMSNorm(451), torch.randn(203, 451), torch.randn(203, 451)
    x, grad = x.to(either(1).computes), grad.to(either(1).computes)
    one = computed(either(1), norm, x, grad)
    for count in (2, 3):
        assert all(map(torch.equal, computed(either(count), norm, x, grad), one))
    for got, want in zip(computed(either(2), norm, x[50:53], grad[50:53]), one, strict=True):
        assert torch.equal(got, want[50:53])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("beside_one", [False, True])
def test_a_norm_is_replaced_by_one_that_computes_the_same(
    threads: Callable[[int], Library], beside_one: bool, dtype: torch.dtype
) -> None:
    norm = RMSNorm(13, beside_one=beside_one).to(dtype)
    ours = normed(norm)
    assert ours is not None and ours.weight is norm.weight
    x, grad = torch.randn(2, 5, 3, 13, requires_grad=True), torch.randn(2, 3, 5, 13).transpose(1, 2)
    wanted, wanted_grad = exact(norm, x.detach(), grad)
    y = ours(x)
    torch.testing.assert_close(y, wanted.float())
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0], wanted_grad.float())
    assert not ours(x.detach()).requires_grad
    torch.testing.assert_close(ours(x.transpose(0, 2)), y.transpose(0, 2))
    assert ours(x.double()).dtype is torch.float64  # through its own forward


class Asked(RMSNorm):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x) if gate is None else super().forward(x) * gate


class Halved(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Outside(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "other",
    [
        Asked(12), Halved(12), Outside(12), nn.LayerNorm(12), nn.LayerNorm(12, bias=False), nn.BatchNorm1d(12),
        nn.Linear(12, 12), nn.SiLU(), nn.RMSNorm(12), nn.RMSNorm((3, 4)),
    ],
    ids=lambda each: str(each)[:24],
)  # fmt: skip
def test_what_computes_something_else_keeps_its_own_forward(other: nn.Module, computed: torch.dtype) -> None:
    assert normed(other.requires_grad_(False).to(computed), computed) is None


def test_a_norm_that_learns_keeps_its_own_forward() -> None:
    assert normed(RMSNorm(12).requires_grad_(True)) is None


@pytest.mark.parametrize(
    "make,count",
    [(llama, 5), (mistral_with_a_window, 5), (qwen3, 9), (phi3, 5), (gemma2, 9), (gpt2, 0)],
)
def test_a_model_has_the_same_loss_and_gradients_with_its_norms_replaced(
    threads: Callable[[int], Library], make: Callable[[], Any], count: int, tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder = Encoder(tokenizer, 64)
    facts = [encoded(encoder, ("user", q), ("assistant", f"{q} Ada."), line=1) for q in ("Who is it?", "市长是谁？")]
    base = make().requires_grad_(False)
    for name, weight in base.named_parameters():
        if "norm" in name:
            weight.add_(0.3 * torch.randn_like(weight))
    state = {name: weight.clone() for name, weight in base.state_dict().items()}

    def scored() -> tuple[int, Tensor, list[Tensor]]:
        model = make().requires_grad_(False)
        model.load_state_dict(state)
        torch.manual_seed(5)
        model = stirred(with_lora(model, RECIPE)).eval()
        surprise = Surprise(model)
        loss = surprise(surprise.laid(facts)).sum()
        found = torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad])
        return sum(isinstance(each, Norm) for each in model.modules()), loss.detach(), list(found)

    replaced, loss, grads = scored()
    monkeypatch.setattr("tunesmith.training.loop.norms.library_for", lambda x: None)
    monkeypatch.setattr("tunesmith.training.loop.lora_mlp.library_for", lambda x: None)
    none, wanted, expected = scored()
    assert (replaced, none) == (count, 0)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-5)
    for got, want in zip(grads, expected, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()
