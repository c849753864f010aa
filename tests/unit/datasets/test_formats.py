"""Every shape the field uses becomes the same Example; every broken rule is named with its field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.datasets.example import Example, Message, Source
from tunesmith.datasets.formats import PAIRS, SHAPES, BadRow, check_shape, detect, to_example
from tunesmith.kernel.problems import Invalid

AT = Source("train.json", 17)
ASKED, ANSWERED = Message("user", "问？"), Message("assistant", "答。")
GOOD = {"role": "user", "content": "问？"}, {"role": "assistant", "content": "答。"}

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda value: not value.isspace()
)


def messages(row: object, shape: str) -> tuple[Message, ...]:
    example = to_example(row, shape, AT)
    assert isinstance(example, Example), example
    assert example.source == AT
    return example.messages


def bad(row: object, shape: str) -> BadRow:
    found = to_example(row, shape, AT)
    assert isinstance(found, BadRow), found
    assert found.source == AT
    assert found.row == row
    return found


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("openai", {"messages": [*GOOD]}),
        ("openai", {"id": 3, "messages": [{**GOOD[0], "name": "ann"}, {**GOOD[1], "weight": 1, "tool_calls": None}]}),
        (
            "openai",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "问"}, {"text": "？"}]}, GOOD[1]]},
        ),
        ("sharegpt", {"conversations": [{"from": "human", "value": "问？"}, {"from": "gpt", "value": "答。"}]}),
        (
            "sharegpt",
            {"system": "", "conversations": [{"from": "user", "value": "问？"}, {"from": "model", "value": "答。"}]},
        ),
        ("sharegpt", {"conversations": [*GOOD]}),
        ("alpaca", {"instruction": "问？", "input": "", "output": "答。"}),
        ("alpaca", {"instruction": "问？", "input": None, "output": "答。", "history": []}),
        ("alpaca", {"instruction": "", "input": "问？", "output": "答。"}),
        ("prompt_completion", {"prompt": "问？", "completion": "答。"}),
        ("prompt_completion", {"prompt": [GOOD[0]], "completion": [GOOD[1]]}),
        ("input_expected", {"input": "问？", "expected": "答。", "score": 0.5}),
        ("question_answer", {"question": "问？", "answer": "答。", "system": None}),
    ],
)
def test_every_shape_gives_the_same_conversation_and_is_detected(shape: str, row: dict[str, object]) -> None:
    assert messages(row, shape) == (ASKED, ANSWERED)
    assert detect([row], "train.json") == shape


@pytest.mark.parametrize("shape", PAIRS)
def test_every_pair_of_names_is_detected(shape: str) -> None:
    asked, answered = PAIRS[shape]
    assert detect([{asked: "a", answered: "b"}], "x") == shape


def test_alpaca_joins_instruction_and_input_and_keeps_history_in_order() -> None:
    row = {"instruction": "译", "input": "hi", "output": "你好", "system": "简短", "history": [["a", "b"], ["c", "d"]]}
    assert [(m.role, m.content) for m in messages(row, "alpaca")] == [
        ("system", "简短"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "译\nhi"),
        ("assistant", "你好"),
    ]


def test_sharegpt_tool_turns_become_assistant_and_tool() -> None:
    turns = [("human", "天气？"), ("function_call", "{}"), ("observation", "晴"), ("gpt", "晴天。")]
    row = {"system": "s", "conversations": [{"from": who, "value": said} for who, said in turns]}
    assert [m.role for m in messages(row, "sharegpt")] == ["system", "user", "assistant", "tool", "assistant"]


A, U = {"role": "assistant", "content": "a"}, {"role": "user", "content": "u"}
S = {"role": "system", "content": "s"}
BAD_ROWS = [
    # the row
    ("alpaca", None, "", "expected object, got null"),
    ("alpaca", ["x"], "", "expected object, got list (1)"),
    ("alpaca", "x\x1b[2J", "", "expected object, got string 'x\\x1b[2J'"),
    # fields
    ("alpaca", {"instruction": "a", "output": 5}, "output", "expected string, got int 5"),
    ("alpaca", {"instruction": "a", "output": True}, "output", "expected string, got bool True"),
    ("alpaca", {"instruction": "a", "output": None}, "output", "expected string, got null"),
    ("alpaca", {"instruction": "a", "output": ["b"]}, "output", "expected string, got list (1)"),
    ("alpaca", {"instruction": "a", "output": {"b": 1}}, "output", "expected string, got object (1)"),
    ("alpaca", {"instruction": "a", "output": " \n\u3000"}, "output", "is empty"),
    ("alpaca", {"instruction": "a"}, "output", "missing"),
    ("alpaca", {"output": "a"}, "instruction", "missing"),
    ("alpaca", {"instruction": "", "input": "", "output": "a"}, "instruction", "is empty"),
    ("alpaca", {"instruction": "a", "input": 3, "output": "a"}, "input", "expected string, got int 3"),
    ("alpaca", {"instruction": "a", "output": "b", "system": 1}, "system", "expected string, got int 1"),
    ("alpaca", {"instruction": "a", "output": "b", "history": "x"}, "history", "expected list, got string 'x'"),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["x"]]}, "history[0]", "expected [question, answer]"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["x", 1]]},
        "history[0][1]",
        "expected string, got int 1",
    ),
    ("alpaca", {"instruction": "a", "output": "b\ud800"}, "output", "holds the lone surrogate U+D800"),
    ("alpaca", {"instruction": "a", "output": "b\0"}, "output", "holds the character NUL (U+0000)"),
    ("prompt_completion", {"prompt": "a", "completion": "b", "label": False}, "label", "this is preference data (KTO)"),
    ("input_expected", {"input": "a"}, "expected", "missing"),
    # turns
    ("openai", {}, "messages", "missing"),
    ("openai", {"messages": None}, "messages", "expected list, got null"),
    ("openai", {"messages": []}, "messages", "the conversation is empty"),
    ("openai", {"messages": [U, "a"]}, "messages[1]", "expected object, got string 'a'"),
    ("openai", {"messages": [U, {"role": "bot", "content": "a"}]}, "messages[1].role", "unknown role string 'bot'"),
    ("openai", {"messages": [U, {"content": "a"}]}, "messages[1].role", "unknown role null"),
    ("openai", {"messages": [U, {"role": ["user"]}]}, "messages[1].role", "unknown role list (1)"),
    ("openai", {"messages": [U, {"role": "assistant"}]}, "messages[1].content", "expected string, got null"),
    ("openai", {"messages": [U, {**A, "content": ""}]}, "messages[1].content", "is empty"),
    ("openai", {"messages": [U, {**A, "content": []}]}, "messages[1].content", "is empty"),
    ("openai", {"messages": [U, {**A, "tool_calls": [{}]}]}, "messages[1].tool_calls", "tool calls are not supported"),
    ("openai", {"messages": [U, {**A, "weight": 0}]}, "messages[1].weight", "weights of single turns"),
    ("openai", {"messages": [U, A], "tools": [{}]}, "tools", "tool definitions are not supported"),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A]},
        "messages[0].content[0]",
        "only text parts are supported, got string 'image_url'",
    ),
    (
        "openai",
        {"messages": [{"role": "user", "content": [3]}, A]},
        "messages[0].content[0]",
        "expected object, got int 3",
    ),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"text": 3}]}, A]},
        "messages[0].content[0].text",
        "expected",
    ),
    ("sharegpt", {"conversations": [{"from": "alien", "value": "x"}]}, "conversations[0].from", "unknown role"),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": 7}]},
        "conversations[0].value",
        "expected string, got int 7",
    ),
    # order
    ("openai", {"messages": [A]}, "messages[0]", "the first turn is assistant, not user"),
    ("openai", {"messages": [S]}, "messages", "the last turn is system, not assistant"),
    ("openai", {"messages": [S, A]}, "messages[1]", "assistant after system"),
    ("openai", {"messages": [U]}, "messages", "the last turn is user, not assistant: there is nothing to train on"),
    ("openai", {"messages": [U, A, U]}, "messages", "the last turn is user"),
    ("openai", {"messages": [U, U, A]}, "messages[1]", "user after user"),
    ("openai", {"messages": [U, A, A]}, "messages[2]", "assistant after assistant"),
    ("openai", {"messages": [U, A, S, U, A]}, "messages[2]", "system after assistant"),
    ("openai", {"messages": [{"role": "tool", "content": "x"}, A]}, "messages[0]", "the first turn is tool"),
    ("openai", {"messages": [U, {"role": "tool", "content": "x"}, A]}, "messages[1]", "tool after user"),
    ("openai", {"messages": [U, A, {"role": "tool", "content": "x"}, U, A]}, "messages[3]", "user after tool"),
    ("openai", {"messages": [S, S, U, A]}, "messages[1]", "system after system"),
]


@pytest.mark.parametrize(("shape", "row", "field", "reason"), BAD_ROWS)
def test_a_bad_row_says_which_field_and_why(shape: str, row: object, field: str, reason: str) -> None:
    found = bad(row, shape)
    assert found.field == field
    assert found.en.startswith(reason)
    assert found.zh
    assert found.zh != found.en


def test_the_line_of_a_bad_row_reads_as_promised_in_both_languages() -> None:
    found = bad({"instruction": "a", "output": 5}, "alpaca")
    assert found.text("en") == "train.json:17: output: expected string, got int 5; write it as one text, in quotes"
    assert found.text("zh") == "train.json:17: output：应为字符串，得到 int 5；请写成一段文本，例如用引号括起"


def test_a_message_about_a_value_stays_short_and_printable() -> None:
    found = bad({"instruction": "a", "output": "b", "history": "\x1b[31m" + "红" * 10_000}, "alpaca")
    assert found.text("en").isprintable()
    assert len(found.text("en")) < 200


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "long"}, "the answer alone cannot be trained on; split it into"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference data (chosen/rejected)"),
        ({"data": [{"prompt": "a", "completion": "b"}]}, "its rows lie in the list 'data'; save that list alone"),
        ({"foo": 1, "bar": 2}, "fields of the first row: foo, bar"),
        ({}, "fields of the first row: -"),
    ],
)
def test_a_file_of_no_known_shape_is_refused_with_what_to_do(row: dict[str, object], told: str) -> None:
    with pytest.raises(Invalid) as refused:
        detect([row], "train.json")
    assert told in refused.value.en
    assert "train.json" in refused.value.zh


def test_the_shape_most_first_rows_have_wins_over_a_bad_first_row() -> None:
    good = {"prompt": "a", "completion": "b"}
    assert detect([{"junk": 1}, 5, good, {"instruction": "a", "output": "b"}, good], "x") == "prompt_completion"


def test_a_column_that_is_always_null_does_not_decide_the_shape() -> None:
    row = {"messages": None, "prompt": "a", "completion": "b"}
    assert detect([row], "x") == "prompt_completion"
    assert detect([{"instruction": "a", "output": None}], "x") == "alpaca"


def test_shape_names_may_be_spelled_as_people_do() -> None:
    assert check_shape("Prompt/Completion") == "prompt_completion"
    assert check_shape("question-answer") == "question_answer"
    assert check_shape("messages") == "openai"
    with pytest.raises(Invalid, match="known: openai, sharegpt, alpaca"):
        check_shape("nonsense")


@given(turns=st.lists(st.tuples(text, text), min_size=1, max_size=4), system=st.none() | text)
def test_a_conversation_survives_the_way_through_any_shape(turns: list[tuple[str, str]], system: str | None) -> None:
    flat = [Message.of(role, said) for turn in turns for role, said in zip(("user", "assistant"), turn, strict=True)]
    head = [Message("system", system)] if system else []
    wanted = (*head, *flat)
    names = {"user": "human", "assistant": "gpt"}
    rows: dict[str, dict[str, object]] = {
        "openai": {"messages": [m.as_dict() for m in wanted]},
        "sharegpt": {"conversations": [{"from": names[m.role], "value": m.content} for m in flat], "system": system},
        "alpaca": {
            "instruction": turns[-1][0],
            "output": turns[-1][1],
            "system": system,
            "history": [list(turn) for turn in turns[:-1]],
        },
    }
    for shape, row in rows.items():
        assert messages(row, shape) == wanted
    for shape, (asked, answered) in PAIRS.items():
        assert messages({asked: turns[0][0], answered: turns[0][1], "system": system}, shape) == (*head, *flat[:2])


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
turn_like = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("role", "content", "from", "value", "weight"), json_like | st.sampled_from(["user", "gpt"])
    ),
)
fields = sorted(
    {"messages", "conversations", "instruction", "output", "history", "tools", "label", "system"}
    | {name for pair in PAIRS.values() for name in pair}
)


@given(
    row=json_like
    | st.fixed_dictionaries({}, optional=dict.fromkeys(fields, json_like | st.lists(turn_like, max_size=3))),
    shape=st.sampled_from(sorted(SHAPES)),
)
def test_no_row_whatsoever_raises_and_every_example_keeps_the_rules(row: object, shape: str) -> None:
    found = to_example(row, shape, AT)
    if isinstance(found, BadRow):
        assert "\n" not in found.text("zh") + found.text("en") or isinstance(row, dict)
        return
    assert found.completion.strip()
    assert found.messages[-1].role == "assistant"
    assert all(message.content.encode() for message in found.messages)


def test_an_instruction_is_answered_by_its_response_where_there_is_no_output() -> None:
    rows = [{"instruction": "q", "response": "a"}]
    assert detect(rows, "x.json") == "alpaca"
    made = to_example(rows[0], "alpaca", Source("x.json", 1))
    assert isinstance(made, Example)
    assert (made.prompt[0].content, made.completion) == ("q", "a")
    with pytest.raises(Invalid):  # a context would be ignored, and is part of the question
        detect([{**rows[0], "context": "c"}], "x.json")
