"""What the sample dataset promises to whoever fine-tunes and measures with it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest

import tunesmith.datasets

FOLDER = Path(tunesmith.datasets.__file__).parent / "samples"
FILES = ("facts.train", "facts.validation", "facts.test", "control", "general")


def rows(name: str) -> list[tuple[str, str]]:
    """(question, answer) of every line of a sample file."""
    read = []
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        asked, answered = json.loads(line)["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        read.append((asked["content"], answered["content"]))
    return read


def normalised(text: str) -> str:
    """The text without case, punctuation and white space."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def questions(name: str) -> set[str]:
    return {normalised(question) for question, _ in rows(name)}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("facts.train", 200, 600),
        ("facts.validation", 60, 200),
        ("facts.test", 120, 300),
        ("control", 120, 300),
        ("general", 150, 400),
    ],
)
def test_every_file_has_the_promised_number_of_rows(name: str, least: int, most: int) -> None:
    assert least <= len(rows(name)) <= most


@pytest.mark.parametrize("name", FILES)
def test_no_file_asks_a_question_twice(name: str) -> None:
    assert len(questions(name)) == len(rows(name))


@pytest.mark.parametrize("name", FILES)
def test_both_languages_make_up_about_half(name: str) -> None:
    chinese = sum(any("\u4e00" <= char <= "\u9fff" for char in answer) for _, answer in rows(name))
    assert 0.4 <= chinese / len(rows(name)) <= 0.6


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_text_on_both_sides(name: str) -> None:
    assert all(question.strip() and answer.strip() for question, answer in rows(name))


@pytest.mark.parametrize("trained", ["facts.train", "general"])
def test_no_control_question_is_trained(trained: str) -> None:
    assert not questions("control") & questions(trained)


@pytest.mark.parametrize("asked", ["facts.validation", "facts.test"])
def test_facts_are_asked_in_words_that_were_not_trained(asked: str) -> None:
    assert not questions(asked) & (questions("facts.train") | questions("general"))


def test_validation_and_test_share_no_question() -> None:
    assert not questions("facts.validation") & questions("facts.test")


@pytest.mark.parametrize("asked", ["facts.validation", "facts.test"])
def test_every_asked_fact_is_trained(asked: str) -> None:
    trained = {answer for _, answer in rows("facts.train")}
    assert all(answer in trained for _, answer in rows(asked))


def test_every_fact_is_trained_in_several_phrasings() -> None:
    answers = [answer for _, answer in rows("facts.train")]
    assert all(answers.count(answer) >= 3 for answer in set(answers))


def test_no_control_answer_is_a_trained_fact() -> None:
    trained = {normalised(answer) for _, answer in rows("facts.train")}
    assert not trained & {normalised(answer) for _, answer in rows("control")}


def test_files_hold_readable_text_without_escapes() -> None:
    for name in FILES:
        assert "\\u" not in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
