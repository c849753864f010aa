"""Every format and strategy byte for byte, and what is refused."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tunesmith.datasets.example import Message
from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.sample import Format, Sample, Strategy, Wanted
from tunesmith.kernel.problems import Invalid

SAMPLE = Sample(id="123456789012", input="我的订单还没发货", output="抱歉，请提供订单号。", thinking="先道歉")
STORED = '{\n "urgent": true,\n "category": "\\u7269\\u6d41", "score": 1.0}'
CALLS = [
    {"id": "c1", "type": "function", "function": {"arguments": '{"city": "北京"}', "name": "weather"}},
    {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]
TRACE = (
    {"role": "user", "content": "我的订单还没发货"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "晴"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "12"}, {"type": "text", "text": "点"}]},
    {"role": "assistant", "content": "抱歉，请提供订单号。"},
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "type": {"type": ["string", "null"]}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "天气", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object"}}}

SYSTEM = '{"role": "system", "content": "你是客服。"}'
ASKED = '{"role": "user", "content": "我的订单还没发货"}'
THOUGHT = (
    '{"role": "assistant", "content": "先道歉"}, '
    '{"role": "user", "content": "Considering the above, return a final result."}'
)
WRAPPED = '"The input is:\\n<user_input>\\n我的订单还没发货\\n</user_input>\\n\\n想一想"'
BEFORE = {  # the messages before the last
    Strategy.FINAL_ONLY: f"{SYSTEM}, {ASKED}",
    Strategy.TWO_MESSAGE: f'{SYSTEM}, {{"role": "user", "content": {WRAPPED}}}, {THOUGHT}',
    Strategy.TWO_MESSAGE_LEGACY: f'{SYSTEM}, {ASKED}, {{"role": "system", "content": "想一想"}}, {THOUGHT}',
    Strategy.R1: f"{SYSTEM}, {ASKED}",
}
LAST = '{"role": "assistant", "content": "抱歉，请提供订单号。"}'
LAST_R1 = '{"role": "assistant", "content": "<think>\\n先道歉\\n</think>\\n\\n抱歉，请提供订单号。"}'
GEMINI_SYSTEM = '{"systemInstruction": {"role": "system", "parts": [{"text": "你是客服。"}]}, "contents": ['
GEMINI_ASKED = '{"role": "user", "parts": [{"text": "我的订单还没发货"}]}'
GEMINI_THOUGHT = (
    '{"role": "model", "parts": [{"text": "先道歉"}]}, '
    '{"role": "user", "parts": [{"text": "Considering the above, return a final result."}]}'
)
GEMINI_LAST = '{"role": "model", "parts": [{"text": "抱歉，请提供订单号。"}]}]}\n'
GEMINI = {
    Strategy.FINAL_ONLY: f"{GEMINI_SYSTEM}{GEMINI_ASKED}, {GEMINI_LAST}",
    Strategy.TWO_MESSAGE: (
        f'{GEMINI_SYSTEM}{{"role": "user", "parts": [{{"text": {WRAPPED}}}]}}, {GEMINI_THOUGHT}, {GEMINI_LAST}'
    ),
    # the instructions are lost
    Strategy.TWO_MESSAGE_LEGACY: f"{GEMINI_SYSTEM}{GEMINI_ASKED}, {GEMINI_THOUGHT}, {GEMINI_LAST}",
    Strategy.R1: (
        f"{GEMINI_SYSTEM}{GEMINI_ASKED}, "
        '{"role": "model", "parts": [{"text": "<think>\\n先道歉\\n</think>\\n\\n抱歉，请提供订单号。"}]}]}\n'
    ),
}
JSON_LAST = {
    Format.OPENAI_CHAT_JSON_SCHEMA: (
        '{"role": "assistant", "content": "{\\"urgent\\": true, \\"category\\": \\"物流\\", \\"score\\": 1.0}"}'
    ),
    Format.OPENAI_CHAT_TOOLCALL: (
        '{"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": '
        '"task_response", "arguments": "{\\"urgent\\": true, \\"category\\": \\"物流\\", \\"score\\": 1.0}"}}]}'
    ),
    Format.HUGGINGFACE_TOOLCALL: (
        '{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "task_response", "id": '
        '"2a33349e7", "arguments": {"urgent": true, "category": "物流", "score": 1.0}}}]}'
    ),
}
KEY = {Format.HUGGINGFACE: "conversations", Format.HUGGINGFACE_TOOLCALL: "conversations"}


def wanted(format: Format, strategy: Strategy = Strategy.FINAL_ONLY) -> Wanted:
    instructions = "想一想" if strategy.instructs else None
    return Wanted(format=format, strategy=strategy, system="你是客服。", thinking_instructions=instructions)


def written(sample: Sample, format: Format, strategy: Strategy = Strategy.FINAL_ONLY) -> str:
    return b"".join(lines([sample], wanted(format, strategy))).decode()


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("format", [Format.OPENAI_CHAT, Format.HUGGINGFACE])
def test_the_worked_example_as_chat(format: Format, strategy: Strategy) -> None:
    last = LAST_R1 if strategy is Strategy.R1 else LAST
    expected = f'{{"{KEY.get(format, "messages")}": [{BEFORE[strategy]}, {last}]}}\n'
    assert written(SAMPLE, format, strategy) == expected


@pytest.mark.parametrize("strategy", Strategy)
def test_the_worked_example_for_gemini(strategy: Strategy) -> None:
    assert written(SAMPLE, Format.VERTEX_GEMINI, strategy) == GEMINI[strategy]


@pytest.mark.parametrize("strategy", [each for each in Strategy if each is not Strategy.R1])
@pytest.mark.parametrize("format", JSON_LAST)
def test_the_worked_example_as_json(format: Format, strategy: Strategy) -> None:
    expected = f'{{"{KEY.get(format, "messages")}": [{BEFORE[strategy]}, {JSON_LAST[format]}]}}\n'
    assert written(replace(SAMPLE, output=STORED), format, strategy) == expected


def test_json_stays_as_it_was_stored_in_the_plain_formats() -> None:
    sample = replace(SAMPLE, output=STORED)
    assert json.loads(written(sample, Format.OPENAI_CHAT))["messages"][-1]["content"] == STORED
    assert json.loads(written(sample, Format.VERTEX_GEMINI))["contents"][-1]["parts"] == [{"text": STORED}]


def test_an_input_that_is_a_conversation_is_not_wrapped() -> None:
    sample = replace(SAMPLE, input="<conversation_history>a</conversation_history>")
    asked = json.loads(written(sample, Format.OPENAI_CHAT, Strategy.TWO_MESSAGE))["messages"][1]
    assert asked == {"role": "user", "content": "<conversation_history>a</conversation_history>\n\n想一想"}


def test_no_samples_give_no_lines() -> None:
    assert list(lines([], wanted(Format.OPENAI_CHAT))) == []


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [("s", "own", "s"), (None, "own", "own"), ("", "own", "own"), (None, None, "You are a helpful assistant.")],
)
def test_the_system_message_asked_for_wins_over_the_samples_own(
    asked: str | None, own: str | None, expected: str
) -> None:
    line = next(lines([replace(SAMPLE, system=own)], Wanted(format=Format.OPENAI_CHAT, system=asked)))
    assert json.loads(line)["messages"][0] == {"role": "system", "content": expected}


def test_tool_calls_stand_between_question_and_answer() -> None:
    sample = replace(SAMPLE, trace=TRACE, tools=(TOOL,))
    called = (
        '{"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": '
        '{"arguments": "{\\"city\\": \\"北京\\"}", "name": "weather"}}, {"id": "c2", "type": "function", "function": '
        '{"name": "time", "arguments": "{}"}}]}, {"role": "tool", "content": "晴", "tool_call_id": "c1"}, '
        '{"role": "tool", "content": "12\\n点", "tool_call_id": "c2"}'
    )
    tools = (
        '[{"type": "function", "function": {"name": "weather", "description": "天气", "parameters": {"type": "object", '
        '"properties": {"city": {"type": "string"}, "type": {"type": ["string", "null"]}}}}}]'
    )
    plain = f"{SYSTEM}, {ASKED}, {called}, {LAST}"
    assert written(sample, Format.OPENAI_CHAT) == f'{{"messages": [{plain}], "tools": {tools}}}\n'
    assert written(sample, Format.HUGGINGFACE) == f'{{"conversations": [{plain}]}}\n'
    thinking = json.loads(written(sample, Format.OPENAI_CHAT, Strategy.TWO_MESSAGE))["messages"]
    roles = ["system", "user", "assistant", "tool", "tool", "assistant", "user", "assistant"]
    assert [turn["role"] for turn in thinking] == roles


def test_gemini_takes_tool_results_together_and_without_a_role() -> None:
    line = written(replace(SAMPLE, trace=TRACE, tools=(TOOL,)), Format.VERTEX_GEMINI)
    assert line == (
        f'{GEMINI_SYSTEM}{GEMINI_ASKED}, {{"role": "model", "parts": [{{"functionCall": {{"name": "weather", "args": '
        '{"city": "北京"}}}, {"functionCall": {"name": "time", "args": {}}}]}, {"parts": [{"functionResponse": {"name": '
        '"weather", "response": {"content": "晴"}}}, {"functionResponse": {"name": "time", "response": {"content": '
        '"12\\n点"}}}]}, {"role": "model", "parts": [{"text": "抱歉，请提供订单号。"}]}], "tools": [{"functionDeclarations": '
        '[{"name": "weather", "description": "天气", "parameters": {"type": "OBJECT", "properties": {"city": {"type": '
        '"STRING"}, "type": {"type": ["string", "null"]}}}}]}]}\n'
    )


def test_a_conversation_is_exported_whole() -> None:
    earlier = (Message("user", "u1"), Message("assistant", "a1"), Message("user", "u2"), Message("assistant", "a2"))
    sample = replace(SAMPLE, earlier=earlier)
    turns = json.loads(written(sample, Format.OPENAI_CHAT))["messages"]
    assert [turn["content"] for turn in turns[1:]] == ["u1", "a1", "u2", "a2", SAMPLE.input, SAMPLE.output]
    contents = json.loads(written(sample, Format.VERTEX_GEMINI))["contents"]
    assert [each["role"] for each in contents] == ["user", "model"] * 3


def test_the_tool_calls_of_earlier_turns_stand_where_they_were_made() -> None:
    earlier = (Message("user", "u1"), Message("assistant", "a1"))
    before = ({"role": "user", "content": "u1"}, *TRACE[1:4], {"role": "assistant", "content": "a1"})
    first = json.loads(written(replace(SAMPLE, earlier=earlier, trace=(*before, *TRACE)), Format.OPENAI_CHAT))
    called = ["user", "assistant", "tool", "tool", "assistant"]
    assert [turn["role"] for turn in first["messages"]] == ["system", *called, *called]
    # a trace of the last question alone
    last = json.loads(written(replace(SAMPLE, earlier=earlier, trace=TRACE), Format.OPENAI_CHAT))
    assert [turn["role"] for turn in last["messages"]] == ["system", "user", "assistant", *called]


def test_the_id_of_a_huggingface_call_follows_from_the_samples_id() -> None:
    def id_of(id: str) -> str:
        line = written(replace(SAMPLE, id=id, output="{}"), Format.HUGGINGFACE_TOOLCALL)
        return str(json.loads(line)["conversations"][-1]["tool_calls"][0]["function"]["id"])

    assert id_of("a") == id_of("a") != id_of("b")
    assert re.fullmatch("[0-9a-f]{9}", id_of("x.jsonl:1"))


def refusal(sample: Sample, format: Format, strategy: Strategy = Strategy.FINAL_ONLY) -> Invalid:
    """What is said of ``sample``, which follows a good one."""
    good = replace(SAMPLE, id="good", output="{}", tools=sample.tools)
    found = lines([good, sample], wanted(format, strategy))
    next(found)
    with pytest.raises(Invalid) as caught:
        next(found)
    assert caught.value.details == {"field": "samples", "sample": sample.id}
    assert sample.id in caught.value.zh
    assert sample.id in caught.value.en
    return caught.value


NO_JSON = "Last message is not JSON (structured), and this format expects structured data: "
NO_OBJECT = "Last message is not a JSON Dictionary (structured data), and this format expects structured_data."


@pytest.mark.parametrize("format", JSON_LAST)
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("好的", NO_JSON + "Expecting value: line 1 column 1 (char 0)."),
        ('{"a": 1} x', NO_JSON + "Extra data"),
        ('{"a": NaN}', NO_JSON + "JSON has no NaN."),
        ('{"a": -Infinity}', NO_JSON + "JSON has no -Infinity."),
        ('{"a": 1e999}', NO_JSON + "Out of range"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", NO_JSON),
        ('{"a": ' + "9" * 10_000 + "}", NO_JSON),
        ("4", NO_OBJECT),
        ("[{}]", NO_OBJECT),
        ("null", NO_OBJECT),
        ('{"a": "\\ud800"}', "It holds a lone surrogate"),
    ],
    ids=range(11),
)
def test_an_answer_that_is_no_json_object_is_refused(format: Format, output: str, words: str) -> None:
    assert refusal(replace(SAMPLE, output=output), format).en.startswith(words)


@pytest.mark.parametrize("strategy", [Strategy.TWO_MESSAGE, Strategy.TWO_MESSAGE_LEGACY])
def test_missing_thinking_is_refused_and_a_blank_one_is_taken(strategy: Strategy) -> None:
    words = "Thinking data is required when fine-tuning thinking models. "
    assert refusal(replace(SAMPLE, thinking=None), Format.OPENAI_CHAT, strategy).en.startswith(words)
    assert '{"role": "assistant", "content": ""}' in written(replace(SAMPLE, thinking=""), Format.OPENAI_CHAT, strategy)


@pytest.mark.parametrize("thinking", [None, "", " \n\t"])
def test_r1_wants_a_thought_that_says_something(thinking: str | None) -> None:
    problem = refusal(replace(SAMPLE, thinking=thinking), Format.OPENAI_CHAT, Strategy.R1)
    assert problem.en.startswith("Thinking data is required when fine-tuning thinking models (R1, QwQ, etc). ")


@pytest.mark.parametrize("format", Format)
def test_mixed_tools_are_refused_in_every_format(format: Format) -> None:
    first = replace(SAMPLE, output="{}", tools=(TOOL,))
    for tools in ((), (OTHER,), (TOOL, OTHER)):
        with pytest.raises(
            Invalid, match="Dataset contains mixed tool/skill selections and cannot be exported"
        ) as caught:
            list(lines([first, replace(first, id="2", tools=tools)], wanted(format)))
        assert caught.value.details["sample"] == "2"


def test_the_order_of_the_tools_does_not_matter() -> None:
    first, second = (replace(SAMPLE, tools=tools) for tools in ((TOOL, OTHER), (OTHER, TOOL)))
    one, two = lines([first, second], wanted(Format.OPENAI_CHAT))
    assert one == two


@pytest.mark.parametrize(
    "trace",
    [
        [{"role": "tool", "content": "x"}],
        [{"role": "tool", "content": "x", "tool_call_id": "c1"}],
        [TRACE[1], {"role": "tool", "content": "x", "tool_call_id": "c3"}],
        [TRACE[1], {"role": "tool", "content": None, "tool_call_id": "c1"}],
        [{"role": "assistant", "tool_calls": "x"}],
        [{"role": "assistant", "tool_calls": {"id": "c1"}}],
        [{"role": "assistant", "tool_calls": [{**CALLS[0], "id": None}]}],
        [{"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {}}}]}],
        [{"role": "assistant", "tool_calls": [{**CALLS[0], "weight": float("nan")}]}],
    ],
)
def test_a_broken_trace_is_refused(trace: list[dict[str, object]]) -> None:
    refusal(replace(SAMPLE, trace=tuple(trace)), Format.OPENAI_CHAT)


def test_gemini_refuses_what_it_does_not_know() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": "[1]"}}
    broken = replace(SAMPLE, trace=({"role": "assistant", "tool_calls": [call]},))
    assert refusal(broken, Format.VERTEX_GEMINI).en.startswith(
        "The tool call arguments of f must be a dictionary object."
    )
    function = {"name": "f", "parameters": {"properties": {"x": {"type": "null"}}}}
    with pytest.raises(Invalid, match="Unsupported type 'null' in schema"):
        written(replace(SAMPLE, tools=({"function": function},)), Format.VERTEX_GEMINI)


def test_half_a_character_is_refused_by_the_samples_id() -> None:
    for format in (Format.OPENAI_CHAT, Format.VERTEX_GEMINI):
        assert "surrogate" in refusal(replace(SAMPLE, input="\ud800"), format).en
    broken = replace(SAMPLE, trace=({**TRACE[1], "content": "\udfff"},))
    assert "surrogate" in refusal(broken, Format.OPENAI_CHAT).en
    tool = {"type": "function", "function": {"name": "\ud800"}}
    with pytest.raises(Invalid, match="surrogate"):
        written(replace(SAMPLE, tools=(tool,)), Format.OPENAI_CHAT)


def test_one_sample_is_taken_at_a_time() -> None:
    taken: list[Sample] = []

    def samples() -> Iterator[Sample]:
        for _ in range(3):
            taken.append(SAMPLE)
            yield SAMPLE

    found = lines(samples(), wanted(Format.OPENAI_CHAT))
    assert not taken
    for number in range(1, 4):
        next(found)
        assert len(taken) == number
