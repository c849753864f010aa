"""Weights rounded to 8 bits by the compiled library: what torch's own operations give, to the bit."""

from collections.abc import Iterator

import pytest
import torch

from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.native.library import Library

pytestmark = pytest.mark.skipif(native.library() is None, reason="nothing is compiled here")


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    yield Library(native._loaded(), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 7), (16, 8), (33, 257), (5, 4867)])
def test_an_output_is_rounded_by_its_largest_weight(
    library: Library, dtype: torch.dtype, outputs: int, inputs: int
) -> None:
    torch.manual_seed(inputs)
    weight = (torch.randn(outputs, inputs) * 0.02).to(dtype)
    weight[0] *= 1e-5
    weight[-1, -1] = -3.0
    scale = torch.full((outputs + 1,), 5.0)
    found = library.round(weight, scale[:outputs])
    right = weight.float().abs().amax(1).clamp_min(1e-12) / 127
    assert torch.equal(scale[:outputs], right) and scale[outputs] == 5.0
    assert torch.equal(found, (weight.float() / right[:, None]).round().to(torch.int8))


def test_halves_go_to_the_even_neighbour(library: Library) -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 0.49]])
    scale = torch.empty(1)
    assert library.round(weight, scale).tolist() == [[127, 0, 2, 2, 0, -2, -2, 126, 0]] and scale == 1.0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 7, 8, 10])
def test_numbers_that_are_none_spoil_their_own_output_alone(library: Library, odd: float, place: int) -> None:
    weight = torch.ones(3, 11)
    weight[1, place] = odd
    scale = torch.empty(3)
    found = library.round(weight, scale)
    assert not bool((found[1] * scale[1]).isfinite().all())
    assert torch.equal(scale[[0, 2]], torch.full((2,), 1 / 127)) and bool((found[[0, 2]] == 127).all())


def test_an_output_of_zeros_stays_one(library: Library) -> None:
    scale = torch.empty(2)
    found = library.round(torch.zeros(2, 9), scale)
    assert not bool(found.any()) and bool((scale > 0).all())
