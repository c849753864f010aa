"""One real llama.cpp for every test of a stand-in before it."""

from collections.abc import Iterator

import pytest

from tests.upstreams.running import Upstream
from tests.upstreams.running import llama as running_llama


@pytest.fixture(scope="package")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with running_llama(tmp_path_factory.mktemp("gguf")) as upstream:
        yield upstream
