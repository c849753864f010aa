"""A tiny base model for every test of training, made once a session."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_base, tiny_tokenizer
from tunesmith.datasets.example import Example, Message, Source
from tunesmith.training.data.encoding import Encoded, Encoder

os.environ.setdefault("OMP_NUM_THREADS", "1")

Talk = Callable[..., Example]


def talk(*turns: tuple[str, str], line: int = 1) -> Example:
    """An example of (role, text) turns."""
    return Example(tuple(Message.of(role, text) for role, text in turns), Source("data/train.jsonl", line))


def encoded(encoder: Encoder, *turns: tuple[str, str], line: int = 1) -> Encoded:
    """The example of these turns in tokens; it must be usable."""
    found = encoder.encode(talk(*turns, line=line))
    assert isinstance(found, Encoded), found
    return found


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def float32_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float32's compiled library is used meanwhile, whether or not it is the faster one on this processor."""
    import torch

    from tunesmith.training.loop.native import library as native

    monkeypatch.setattr(native, "_FASTER_ON", torch.backends.cpu.get_cpu_capability())
    known = native.library  # a test may put another in its place
    known.cache_clear()
    if known() is None:
        pytest.skip(native.reason())
    yield
    known.cache_clear()
