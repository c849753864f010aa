"""One tiny base model, two adapters, and the loaded engine parts, shared by the worker's tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_adapter, make_tiny_base
from tests.unit.inference.worker.taping import Taping

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
    """Who computes the steps of models that the test loads; for the others see ``every_way``."""
    from tunesmith.inference.worker import weights
    from tunesmith.inference.worker.native import library as native

    if request.param in ("torch", "graphs"):
        for module in (native, weights):
            monkeypatch.setattr(module, "library", lambda: None)
    if request.param in ("graphs", "cuda"):
        from tunesmith.inference.worker import graphs, model

        monkeypatch.setattr(graphs, "_PAUSE", 0)  # as many as there are kinds of steps
        if request.param == "graphs":
            monkeypatch.setattr(model, "recorder", lambda device: Taping())
    elif request.param == "compiled" and native.library() is None:
        pytest.skip("nothing is compiled here")
    return str(request.param)


every_way = pytest.mark.parametrize(
    "computed_by",
    [
        "compiled",
        "torch",
        "graphs",  # through torch, decode steps recorded by a stand-in for CUDA's graphs
        pytest.param("cuda", marks=pytest.mark.cuda),
    ],
    indirect=True,
)


@pytest.fixture(scope="package")
def tokens(base: Path) -> Any:
    from tunesmith.inference.worker.tokens import Tokens

    return Tokens(base)
