"""Rows of files as samples."""

import io
import json
from typing import Any

import pytest

from tunesmith.datasets.example import Message
from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.rows import file_samples
from tunesmith.datasets.export.sample import Format, Sample, Wanted
from tunesmith.kernel.problems import Invalid

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "r"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def read(*rows: Any, label: str = "x.jsonl") -> list[Sample]:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return list(file_samples(io.BytesIO(text.encode()), label))


def refusal(*rows: Any) -> list[dict[str, Any]]:
    with pytest.raises(Invalid) as caught:
        read(*rows)
    found: list[dict[str, Any]] = caught.value.details["bad_rows"]
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWERED]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"input": "q", "expected": "a"},
        {"input": "q", "output": "a"},
        {"question": "q", "answer": "a"},
        {"query": "q", "response": "a"},
    ],
)
def test_every_shape_is_read(row: dict[str, Any]) -> None:
    assert read(row) == [Sample(id="x.jsonl:1", input="q", output="a")]


def test_turns_and_the_system_message_are_told_apart() -> None:
    turns = [{"role": "system", "content": "s"}, ASKED, ANSWERED, {"role": "user", "content": " q2\n"}, ANSWERED]
    earlier = (Message("user", "q"), Message("assistant", "a"))
    assert read({"messages": turns}) == [Sample(id="x.jsonl:1", input=" q2\n", output="a", system="s", earlier=earlier)]


@pytest.mark.parametrize(
    ("columns", "thinking"),
    [
        ({}, None),
        ({"reasoning": "r", "chain_of_thought": "c", "thinking": "t"}, "r"),
        ({"reasoning": "", "chain_of_thought": "c"}, "c"),
        ({"chain_of_thought": " c\n"}, " c\n"),
        ({"thinking": "t", "reasoning": None}, "t"),
        ({"chain_of_thought": ""}, ""),
        ({"chain_of_thought": "", "thinking": "t"}, "t"),
        ({"reasoning": "", "thinking": ""}, None),
        ({"reasoning": " "}, " "),
    ],
)
def test_thinking_stands_in_a_column(columns: dict[str, Any], thinking: str | None) -> None:
    for row in ({"prompt": "q", "completion": "a"}, {"messages": [ASKED, ANSWERED]}):
        assert read(row | columns)[0].thinking == thinking


def test_thinking_inside_an_answer_stays_there() -> None:
    answer = "<think>\nt\n</think>\n\na"
    (sample,) = read({"prompt": "q", "completion": answer})
    assert (sample.output, sample.thinking) == (answer, None)


def test_csv_has_its_columns() -> None:
    text = "input,output,chain_of_thought\nq,a,c\nq2,a2,\n"
    first, second = file_samples(io.BytesIO(text.encode()), "data/raw/x.csv")
    assert first == Sample(id="data/raw/x.csv:2", input="q", output="a", thinking="c")
    assert second.thinking == ""


def test_tool_calls_become_the_trace() -> None:
    turns = [{"role": "system", "content": "s"}, ASKED, CALLING, RESULT, ANSWERED]
    (sample,) = read({"messages": turns, "tools": [TOOL]})
    assert (sample.input, sample.output, sample.system, sample.earlier) == ("q", "a", "s", ())
    assert sample.tools == (TOOL,)
    row = json.loads(next(lines([sample], Wanted(format=Format.OPENAI_CHAT))))
    assert row == {"messages": [*turns[:2], {**CALLING, "content": ""}, RESULT, ANSWERED], "tools": [TOOL]}


def test_tool_calls_of_earlier_turns_keep_their_place() -> None:
    turns = [ASKED, CALLING, RESULT, ANSWERED, {"role": "user", "content": "q2"}, CALLING, RESULT, ANSWERED]
    row = json.loads(next(lines(read({"messages": turns}), Wanted(format=Format.HUGGINGFACE))))
    expected = [{**CALLING, "content": ""} if turn is CALLING else turn for turn in turns]
    assert row["conversations"][1:] == expected


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"messages": [ASKED, CALLING, RESULT]}, "messages[2]"),
        ({"messages": [CALLING]}, "messages[0]"),
        ({"messages": [ASKED, CALLING, RESULT, {"role": "assistant", "content": ""}]}, "messages[3].content"),
        ({"messages": [CALLING, RESULT, ANSWERED]}, "messages[2]"),
        ({"messages": [ASKED, {**CALLING, "weight": 0}, RESULT, ANSWERED]}, "messages[1].weight"),
        ({"messages": [ASKED, ANSWERED], "tools": "[]x"}, "tools"),
        ({"messages": [ASKED, ANSWERED], "tools": ["x"]}, "tools[0]"),
        ({"messages": [ASKED, CALLING, RESULT, ANSWERED], "functions": [TOOL]}, "functions"),
        ({"messages": "[]", "tools": [TOOL]}, "messages"),
        ({"messages": [], "tools": [TOOL]}, "messages"),
        ({"messages": [ASKED, ANSWERED], "reasoning": 4}, "reasoning"),
        ({"messages": [ASKED, ANSWERED], "thinking": "\0"}, "thinking"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], field: str) -> None:
    (bad,) = refusal({"messages": [ASKED, ANSWERED]}, row)
    assert (bad["file"], bad["line"], bad["field"]) == ("x.jsonl", 2, field)


def test_a_tool_result_that_no_call_asked_for_is_refused() -> None:
    said = [("human", "q"), ("gpt", "calls"), ("observation", "r"), ("gpt", "a")]
    (bad,) = refusal({"conversations": [{"from": who, "value": text} for who, text in said]})
    assert "tool_calls" in bad["en"]


def test_every_bad_row_is_listed() -> None:
    good = {"prompt": "q", "completion": "a"}
    assert [bad["line"] for bad in refusal(good, {"prompt": "q"}, good, [1], {**good, "reasoning": []})] == [2, 4, 5]


def test_a_file_without_rows_is_refused() -> None:
    with pytest.raises(Invalid):
        read()
    with pytest.raises(Invalid):
        list(file_samples(io.BytesIO(b"[]"), "x.json"))
