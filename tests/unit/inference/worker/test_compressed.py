"""Weights of bfloat16 in 12 bits: the same numbers to the last bit, in three quarters of the memory, whatever they are."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from tests.unit.inference.worker.narrow_vectors import narrow_vectors
from tests.unit.inference.worker.products import COMPRESSED, compressed, packed
from tunesmith.inference.worker import weights
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.block import Decoder
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.native.library import LINE, PANEL, Embedding, Kind, Library, Product
from tunesmith.inference.worker.precision import Precision
from tunesmith.inference.worker.step import Step
from tunesmith.inference.worker.weights import Panels

pytestmark = pytest.mark.skipif(native.library() is None, reason="nothing is compiled here")
without_tiles = pytest.mark.skipif(not native.tiles(), reason="no tiles are multiplied here")
PLAIN = {Kind.BFLOAT16_COMPRESSED: Kind.BFLOAT16, Kind.TILES_COMPRESSED: Kind.BFLOAT16_TILES}
PRECISIONS = {Kind.BFLOAT16_COMPRESSED: "float16", Kind.TILES_COMPRESSED: "bfloat16"}
KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[without_tiles] * kind.tiled, id=kind.name) for kind in COMPRESSED]
)
# so many rows pass at once, one tile of them and two, and in turn, an even number of tiles and an odd one
ROWS = (1, 2, 15, 16, 17, 32, 33, 48, 65, 130, 257)


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    yield Library(native._loaded(), 2)


def precision(kind: Kind) -> Precision:
    return Precision(PRECISIONS[kind], torch.float32)  # type: ignore[arg-type]


def usual(outputs: int, inputs: int) -> torch.Tensor:
    return (torch.randn(outputs, inputs) * 0.02).bfloat16()


def any_bits(outputs: int, inputs: int) -> torch.Tensor:
    """Nothing is frequent: nearly all are exceptions."""
    finite = torch.randint(0, 0x7F80, (outputs, inputs), dtype=torch.int32)
    return (
        (finite + torch.randint(0, 2, (outputs, inputs), dtype=torch.int32) * 0x8000)
        .to(torch.int16)
        .view(torch.bfloat16)
    )


def some_rows_of_zeros(outputs: int, inputs: int) -> torch.Tensor:
    weight = usual(outputs, inputs)
    weight[::3] = 0.0
    weight[:, 5::7] *= 1e-20
    return weight


def rows_of(library: Library, kind: Kind, weight: torch.Tensor) -> torch.Tensor:
    to, begin = compressed(library, kind, weight)
    outputs, inputs = weight.shape
    product = Product(to.data_ptr(), None, None, begin.data_ptr(), kind, inputs, outputs)
    return library.embedded(Embedding(product, 1.0, True), torch.arange(outputs))


@KINDS
@pytest.mark.parametrize("made", [usual, any_bits, some_rows_of_zeros])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 128), (40, 129), (47, 530), (70, 96), (33, 4864)])
def test_products_and_rows_are_those_of_the_same_weights_as_they_are(
    library: Library, kind: Kind, made: Any, outputs: int, inputs: int
) -> None:
    torch.manual_seed(outputs)
    weight, bias, x = made(outputs, inputs), torch.randn(outputs), torch.randn(max(ROWS), inputs)
    found, right = packed(library, weight, bias, kind=kind), packed(library, weight, bias, kind=PLAIN[kind])
    for rows in ROWS:
        assert torch.equal(found(x[:rows]).view(torch.int32), right(x[:rows]).view(torch.int32)), rows
        with narrow_vectors():
            assert torch.equal(found(x[:rows]).view(torch.int32), right(x[:rows]).view(torch.int32)), rows
    assert torch.equal(rows_of(library, kind, weight), weight.float())


@KINDS
def test_every_bfloat16_comes_back_as_it_was(library: Library, kind: Kind) -> None:
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).view(256, 256)
    found = rows_of(library, kind, every)
    assert torch.equal(found.bfloat16().isnan(), every.isnan())
    assert torch.equal(found.nan_to_num(nan=5.0), every.float().nan_to_num(nan=5.0))


@KINDS
def test_panels_written_one_part_after_the_other_are_those_written_at_once(library: Library, kind: Kind) -> None:
    torch.manual_seed(2)
    weight = usual(100, 300)
    right, begin = compressed(library, kind, weight)
    upper, parts = torch.empty(7, 16, dtype=torch.uint8), torch.zeros_like(begin)
    found = torch.full((len(right) + LINE,), 99, dtype=torch.uint8)
    for to in (None, found):
        for panel in (0, 3, 6):
            some = weight[panel * PANEL : (panel + 3) * PANEL]
            library.compress(kind, some, upper[panel:], parts[panel:], to)
    assert torch.equal(parts, begin) and torch.equal(found[: len(right)], right)
    assert bool((found[len(right) :] == 99).all())


@KINDS
def test_large_products_of_usual_weights_take_three_quarters_of_the_memory(library: Library, kind: Kind) -> None:
    torch.manual_seed(3)
    large, small = (Panels([usual(outputs, 640)], None, precision(kind), library) for outputs in (1024, 100))
    assert large.product.kind == kind and large.nbytes < 0.76 * 1024 * 640 * 2
    assert small.product.kind == PLAIN[kind]  # it stays in the caches, where fewer bytes gain nothing


@KINDS
@pytest.mark.parametrize("where", [0, 5000], ids=["at once", "after some parts"])
def test_weights_without_frequent_exponents_stay_as_they_are(library: Library, kind: Kind, where: int) -> None:
    torch.manual_seed(4)
    weight = torch.cat((usual(where, 256), any_bits(5000, 256)))
    product = Panels([weight], None, precision(kind), library)
    assert product.product.kind == PLAIN[kind] and product.product.begin is None
    assert product.nbytes == math.ceil(len(weight) / PANEL) * PANEL * 256 * 2
    assert torch.equal(product.rows(torch.arange(len(weight))), weight.float())


@KINDS
def test_compressed_weights_of_several_tensors_lie_one_below_the_other(
    library: Library, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    parts, bias, x = [usual(4112, 200), usual(32, 200), usual(19, 200)], torch.randn(4163), torch.randn(3, 200)
    found = Panels(parts, bias, precision(kind), library)
    monkeypatch.setattr(weights, "_LARGE", math.inf)
    right = Panels(parts, bias, precision(kind), library)
    assert (found.product.kind, right.product.kind) == (kind, PLAIN[kind])
    assert torch.equal(found(x), right(x))
    assert found.keeps(torch.cat(parts)) and torch.equal(found.rows(torch.arange(4163)), torch.cat(parts).float())


@KINDS
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_compressed_weights_says_the_same_to_the_last_bit(
    kind: Kind, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(6)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=97, num_hidden_layers=2, tie_word_embeddings=tied, initializer_range=0.2, **sizes)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    told, taken = [], []
    for large in (0, math.inf):
        monkeypatch.setattr(weights, "_LARGE", large)
        model = LanguageModel(tmp_path, cache_bytes=1 << 24, precision=PRECISIONS[kind])  # type: ignore[arg-type]
        assert model._program is not None and isinstance(model._run, Decoder)
        lease = model.cache.lease(81)
        with torch.inference_mode():
            prompt = Step([(7 * at) % 97 for at in range(80)], range(80), [Chunk(lease, 0, 80, 0)], [], [], range(80))
            told.append([model.forward(prompt).logits.clone()])
            lease.length = 80
            told[-1].append(model.forward(Step([5], [80], [], [(lease, 0)], [], [0])).logits.clone())
        taken.append(model._run.nbytes)
    assert all(map(torch.equal, *told)) and taken[0] < 0.85 * taken[1]
