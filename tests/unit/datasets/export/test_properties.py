"""Whatever a text holds, a line is read back to the same conversation, by a reader that knows nothing of the writer."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.datasets.example import Message
from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.sample import Format, Sample, Strategy, Wanted

ODD = [
    "\u2028",
    "\u2029",
    "\x85",
    "\xa0",
    "\u200b",
    "\ufeff",
    "😀",
    "e\u0301",
    '"',
    "\\",
    "'",
    "\r",
    "\n",
    "\0",
    "\x7f",
    "</",
]
TEXTS = st.lists(st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6).map(
    "".join
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(
    lambda pairs: tuple(
        Message.of(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
    )
)


@st.composite
def traces(draw: st.DrawFn) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 2))):
        calls = [
            {"id": f"{number}-{at}", "type": "function", "function": {"name": f"f{at}", "arguments": json.dumps(args)}}
            for at, args in enumerate(draw(st.lists(OBJECTS, min_size=1, max_size=2)))
        ]
        found.append({"role": "assistant", "content": draw(st.none() | TEXTS), "tool_calls": calls})
        found += [{"role": "tool", "tool_call_id": call["id"], "content": draw(TEXTS)} for call in calls]
    return tuple(found)


SAMPLES = st.builds(
    Sample,
    id=TEXTS,
    input=TEXTS,
    output=OBJECTS.map(lambda found: json.dumps(found, ensure_ascii=bool(len(found) % 2), indent=1)),
    thinking=TEXTS.map(lambda text: f"{text}."),
    earlier=TURNS,
    trace=traces(),
)
Said = tuple[str, Any]  # who, and what: text, a list of (name, arguments), or the object that is the answer


def meant(sample: Sample, wanted: Wanted) -> list[Said]:
    """The conversation that the format should hold."""
    said: list[Said] = [("system", wanted.system), *((turn.role, turn.content) for turn in sample.earlier)]
    asked = sample.input
    if wanted.strategy is Strategy.TWO_MESSAGE:
        asked = f"The input is:\n<user_input>\n{asked}\n</user_input>\n\n{wanted.thinking_instructions}"
    said.append(("user", asked))
    if wanted.strategy is Strategy.TWO_MESSAGE_LEGACY and wanted.format is not Format.VERTEX_GEMINI:
        said.append(("system", wanted.thinking_instructions))
    for turn in sample.trace:
        if turn["role"] == "tool":
            said.append(("tool", turn["content"]))
        else:
            text = "" if wanted.format is Format.VERTEX_GEMINI else turn["content"] or ""
            calls = [
                (each["function"]["name"], json.loads(each["function"]["arguments"])) for each in turn["tool_calls"]
            ]
            said.append(("assistant", (text, calls)))
    if wanted.strategy.instructs:
        said += [("assistant", sample.thinking), ("user", "Considering the above, return a final result.")]
    answer: Any = sample.output
    if wanted.strategy is Strategy.R1:
        answer = f"<think>\n{sample.thinking}\n</think>\n\n{answer}"
    if wanted.format.value.endswith(("json_schema_jsonl", "toolcall_jsonl")):
        answer = json.loads(answer)
    return [*said, ("assistant", answer)]


def said_in(line: bytes, format: Format) -> list[Said]:
    """The conversation a line holds."""
    row = json.loads(line)
    if format is Format.VERTEX_GEMINI:
        found = [("system", row["systemInstruction"]["parts"][0]["text"])]
        for entry in row["contents"]:
            found += _gemini(entry)
        return found
    turns = row.get("messages") or row["conversations"]
    found = [_chat(turn) for turn in turns[:-1]]
    return [*found, ("assistant", _answer(turns[-1], format))]


def _chat(turn: dict[str, Any]) -> Said:
    if "tool_calls" not in turn:
        return turn["role"], turn["content"]
    calls = [(each["function"]["name"], json.loads(each["function"]["arguments"])) for each in turn["tool_calls"]]
    return turn["role"], (turn["content"], calls)


def _answer(turn: dict[str, Any], format: Format) -> Any:
    if format is Format.OPENAI_CHAT_JSON_SCHEMA:
        assert "\n" not in turn["content"]
        return json.loads(turn["content"])
    if format is Format.OPENAI_CHAT_TOOLCALL:
        return json.loads(turn["tool_calls"][0]["function"]["arguments"])
    if format is Format.HUGGINGFACE_TOOLCALL:
        return turn["tool_calls"][0]["function"]["arguments"]
    return turn["content"]


def _gemini(entry: dict[str, Any]) -> list[Said]:
    parts = entry["parts"]
    if "role" not in entry:
        return [("tool", part["functionResponse"]["response"]["content"]) for part in parts]
    if "functionCall" in parts[0]:
        calls = [(part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts]
        return [("assistant", ("", calls))]
    return [({"user": "user", "model": "assistant"}[entry["role"]], parts[0]["text"])]


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("format", Format)
@settings(max_examples=8)
@given(samples=st.lists(SAMPLES, max_size=2), system=TEXTS, instructions=TEXTS)
def test_what_is_written_is_what_is_read(
    format: Format, strategy: Strategy, samples: list[Sample], system: str, instructions: str
) -> None:
    if strategy is Strategy.R1 and format.value.endswith(("json_schema_jsonl", "toolcall_jsonl")):
        return
    told = f"{instructions}!" if strategy.instructs else None
    wanted = Wanted(format=format, strategy=strategy, system=f"{system}.", thinking_instructions=told)
    written = b"".join(lines(samples, wanted))
    assert written == b"".join(lines(samples, wanted))
    assert not samples or written.endswith(b"\n")
    assert [said_in(line, format) for line in written.split(b"\n")[:-1]] == [meant(each, wanted) for each in samples]
    for line in written.split(b"\n")[:-1]:
        assert line.decode() == json.dumps(json.loads(line), ensure_ascii=False)
