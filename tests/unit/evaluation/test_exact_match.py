"""Normalised exact match."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.exact_match import matches, normalise

_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_WORDS = st.text(alphabet="abcxyz河流小镇长", min_size=1, max_size=12)
_MARKS = st.lists(
    st.sampled_from([" ", "\n", "\t", ",", "。", "！", "?", "“", "”", "\u3000", "\u200b", "…", "~"]), max_size=6
)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("The Mayor is Ada.", "the mayor is ada"),
        ("市长是小林。", "市长是小林"),
        ("ＡＢＣ１２３", "abc123"),
        (" 清水 河\n", "清水河"),
        ("It’s “fine”!", "its fine"),
        ("Straße", "STRASSE"),
        ("1,000", "1000"),
        ("COVID-19", "covid 19"),
        ("?!", "?!"),
        ("**42**", "`42`"),
    ],
)
def test_case_punctuation_width_and_space_do_not_matter(output: str, expected: str) -> None:
    assert matches(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ada", "adam"),
        ("3.5", "35"),
        ("-3", "3"),
        ("−3", "3"),
        ("答案是-3", "答案是3"),
        ("", "ada"),
        ("?!", "..."),
        ("", "。"),
        ("the cat", "cat"),
    ],
)
def test_what_says_something_else_does_not_match(output: str, expected: str) -> None:
    assert not matches(output, expected)


def test_a_minus_matches_the_typographic_one() -> None:
    assert matches("−3", "-3")


@_UNHURRIED
@given(_WORDS, st.data())
def test_marks_put_anywhere_and_other_case_change_nothing(words: str, data: st.DataObject) -> None:
    spoiled = "".join("".join(data.draw(_MARKS)) + char for char in words.upper()) + "".join(data.draw(_MARKS))
    assert matches(spoiled, words)


@_UNHURRIED
@given(st.text(max_size=30), st.text(max_size=30))
def test_matching_is_symmetric_and_a_text_matches_itself(left: str, right: str) -> None:
    assert matches(left, right) == matches(right, left)
    assert matches(left, left)


@_UNHURRIED
@given(st.text(max_size=30))
def test_nothing_normalised_holds_white_space(text: str) -> None:
    assert not any(char.isspace() for char in normalise(text))
