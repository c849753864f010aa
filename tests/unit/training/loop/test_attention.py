"""Attention over packed examples by the compiled library, in float32 and in tiles of bfloat16: beside float64, and the
same bytes however it is cut."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tunesmith.training.loop import attention
from tunesmith.training.loop.native import library as native
from tunesmith.training.loop.native.library import Library

pytestmark = pytest.mark.usefixtures("seeded")

CPU = torch.device("cpu")
LENGTHS = (1, 2, 7, 31, 137, 600)


Made = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(params=["float32", "bfloat16"])
def libraries(request: pytest.FixtureRequest) -> Callable[[int], Library]:
    """Libraries with so many threads, of one number format and then of the other."""
    found: Callable[[int], Library] = request.getfixturevalue(
        {"float32": "threads", "bfloat16": "in_tiles"}[request.param]
    )
    return found


def made(tokens: int, heads: int, kv_heads: int, dim: int, of: torch.dtype = torch.float32) -> Made:
    """Queries, keys, values as transformers lays them, and a gradient, of rows as the last two."""
    q, k, v = (torch.randn(1, tokens, count, dim).to(of).transpose(1, 2) for count in (heads, kv_heads, kv_heads))
    return q, k, v, torch.randn(1, tokens, heads, dim).to(of)


def attended(
    found: Library | None, monkeypatch: pytest.MonkeyPatch, given: Made, lengths: Sequence[int],
    window: int | None = None, scale: float | None = None,
) -> list[Tensor]:  # fmt: skip
    """What the attention gives and the gradients of queries, keys and values, rows first."""
    monkeypatch.setattr(native, "library", lambda _: found)
    q, k, v = (x.detach().requires_grad_() for x in given[:3])
    groups = attention.grouped(lengths, CPU)
    out, none = attention._forward(None, q, k, v, None, scaling=scale, sliding_window=window, groups=groups)
    assert none is None and out.is_contiguous()
    out.backward(given[3])
    return [out[0].detach(), *(x.grad[0].transpose(0, 1) for x in (q, k, v) if x.grad is not None)]


def exact(given: Made, lengths: Sequence[int], window: int | None = None, scale: float | None = None) -> list[Tensor]:
    """The same in float64, all scores written out."""
    q, k, v = (x.double().detach().requires_grad_() for x in given[:3])
    group = q.shape[1] // k.shape[1]
    of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    at = torch.arange(len(of))
    seen = (of[:, None] == of) & (at[:, None] >= at) & (at[:, None] - at < (window or len(of)))
    scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    out = (shares @ v.repeat_interleave(group, 1)).transpose(1, 2)
    out.backward(given[3].double())
    return [out[0].detach(), *(x.grad[0].transpose(0, 1) for x in (q, k, v) if x.grad is not None)]


def close(found: Sequence[Tensor], right: Sequence[Tensor], most: float = 2e-6) -> None:
    narrow = found[0].dtype is torch.bfloat16
    most, least = (max(most, 5e-3), 2e-4) if narrow else (most, 5e-7)
    for one, other in zip(found, right, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= most * float(other.norm()) + least * other.numel() ** 0.5
        assert float((one - other).abs().max()) <= 10 * most * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 2), (7, 1), (16, 8)])
@pytest.mark.parametrize("lengths", [*((length,) for length in LENGTHS), (31, 7, 137, 1, 2), (300, 20)], ids=str)
def test_it_is_softmax_attention_in_every_example(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, heads: int, kv_heads: int,
    lengths: tuple[int, ...],
) -> None:  # fmt: skip
    given = made(sum(lengths), heads, kv_heads, 64, libraries(1).computes)
    close(attended(libraries(2), monkeypatch, given, lengths), exact(given, lengths))


@pytest.mark.parametrize("dim", [8, 16, 24, 64, 80, 96, 128, 256])
def test_heads_of_any_width_and_any_scale(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    given = made(168, 4, 2, dim, libraries(1).computes)
    for scale in (None, 0.3):
        close(attended(libraries(2), monkeypatch, given, (137, 31), None, scale), exact(given, (137, 31), None, scale))


@pytest.mark.parametrize("window", [1, 2, 5, 16, 63, 64, 65, 100, 150, 400, 10_000])
def test_a_window_shorter_and_longer_than_the_example(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    lengths = (350, 100, 3)
    given = made(sum(lengths), 4, 2, 16, libraries(1).computes)
    found = attended(libraries(2), monkeypatch, given, lengths, window)
    close(found, exact(given, lengths, window))
    close(found, attended(None, monkeypatch, given, lengths, window))


def test_it_is_what_torch_gives(threads: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(sum(LENGTHS), 14, 2, 64)
    close(attended(threads(2), monkeypatch, given, LENGTHS), attended(None, monkeypatch, given, LENGTHS), 4e-6)


def test_tiles_are_as_exact_as_torch_is_in_bfloat16(
    in_tiles: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (600, 137, 31, 20)
    given = made(sum(lengths), 14, 2, 64, torch.bfloat16)
    ours, theirs = (attended(found, monkeypatch, given, lengths) for found in (in_tiles(2), None))
    for one, other, right in zip(ours, theirs, exact(given, lengths), strict=True):
        assert float((one - right).norm()) <= 1.03 * float((other - right).norm())


@pytest.mark.parametrize("size", [30.0, 1e3, 1e9])
def test_very_large_scores_are_numbers(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    q, k, v, grad = made(230, 4, 2, 64, libraries(1).computes)
    given = q * size, k * size, v, grad
    found = attended(libraries(2), monkeypatch, given, (200, 30))
    assert all(one.isfinite().all() for one in found)
    if size < 100:  # beyond, a rounding of the score is more than a share
        close(found[:1], exact(given, (200, 30))[:1], 2e-3)


def test_equal_scores_far_from_zero_share_alike(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = libraries(1).computes
    far = torch.full((1, 2, 150, 64), 1e3, dtype=of)
    given = far, -far, *made(150, 2, 2, 64, of)[2:]
    found = attended(libraries(2), monkeypatch, given, (150,))
    close(found[:1] + found[3:], [x for i, x in enumerate(exact(given, (150,))) if i in (0, 3)])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("at", [0, 20, 99])
def test_what_is_no_number_shows_in_its_example_alone(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, wrong: float, which: int, at: int
) -> None:
    lengths = (50, 100, 70)
    given = made(sum(lengths), 4, 2, 64, libraries(1).computes)
    given[0][..., 3].abs_()  # an infinite key counts: a score of minus infinity would have no share at all
    right = attended(libraries(2), monkeypatch, given, lengths)
    place = (0, 50 + at, 1, 3) if which == 3 else (0, 1, 50 + at, 3)
    given[which][place] = wrong
    found = attended(libraries(2), monkeypatch, given, lengths)
    for one, other in zip(found, right, strict=True):
        assert torch.equal(one[:50], other[:50]) and torch.equal(one[150:], other[150:])
    spoilt = found[1 if which == 3 else 0][50 + at :]
    assert not spoilt[:100].isfinite().all()


@pytest.mark.parametrize("window", [None, 90])
def test_the_bytes_depend_on_no_threads_and_no_neighbours(
    libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    lengths = (600, 137, 137, 31, 7, 2, 1, 300)
    given = made(sum(lengths), 14, 2, 64, libraries(1).computes)
    together = attended(libraries(1), monkeypatch, given, lengths, window)
    for count in (2, 3, 2, 3):
        again = attended(libraries(count), monkeypatch, given, lengths, window)
        assert all(map(torch.equal, again, together))
    begin = 0
    for length in lengths:
        q, k, v, grad = given
        here = slice(begin, begin + length)
        own = (q[:, :, here], k[:, :, here], v[:, :, here], grad[:, here])
        alone = attended(libraries(2), monkeypatch, own, (length,), window)
        assert all(torch.equal(one, other[here]) for one, other in zip(alone, together, strict=True))
        begin += length


def test_any_strides_give_the_same_bytes(libraries: Callable[[int], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(168, 4, 2, 64, libraries(1).computes)
    right = attended(libraries(2), monkeypatch, given, (137, 31))
    q, k, v, grad = given
    wider = torch.randn(1, 168, 3, 4, 64).to(grad.dtype)
    wider[:, :, 1] = grad
    for other in (
        (q.contiguous(), k.contiguous(), v.contiguous(), grad),
        (q.mT.contiguous().mT, k.mT.contiguous().mT, v, wider[:, :, 1]),
        (q, k, v, grad.mT.contiguous().mT),
    ):
        assert all(map(torch.equal, attended(libraries(2), monkeypatch, other, (137, 31)), right))


def test_dropout_other_formats_and_odd_heads_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: torch.dtype) -> None:
        raise AssertionError

    monkeypatch.setattr(native, "library", refused)
    groups = attention.grouped((9, 3), CPU)
    q, k, v, _ = made(12, 2, 1, 16)
    assert attention._forward(None, q, k, v, None, 0.5, groups=groups)[0].shape == (1, 12, 2, 16)
    other = attention._forward(None, q.double(), k.double(), v.double(), None, groups=groups)[0]
    assert other.dtype is torch.float64
    for dim, of_values in ((12, 12), (264, 264), (16, 8)):
        q, k, v, _ = made(12, 2, 1, dim)
        found = attention._forward(None, q, k, v[..., :of_values], None, groups=groups)[0]
        assert found.shape == (1, 12, 2, of_values)
