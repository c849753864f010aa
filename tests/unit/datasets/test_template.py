"""Templates: literal placeholders, put in once, and nothing interpreted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.datasets.example import Message, Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.template import MOST_CHARACTERS, Template, conversation
from tunesmith.kernel.problems import Invalid

DOCUMENT = "### 指令:\n{instruction}\n\n### 回答:\n{response}"
HERE = Source("x.json", 7)


def turns(row: object, shape: str, template: str = DOCUMENT) -> list[tuple[str, str]]:
    made = conversation(row, shape, HERE, Template.parse(template))
    assert not isinstance(made, BadRow), made.text("en")
    return [(turn.role, turn.content) for turn in made]


def refusal(row: object, shape: str, template: str = DOCUMENT) -> str:
    made = conversation(row, shape, HERE, Template.parse(template))
    assert isinstance(made, BadRow)
    return made.text("en")


def test_the_documents_template_asks_before_the_response_and_answers_with_it() -> None:
    assert turns({"instruction": "问", "output": "答"}, "alpaca") == [
        ("user", "### 指令:\n问\n\n### 回答:\n"),
        ("assistant", "答"),
    ]


def test_what_follows_the_response_belongs_to_the_answer() -> None:
    made = turns({"instruction": "q", "input": "i", "response": "a"}, "alpaca", "{instruction}|{input}|{response}\nEND")
    assert made == [("user", "q|i|"), ("assistant", "a\nEND")]


def test_a_placeholder_may_stand_more_than_once_but_the_response() -> None:
    assert turns({"prompt": "q", "completion": "a"}, "prompt_completion", "{instruction}{instruction}{response}") == [
        ("user", "qq"),
        ("assistant", "a"),
    ]
    with pytest.raises(Invalid, match=r"exactly one \{response\}, got 2"):
        Template.parse("{instruction}{response}{response}")


def test_an_input_the_template_does_not_name_is_not_lost() -> None:
    row = {"instruction": "translate", "input": "Haus", "output": "house"}
    assert turns(row, "alpaca", "{instruction}: {response}")[0] == ("user", "translate\nHaus: ")
    assert turns({**row, "input": ""}, "alpaca", "{instruction} {input}: {response}")[0] == ("user", "translate : ")
    assert turns({**row, "instruction": ""}, "alpaca", "{instruction}: {response}")[0] == ("user", "Haus: ")


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
        ({"prompt": "q", "response": "a"}, "prompt_response"),
        ({"input": "q", "expected": "a"}, "input_expected"),
        ({"input": "q", "output": "a"}, "input_output"),
        ({"question": "q", "answer": "a"}, "question_answer"),
        ({"query": "q", "response": "a"}, "query_response"),
        ({"instruction": "q", "response": "a"}, "alpaca"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "openai"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
    ],
)
def test_rows_of_every_shape_fill_a_template(row: object, shape: str) -> None:
    assert turns(row, shape, "Q {instruction}{input} A {response}") == [("user", "Q q A "), ("assistant", "a")]


def test_the_system_text_stays_a_turn_of_its_own() -> None:
    row = {"system": "be brief", "instruction": "q", "output": "a"}
    assert turns(row, "alpaca", "{instruction}{response}") == [
        ("system", "be brief"),
        ("user", "q"),
        ("assistant", "a"),
    ]


@pytest.mark.parametrize(
    ("row", "shape", "told"),
    [
        ({"instruction": "q"}, "alpaca", "x.json:7: output: missing"),
        ({"instruction": "q", "output": 5}, "alpaca", "x.json:7: output: expected string, got int 5"),
        ({"instruction": "q", "input": 5, "output": "a"}, "alpaca", "x.json:7: input: expected string, got int 5"),
        ({"instruction": "q", "output": "a", "history": [["1", "2"]]}, "alpaca", "one answer, got 4 turns"),
        (
            {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant") * 2]},
            "openai",
            "x.json:7: a template takes rows of one question and one answer, got 4 turns",
        ),
        (["q", "a"], "alpaca", "x.json:7: expected object, got list (2)"),
    ],
)
def test_a_row_that_cannot_fill_the_template_is_refused_by_its_line(row: object, shape: str, told: str) -> None:
    assert told in refusal(row, shape)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("", "exactly one {response}, got 0"),
        ("{instruction}", "exactly one {response}, got 0"),
        ("{response}", "{instruction} must stand before {response}"),
        ("{response} {instruction}", "{instruction} must stand before {response}"),
        ("{instruction}{response}{input}", "no placeholder may follow {response}"),
        ("{instruction}{response}{output}", "unknown placeholder {output}"),
        ("{instruction}{response}{0}", "unknown placeholder {0}"),
        ("{instruction}{response}{指令}", "unknown placeholder {指令}"),
        ("{ instruction }{response}", "unknown placeholder { instruction }"),
        ("{instruction.__class__.__init__.__globals__}{instruction}{response}", "unknown placeholder {instruction.__"),
        ("{instruction[0]}{instruction}{response}", "unknown placeholder {instruction[0]}"),
        ("{instruction!r}{instruction}{response}", "unknown placeholder {instruction!r}"),
        ("{instruction:>999999999}{instruction}{response}", "unknown placeholder {instruction:>999999999}"),
        ("{instruction}{response}" + "x" * MOST_CHARACTERS, "at most 20000 characters, got 20023"),
        ("{instruction}\0{response}", "control characters"),
        ("{instruction}\x1b[31m{response}", "control characters"),
        ("{instruction}\ud800{response}", "control characters"),
    ],
)
def test_a_template_that_asks_for_anything_else_is_refused(template: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        Template.parse(template)
    assert caught.value.en.startswith("template is not valid: ")
    assert told in caught.value.en
    assert caught.value.details["field"] == "template"
    assert caught.value.zh != caught.value.en


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        "{}",
        "{{}}",
        "a { b } c {'x'}",
        "{x:>999999999}",
        "{a.__class__}",
        "{b: 1}",
        "{%s}",
        "%(instruction)s",
        "$instruction",
        "{{ 7*7 }}",
        "{}}{",
    ],
)
def test_braces_that_are_no_placeholder_stay_as_they_are(text: str) -> None:
    made = turns({"instruction": "q", "output": "a"}, "alpaca", text + "{instruction}" + text + "{response}" + text)
    assert made == [("user", f"{text}q{text}"), ("assistant", f"a{text}")]


def test_placeholders_inside_values_are_not_put_in_again() -> None:
    row = {"instruction": "{response}{input}{instruction.__class__}", "input": "{instruction}", "output": "{input}"}
    assert turns(row, "alpaca", "{instruction}|{input}|{response}") == [
        ("user", "{response}{input}{instruction.__class__}|{instruction}|"),
        ("assistant", "{input}"),
    ]


@given(instruction=st.text(min_size=1), given_=st.text(), response=st.text(min_size=1))
def test_values_come_through_whole_whatever_they_hold(instruction: str, given_: str, response: str) -> None:
    template = Template.parse("a{input}b{instruction}c{response}d")
    assert template.filled(instruction, given_, response) == (
        Message("user", f"a{given_}b{instruction}c"),
        Message("assistant", f"{response}d"),
    )


def test_many_braces_are_looked_through_in_no_time() -> None:
    for text in ("{" * 19_000, "{a" * 9000, "{a:" * 6000, "{" + " " * 19_000, "{" + "a" * 19_000, "{a:" + "}{" * 9000):
        with pytest.raises(Invalid):
            Template.parse(text + "{response}")
