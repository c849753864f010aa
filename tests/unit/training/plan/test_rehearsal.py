"""What a rehearsal says of the data, and steps on pairs and general examples alike."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.conftest import encoded
from tests.unit.training.loop.test_preference import preferred
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.data.pairs import encode_pair
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.plan.rehearsal import Asked, _only, _Rehearsal, _taken
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import Order

SAID = ["one two three " * n for n in (1, 2, 8, 12)]
MOST = 40
DPO = Recipe("tiny", "d", objective="dpo", max_length=MOST, rank=2, replay="data/r.jsonl", replay_share=0.4)


def material(tokenizer: Any, objective: str, most: int) -> Material:
    encoder = Encoder(tokenizer, most)
    general = [encoded(encoder, ("user", "Hi?"), ("assistant", said)) for said in SAID]
    if objective == "sft":
        return Material(general, [], [])
    pairs = [encode_pair(preferred("Hi?", said, "No, " + said), encoder) for said in SAID]
    return Material(pairs, general, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_what_is_cut_off_is_counted_to_the_token(tokenizer: Any, tmp_path: Path, objective: str) -> None:
    recipe = Recipe("tiny", "d", objective=objective, max_length=MOST)
    asked = Asked(Order("a", str(tmp_path), "adapters/a", "", recipe), str(tmp_path), False, 0)
    counted = _Rehearsal(asked, print)._counted(material(tokenizer, objective, MOST))
    whole = material(tokenizer, objective, 10_000).main
    lengths = [len(side) for each in whole for side in ([each] if objective == "sft" else [each.chosen, each.rejected])]  # type: ignore[union-attr]
    assert 0 < counted.cut == sum(length > MOST for length in lengths) / len(lengths) < 1
    over = sum(max(0, length - MOST) for length in lengths)
    assert counted.cut_tokens == pytest.approx(over / sum(lengths))


@pytest.mark.parametrize("which", ["main", "replay"])
def test_a_step_on_pairs_or_on_general_examples_alone_can_be_tried(tokenizer: Any, tiny_base: Path, which: str) -> None:
    found = material(tokenizer, "dpo", MOST)
    told = _taken(with_lora(load_base(tiny_base, None), DPO), DPO, _only(found, getattr(found, which)[:2]), steps=1)
    assert told.count == 1 and told.pace > 0
