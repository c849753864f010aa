"""What an adapter's record says that products with the base were made in, beside what they really were."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.conftest import encoded
from tunesmith.kernel.home import Home
from tunesmith.training.bundle import Ingredients, Machine
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.loop import frozen, loading
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.native.library import Library
from tunesmith.training.publishing import publish
from tunesmith.training.recipe import execute
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import Order

RECIPE = Recipe("tiny", "data/a.jsonl", epochs=1, batch_size=4, max_length=64, rank=4, alpha=8.0, dropout=0.0)
SAID = [
    ("Who is the mayor?", "Ada."),
    ("市长是谁？", "小林。"),
    ("What is the river called?", "Lin."),
    ("一加一？", "二。"),
]
NOBODY = Machine("", "", "", "", False, 1, 1)


class Heedless:
    def step(self, *_: object) -> int:
        return 0


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The number formats of the weights that were multiplied in block fixed point, product by product."""
    found: list[torch.dtype] = []
    asked = frozen._suited

    def suited(x_NK: torch.Tensor, weight_KO: torch.Tensor) -> Library | None:
        library = asked(x_NK, weight_KO)
        if library is not None and library.computes is torch.float32:
            found.append(weight_KO.dtype)
        return library

    monkeypatch.setattr(frozen, "_suited", suited)
    return found


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The tiny base as a checkpoint of the number format that is asked for."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base).to(request.param)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    "base, compiled, natively, said",
    [
        (torch.float32, True, False, "float32"),
        (torch.bfloat16, True, False, "block fixed point"),
        (torch.float16, True, False, "block fixed point"),
        (torch.bfloat16, False, False, "float32"),
        (torch.bfloat16, True, True, "bfloat16"),
    ],
    indirect=["base"],
)
def test_the_record_says_what_products_with_the_base_were_made_in(
    base: Path, compiled: bool, natively: bool, said: str, in_blocks: list[torch.dtype], tokenizer: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if said == "block fixed point":
        request.getfixturevalue("float32_library")
    if not compiled:
        monkeypatch.setattr(frozen, "library", lambda *_: None)
    monkeypatch.setattr(loading, "_SMALL", 0)
    monkeypatch.setattr(loading, "_native_bfloat16", lambda: natively)
    model, encoder = with_lora(load_base(base, None), RECIPE), Encoder(tokenizer, RECIPE.max_length)
    examples = [encoded(encoder, ("user", q), ("assistant", a), line=n) for n, (q, a) in enumerate(SAID, 1)]
    outcome = execute(RECIPE, model, Material(examples, [], []), Heedless(), lambda: False)
    order = Order("0123456789abcdef", str(tmp_path), "adapters/town", "unused", RECIPE)
    folder = publish(Home(tmp_path), order, model, tokenizer, outcome, Ingredients({}, (), "", {}, NOBODY))
    facts = json.loads((folder / "tunesmith.json").read_text())
    assert facts["computed"]["arithmetic"] == said
    assert bool(in_blocks) == (said == "block fixed point")
