"""One tiny base model, two adapters, and the loaded engine parts, shared by the worker's tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_adapter, make_tiny_base

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def adapters(base: Path) -> list[Path]:
    return [make_tiny_adapter(base, base.parent / f"adapter{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="package")
def model(base: Path) -> Any:
    from tunesmith.inference.worker.model import LanguageModel

    return LanguageModel(base, cache_bytes=64 << 20)


@pytest.fixture(params=["compiled", "torch"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes the steps of models that the test loads."""
    from tunesmith.inference.worker import weights
    from tunesmith.inference.worker.native import library as native

    if request.param == "torch":
        for module in (native, weights):
            monkeypatch.setattr(module, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("nothing is compiled here")
    return str(request.param)


@pytest.fixture(scope="package")
def tokens(base: Path) -> Any:
    from tunesmith.inference.worker.tokens import Tokens

    return Tokens(base)
