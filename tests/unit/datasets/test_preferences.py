"""Rows with a better and a worse answer, in the shapes people have them in."""

import json
from pathlib import Path

import pytest

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import (
    Preference,
    file_holds_preferences,
    holds_preferences,
    read_preference_file,
    read_preferences,
    to_preference,
)
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid

SOURCE = Source("pairs.jsonl", 3)
USER = {"role": "user", "content": "Hi?"}
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "No."}
SHAPES: dict[str, dict[str, object]] = {
    "strings": {"prompt": "Hi?", "chosen": "Hello!", "rejected": "No."},
    "a prompt of messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "messages beside": {"messages": [USER], "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "the prompt and the whole": {"prompt": "Hi?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "alpaca": {"instruction": "Hi?", "input": "", "chosen": "Hello!", "rejected": "No."},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi?"}],
        "chosen": {"from": "gpt", "value": "Hello!"},
        "rejected": {"from": "gpt", "value": "No."},
    },
}


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES)
def test_a_pair_is_read_in_every_shape(row: dict[str, object]) -> None:
    found = to_preference(row, SOURCE)
    assert isinstance(found, Preference), found
    assert [m.as_dict() for m in found.chosen.messages] == [USER, GOOD]
    assert [m.as_dict() for m in found.rejected.messages] == [USER, BAD]
    assert found.source == SOURCE


def test_a_system_message_stands_before_both() -> None:
    found = to_preference(SHAPES["strings"] | {"system": "Be kind."}, SOURCE)
    assert isinstance(found, Preference)
    assert found.chosen.messages[0] == found.rejected.messages[0] and found.chosen.messages[0].role == "system"


@pytest.mark.parametrize(
    "change,field,says",
    [
        ({"rejected": None}, "rejected", "expected string"),
        ({"rejected": "  "}, "rejected", "is empty"),
        ({"rejected": "Hello!"}, "rejected", "the same as chosen"),
        ({"chosen": 7}, "chosen", "expected string"),
        ({"prompt": 7}, "prompt", "expected string"),
        ({"chosen": [{"role": "assistant", "content": 5}]}, "chosen[0].content", "expected string"),
        ({"chosen": [{"role": "pirate", "content": "Arr"}]}, "chosen[0].role", "pirate"),
        ({"rejected": [{"role": "user", "content": "Why?"}, BAD]}, "", ""),
    ],
)
def test_a_broken_row_names_the_field(change: dict[str, object], field: str, says: str) -> None:
    found = to_preference(SHAPES["strings"] | change, SOURCE)
    assert isinstance(found, BadRow), found
    assert found.field.startswith(field) and says in found.en and found.zh != found.en


def test_a_row_without_a_rejected_answer_says_so() -> None:
    found = to_preference({"prompt": "Hi?", "chosen": "Hello!"}, SOURCE)
    assert isinstance(found, BadRow) and found.field == "rejected" and "missing" in found.en


def test_answers_to_two_questions_are_no_pair() -> None:
    other = {"role": "user", "content": "Bye?"}
    found = to_preference({"chosen": [USER, GOOD], "rejected": [other, BAD]}, SOURCE)
    assert isinstance(found, BadRow) and "another conversation" in found.en


def test_a_file_is_refused_with_every_bad_row_or_read_without_them(tmp_path: Path) -> None:
    rows = [SHAPES["strings"], {"prompt": "x"}, SHAPES["alpaca"], {"prompt": "y", "chosen": "a", "rejected": 3}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    home = Home(tmp_path)
    with pytest.raises(Invalid) as refused:
        list(read_preferences(home, "data/pairs.jsonl"))
    assert "pairs.jsonl:2: chosen" in refused.value.en and "pairs.jsonl:4: rejected" in refused.value.en
    bad: list[BadRow] = []
    assert len(list(read_preferences(home, "data/pairs.jsonl", on_bad=bad.append))) == 2 and len(bad) == 2


@pytest.mark.parametrize(
    "rows,expected",
    [
        ([{"prompt": "x"}, SHAPES["strings"]], True),
        ([SHAPES["whole conversations"]], True),
        ([SHAPES["strings"] | {"completion": "Hello!"}], True),
        ([{"prompt": "Hi?", "completion": "Hello!"}], False),
        ([{"prompt": "Hi?", "chosen": "Hello!"}], False),
        (["no object"], False),
    ],
)
def test_preferences_are_told_by_their_first_rows(tmp_path: Path, rows: list[object], expected: bool) -> None:
    file = tmp_path / "data" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert file_holds_preferences(file) is holds_preferences(Home(tmp_path), "data/rows.jsonl") is expected


def test_what_cannot_be_read_holds_no_preferences_and_says_so_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("")
    assert not file_holds_preferences(file)
    with pytest.raises(Invalid, match=r"rows\.jsonl: the file is empty"):
        list(read_preference_file(file))
