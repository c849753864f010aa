"""From the names in a recipe to what the loop is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid
from tunesmith.training import run_folder
from tunesmith.training.data.encoding import Encoded
from tunesmith.training.data.findings import read_report
from tunesmith.training.data.pairs import EncodedPair
from tunesmith.training.data.preparing import prepared
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import Order, Stopped

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(4)]
PAIRS = [{"prompt": f"question {n}", "chosen": f"answer {n}", "rejected": "no idea"} for n in range(4)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    (home.root / "data").mkdir(parents=True)
    return home


def write(home: Home, name: str, rows: list[dict[str, Any]]) -> str:
    (home.root / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data/{name}"


def order(home: Home, base: Path, **recipe: Any) -> Order:
    return Order("1", str(home.root), "adapters/x", str(base), Recipe("tiny", max_length=64, **recipe))


def test_every_part_is_read_and_what_was_found_in_it_is_kept(
    home: Home, tmp_path: Path, tiny_base: Path, tokenizer: Any
) -> None:
    asked = order(
        home, tiny_base, dataset=write(home, "a.jsonl", ROWS), validation=write(home, "v.jsonl", ROWS[:1]),
        replay=write(home, "r.jsonl", ROWS[:2]), replay_share=0.5, control=write(home, "c.jsonl", ROWS[:3]),
    )  # fmt: skip
    material = prepared(home, asked, tokenizer, tmp_path, lambda: False)
    parts = (material.main, material.replay, material.validation, material.control)
    assert [len(part) for part in parts] == [4, 2, 1, 3]
    report = read_report(tmp_path)
    assert report is not None and {finding.kind for finding in report.findings} >= {"leak"}


def test_preferences_become_pairs_and_the_control_set_does_not(
    home: Home, tmp_path: Path, tiny_base: Path, tokenizer: Any
) -> None:
    pairs, control = write(home, "p.jsonl", PAIRS), write(home, "c.jsonl", ROWS)
    asked = order(home, tiny_base, dataset=pairs, validation=pairs, control=control, objective="dpo")
    material = prepared(home, asked, tokenizer, tmp_path, lambda: False)
    assert all(isinstance(each, EncodedPair) for each in [*material.main, *material.validation])
    assert len(material.main) == 4 and all(isinstance(each, Encoded) for each in material.control)
    assert len(material.digest()) == 64


def test_a_bad_preference_refuses_the_run_or_is_left_out_and_kept(
    home: Home, tmp_path: Path, tiny_base: Path, tokenizer: Any
) -> None:
    pairs = write(home, "p.jsonl", [*PAIRS, {"prompt": "x", "chosen": "same", "rejected": "same"}])
    with pytest.raises(Invalid, match=r"p.jsonl:5: rejected: is the same as chosen"):
        prepared(home, order(home, tiny_base, dataset=pairs, objective="dpo"), tokenizer, tmp_path, lambda: False)
    asked = order(home, tiny_base, dataset=pairs, objective="dpo", skip_bad=True)
    for _ in range(2):  # another trainer leaves out the same
        assert len(prepared(home, asked, tokenizer, tmp_path, lambda: False).main) == 4
    [skipped] = [json.loads(line) for line in (tmp_path / run_folder.SKIPPED).read_text().splitlines()]
    assert skipped["source"]["line"] == 5


@pytest.mark.parametrize("objective,rows", [("sft", ROWS), ("dpo", PAIRS)])
def test_reading_stops_when_somebody_asks(
    objective: str, rows: list[dict[str, Any]], home: Home, tmp_path: Path, tiny_base: Path, tokenizer: Any
) -> None:
    asked = order(home, tiny_base, dataset=write(home, "a.jsonl", rows), objective=objective)
    with pytest.raises(Stopped):
        prepared(home, asked, tokenizer, tmp_path, lambda: True)
