"""The compiled library with threads to choose, and numbers drawn alike."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from tunesmith.training.loop.native import library as native
from tunesmith.training.loop.native.library import Library


@pytest.fixture(scope="session")
def threads() -> Iterator[Callable[[int], Library]]:
    """Libraries with so many threads of their own, each made once."""
    if native.library() is None:
        pytest.skip(native.reason())
    yield cache(lambda count: Library(native._loaded(), count))


@pytest.fixture
def seeded() -> Iterator[None]:
    """The same draws whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield
