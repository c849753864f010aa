"""Files become runs: every row or none, whatever shape they are in, and a bad one is named as Kiln names it."""

import io
import json
import re
from typing import Any

import pytest

from tests.unit.projects.conftest import AMY, Desk
from tunesmith.kernel.problems import Invalid
from tunesmith.projects import importing
from tunesmith.projects.project import Imported, TaskRun
from tunesmith.projects.traces import sample

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL_TRACE = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    {"role": "assistant", "content": "sunny", "reasoning_content": "look it up"},
]


def brought(desk: Desk, data: str | bytes, name: str = "rows.jsonl", **more: Any) -> list[TaskRun]:
    raw = data if isinstance(data, bytes) else data.encode()
    desk.service.import_file(*desk.at, io.BytesIO(raw), name, AMY, **more)
    return list(desk.service.runs(*desk.at, AMY))


def line(**row: Any) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def test_a_table_with_kilns_columns_is_read(desk: Desk) -> None:
    table = (
        "\ufeffinput,output,reasoning,chain_of_thought,tags,other\r\n"
        '"问题\r\n一, ""quoted""",答,想,,"gold, new,,gold",x\r\n'
        "two,2,,c,,\r\n"
    )
    found = desk.service.import_file(*desk.at, io.BytesIO(table.encode()), "客服.csv", AMY)
    assert found == Imported("客服.csv", 2, None)
    one, two = desk.service.runs(*desk.at, AMY)
    assert (one.input, one.output, one.reasoning, one.chain_of_thought) == ('问题\r\n一, "quoted"', "答", "想", None)
    assert (one.tags, two.tags, two.reasoning, two.thinking) == (("gold", "new"), (), None, "c")
    assert re.fullmatch("[0-9]{12}", one.id) and one.created_at < two.created_at


def test_rows_of_every_shape_are_read(desk: Desk) -> None:
    rows = [
        line(input="q", output="a", tags=["x"], reasoning="r"),
        line(input={"城市": "北京"}, output={"a": 1}),
        line(instruction="do", input="this", output="done", history=[["h1", "h2"]]),
        line(prompt="p", completion="c"),
        line(messages=[{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}], chain_of_thought=""),
        line(input="q", output="a", system="s"),
        line(trace=json.dumps([{"role": "user", "content": "t"}, {"role": "assistant", "content": "w"}])),
    ]
    found = desk.service.import_file(*desk.at, io.BytesIO("".join(rows).encode()), "r.jsonl", AMY)
    assert found == Imported("r.jsonl", 7, 1)
    runs = desk.service.runs(*desk.at, AMY)
    assert [(run.input, run.output) for run in runs] == [
        ("q", "a"),
        ('{"城市": "北京"}', '{"a": 1}'),
        ("do\nthis", "done"),
        ("p", "c"),
        ("u", "v"),
        ("q", "a"),
        ("t", "w"),
    ]
    assert (runs[0].tags, runs[0].reasoning, runs[4].thinking) == (("x",), "r", None)
    assert [turn.content for turn in sample(runs[2]).earlier] == ["h1", "h2"]
    assert runs[5].trace[0] == {"role": "system", "content": "s"} and sample(runs[5]).earlier == ()


@pytest.mark.parametrize("field", ["messages", "trace"])
def test_conversations_with_tools_keep_their_calls(desk: Desk, field: str) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    (run,) = brought(desk, line(**{field: TOOL_TRACE}, tools=tools))
    assert (run.input, run.output, run.reasoning) == ("weather?", "sunny", "look it up")
    assert list(run.trace) == TOOL_TRACE and list(run.tools) == tools


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        ("input,output\na,b\nc\n", "x.csv", "Error in row 3: output: expected 2 cells, got 1"),
        ("input,output\na,\n", "x.csv", "Error in row 2: output is empty"),
        ("input,output,tags\na,b,c d\n", "x.csv", "Error in row 2: Tags cannot contain spaces"),
        ("question,reply\na,b\n", "x.csv", "Error in row 2: no known shape, fields of the first row: question, reply"),
        ("trace,tags\n[{,x\n", "x.csv", "Error in row 2: trace is not valid JSON"),
        (line(input="a", output="b") + "{\n", "x.jsonl", "Error in row 2: not complete JSON"),
        (line(input="a", output="b") * 2 + "5\n", "x.jsonl", "Error in row 3: expected an object"),
        (
            line(messages=[{"role": "user", "content": "a"}]),
            "x.jsonl",
            "Error in row 1: messages: the last turn is user",
        ),
        (line(messages=TOOL_TRACE[:3]), "x.jsonl", "Error in row 1: messages the last message must be"),
        (line(messages=[TOOL_TRACE[2], TOOL_TRACE[3]]), "x.jsonl", "Error in row 1: messages there is no user message"),
        (line(input="a", output="b", tags=5), "x.jsonl", "Error in row 1: tags must be a list"),
        ('{"input": "a\\ud800", "output": "b"}', "x.jsonl", "Error in row 1: input: holds a lone surrogate"),
        ('{"input": "a", "input": "c", "output": "b"}', "x.jsonl", "Error in row 1: input: the key stands twice"),
        (b"input,output\na\0,b\n", "x.csv", "byte 14 is NUL"),
        ('input,output\n"a,b\n', "x.csv", "a quote of the row that begins here is never closed"),
        (b"input,output\n\xff,b\n", "x.csv", "is not UTF-8"),
        ("input,output\n" + "x" * ((4 << 20) + 1) + ",b\n", "x.csv", "over 4 MB"),
        ("input,output\n", "x.csv", "the file has no rows"),
        ("", "x.csv", "the file is empty"),
        (b"\x1f\x8b", "x.jsonl", "this is a gzip file"),
        ("x", "x.parquet", "only CSV and JSON Lines can be imported"),
        ("x", "../../etc/passwd", "passwd: only CSV and JSON Lines"),
        (
            line(trace=[{"role": "user", "content": "[" * 9}] * 10_001),
            "x.jsonl",
            "Error in row 1: trace has at most 10000",
        ),
    ],
)
def test_one_bad_row_refuses_the_file_and_leaves_nothing(desk: Desk, data: str | bytes, name: str, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        brought(desk, data, name)
    assert said in refusal.value.en and refusal.value.zh != refusal.value.en
    assert ("row" in refusal.value.details) == said.startswith("Error in row")
    assert desk.service.runs(*desk.at, AMY) == []


def test_a_bad_row_is_named_in_both_languages_with_its_field_and_line(desk: Desk) -> None:
    with pytest.raises(Invalid) as refusal:
        brought(desk, 'input,output\n"two\nlines",b\na,b,c\n', "x.csv")
    assert refusal.value.details == {"row": 3, "line": 4, "field": ""}
    with pytest.raises(Invalid) as refusal:
        brought(desk, line(input="a", output="b") + line(input=" ", output="b"))
    assert refusal.value.zh == "第 2 行有误：input 是空的；请填写内容"
    assert refusal.value.details == {"row": 2, "line": 2, "field": "input"}


def test_rows_wear_tags_by_their_proportions_to_the_row(desk: Desk) -> None:
    data = "".join(line(input=f"q{number}", output="a", tags=["own"]) for number in range(11))
    runs = brought(desk, data, splits={"train": 0.8, "test": 0.2})
    tags = [run.tags[1] for run in runs]
    assert (tags.count("train"), tags.count("test")) == (9, 2) and {run.tags[0] for run in runs} == {"own"}


@pytest.mark.parametrize(
    "shares", [{"a": 0.5}, {"a": 0.5, "b": 0.502}, {"a": 2, "b": -1}, {"a b": 1}, {"a": "1"}, {"a": float("nan")}]
)
def test_proportions_that_are_none_are_refused(desk: Desk, shares: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refusal:
        brought(desk, line(input="q", output="a"), splits=shares)
    assert str(refusal.value.details["field"]).startswith("splits")
    assert desk.service.runs(*desk.at, AMY) == []


def test_proportions_may_miss_one_by_a_thousandth(desk: Desk) -> None:
    assert len(brought(desk, line(input="q", output="a") * 3, splits={"a": 0.333, "b": 0.333, "c": 0.333})) == 3


def test_a_file_with_too_many_rows_or_bytes_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MOST_ROWS", 2)
    assert len(brought(desk, line(input="q", output="a") * 2)) == 2
    with pytest.raises(Invalid, match="over 2 rows"):
        brought(desk, line(input="q", output="a") * 3)
    monkeypatch.setattr(importing, "LARGEST_FILE", 5)
    with pytest.raises(Invalid, match="the file is over"):
        brought(desk, line(input="q", output="a"))
    assert len(desk.passing("all")) == 2


def test_more_rows_than_one_statement_takes_keep_their_order(desk: Desk) -> None:
    runs = brought(desk, "".join(line(input=f"q{number}", output="a") for number in range(700)))
    assert [run.input for run in runs] == [f"q{number}" for number in range(700)]
    assert len({run.id for run in runs}) == 700


def test_the_name_of_a_file_forges_no_line(desk: Desk) -> None:
    found = desk.service.import_file(
        *desk.at, io.BytesIO(b'{"prompt": "q", "completion": "a"}'), f"{'x' * 99}\n.jsonl", AMY
    )
    assert found.filename == f"'{'x' * 99}\\n.jsonl'"
