"""The compiled library with threads to choose, and numbers drawn alike."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from tunesmith.training.loop.native import library as native
from tunesmith.training.loop.native.library import Library

_of_float32 = cache(lambda count: Library(native.loaded(), count))


@pytest.fixture
def threads(float32_library: None) -> Callable[[int], Library]:
    """Libraries of float32 with so many threads of their own, each made once."""
    return _of_float32


@pytest.fixture(scope="session")
def in_tiles() -> Iterator[Callable[[int], Library]]:
    """The same of bfloat16."""
    if native.library(torch.bfloat16) is None:
        pytest.skip(native.reason(torch.bfloat16))
    yield cache(lambda count: Library(native.loaded(), count, torch.bfloat16))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def either(request: pytest.FixtureRequest) -> Callable[[int], Library]:
    """The same of one format and of the other, each in its turn."""
    made: Callable[[int], Library] = request.getfixturevalue(
        "threads" if request.param is torch.float32 else "in_tiles"
    )
    return made


@pytest.fixture
def seeded() -> Iterator[None]:
    """The same draws whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield
