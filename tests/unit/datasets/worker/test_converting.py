"""Converting: the short way and the long way agree, and prompts that read alike have one mark."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.datasets.example import Example, Message, Source
from tunesmith.datasets.formats import SHAPES, to_example
from tunesmith.datasets.worker.converting import _CASELESS, _LOWER, folded, plain_turns, prompt_mark, seed_key

KEY = seed_key(42)
TEXTS = st.one_of(st.sampled_from(["", " ", "\u3000", "a", "a\0", "问", " b "]), st.none(), st.integers(0, 1))
FIELDS = [
    "instruction",
    "input",
    "output",
    "response",
    "system",
    "history",
    "label",
    "prompt",
    "completion",
    "expected",
]


@given(row=st.dictionaries(st.sampled_from(FIELDS), TEXTS), shape=st.sampled_from(sorted(SHAPES)))
def test_the_short_way_finds_what_the_long_way_finds(row: dict[str, object], shape: str) -> None:
    found = plain_turns(row, shape)
    if found is not None:
        example = to_example(row, shape, Source("x", 1))
        assert isinstance(example, Example)
        assert found == example.messages


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": "i", "output": "a"}, "alpaca"),
        ({"question": "q", "answer": "a"}, "question_answer"),
    ],
)
def test_common_rows_go_the_short_way(row: dict[str, object], shape: str) -> None:
    assert plain_turns(row, shape) is not None


def asked(text: str, answer: str = "a") -> tuple[Message, Message]:
    return Message("user", text), Message("assistant", answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is it?", "what  IS\n it? "),
        ("Ｗｈａｔ", "what"),
        ("ﬁne", "FINE"),
        ("Straße", "STRASSE"),
        ("é", "e\u0301"),
        ("a\u00a0b", "a b"),
        ("a\u3000\u2003b", "a b"),
        ("a\u2028b\x85c\u1680d", "a b c d"),
        ("\ta\x1fb\x0b", "a b"),
        ("한글", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
    ],
)
def test_prompts_that_read_alike_have_one_mark(one: str, other: str) -> None:
    assert prompt_mark(asked(one), KEY) == prompt_mark(asked(other, "another answer"), KEY)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("a", "b"), ("a.", "a"), ("一", "二"), ("1 0", "10")])
def test_prompts_that_read_otherwise_do_not(one: str, other: str) -> None:
    assert prompt_mark(asked(one), KEY) != prompt_mark(asked(other), KEY)


def test_turns_are_trimmed_one_by_one_and_do_not_run_together() -> None:
    def talk(*texts: str) -> bytes:
        turns = [Message(role, text) for role, text in zip(("user", "assistant", "user"), texts, strict=False)]  # type: ignore[arg-type]
        return prompt_mark([*turns, Message("assistant", "z")], KEY)

    assert talk(" A ", "b\n", "c") == talk("a", "b", "C ")
    assert talk("a", "b", "c") != talk("a", "b c", "d") != talk("a b", "c", "d")
    system = (Message("system", "s"), *asked("q"))
    assert prompt_mark(system, KEY) != prompt_mark(asked("q"), KEY)


@given(st.text())
def test_folding_twice_changes_no_white_space(text: str) -> None:
    made = folded(text)
    assert b"  " not in made
    assert made == made.strip()
    assert folded(" \n" + text.replace(" ", "\t\n ") + "\u2003") == made


def test_what_is_taken_for_caseless_has_no_case_and_no_rare_blank() -> None:
    for code in [*range(0xD800), *range(0xE000, 0x110000)]:
        text = unicodedata.normalize("NFKC", chr(code))
        data = text.encode()
        if not data.translate(None, _CASELESS):
            assert data.translate(_LOWER) == text.casefold().encode().translate(_LOWER), hex(code)
            assert not set(text) & set("\x85\u1680\u2028\u2029"), hex(code)
    assert not "学习率，한국".encode()[:9].translate(None, _CASELESS)


def test_any_seed_is_a_seed() -> None:
    assert len({seed_key(seed) for seed in (0, 1, -1, 10**30)}) == 4
    assert prompt_mark(asked("q"), seed_key(1)) != prompt_mark(asked("q"), seed_key(2))
