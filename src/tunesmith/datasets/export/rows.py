"""Samples out of files and kept datasets, streamed: memory stays flat however long the file is.

A row has any of the shapes that ``datasets.formats`` knows. On top of these a sample has what training does not read:

    thinking     a column ``reasoning``, ``chain_of_thought`` or ``thinking``, the first of them that says something
    tool calls   turns of ``messages`` with ``tool_calls``, and turns of the role ``tool``, as OpenAI writes them
    tools        a column ``tools`` beside ``messages``

``<think>...</think>`` inside an answer stays part of the answer. Kept datasets hold plain conversations alone.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, BinaryIO, cast

from tunesmith.datasets.example import Example, Source
from tunesmith.datasets.export.sample import Sample
from tunesmith.datasets.fields import BadField, no_turns, text_of, wrong
from tunesmith.datasets.formats import BadRow, detect, to_example
from tunesmith.datasets.reading import FIRST_ROWS, accepted, read_examples, rows_of
from tunesmith.datasets.rows import refused
from tunesmith.kernel.home import Home

_THINKING = ("reasoning", "chain_of_thought", "thinking")
_PLACE = re.compile(r"messages\[(\d+)\]")


def file_samples(file: BinaryIO, label: str, *, format: str | None = None) -> Iterator[Sample]:
    """The samples in ``file``, each with the id ``label:line``.

    Args:
        file: seekable, at its beginning; stays the caller's to close, after the samples.
        label: what messages call it; its suffix tells the format when ``format`` is None.
        format: one of ``reading.FORMATS``.

    Raises:
        Invalid: while iterating; the file as a whole is bad, or the rows listed in the message are. Nothing is yielded
            after the first bad row.
    """
    _, rows = rows_of(file, label, format)
    first = list(islice(rows, FIRST_ROWS))
    if not first:
        raise refused(label, None, "文件里没有数据行；请加入样本", "the file has no rows; add some")
    readable = [row[1] for row in first if isinstance(row, tuple)]
    shape = detect(readable, label) if readable else "openai"
    found = (
        row if isinstance(row, BadRow) else to_sample(row[1], shape, Source(label, row[0]))
        for row in chain(first, rows)
    )
    yield from accepted(found, label, None)


def kept_samples(home: Home, name: str) -> Iterator[Sample]:
    """The samples of a kept dataset (``town/test``), each with the id ``town/test:line``.

    Raises, all while iterating:
        NotFound: there is no such dataset or split.
        Invalid: a row cannot be written in any format.
    """
    found = (_of_example(example) for example in read_examples(home, name))
    yield from accepted(found, name, None)


def to_sample(row: object, shape: str, source: Source) -> Sample | BadRow:
    """The sample in ``row``, or why it is none.

    Args:
        row: decoded, as it was in the file.
        shape: one of ``formats.SHAPES``.
    """
    try:
        if shape == "openai" and isinstance(row, dict) and _has_tools(row):
            return _tool_sample(row, source)
        example = to_example(row, shape, source)
        if isinstance(example, BadRow):
            return example
        return _sample(example, thinking=_thinking(cast(dict[str, object], row)))
    except BadField as bad:
        return BadRow(source, bad.field, bad.zh, bad.en, row)


def _of_example(example: Example) -> Sample | BadRow:
    try:
        return _sample(example)
    except BadField as bad:
        return BadRow(example.source, bad.field, bad.zh, bad.en)


def _sample(example: Example, *, thinking: str | None = None, trace: Any = (), tools: Any = ()) -> Sample:
    messages = example.messages
    own, asked = messages[0].role == "system", len(example.messages) - 2
    # the last turn is the assistant's, and the turns before it alternate but for tool results
    if messages[asked].role != "user" or any(message.role == "tool" for message in messages[own:asked]):
        raise BadField(
            "",
            "对话里有工具结果，却没有 OpenAI 的 tool_calls；请按 OpenAI 的格式书写工具调用，或删去这一行",
            "there is a tool result but no tool_calls; write tool calls as OpenAI does, or remove the row",
        )
    return Sample(
        id=str(example.source),
        input=messages[asked].content,
        output=messages[-1].content,
        thinking=thinking,
        system=messages[0].content if own else None,
        earlier=messages[own:asked],
        trace=tuple(trace),
        tools=tuple(tools),
    )


def _thinking(row: Mapping[str, object]) -> str | None:
    """What was thought: a blank chain of thought is one too, as Kiln has it, a blank cell of another column is none."""
    blank = None
    for field in _THINKING:
        value = row.get(field)
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(field, "string", value)
        if value and not value.isspace():
            return text_of(value, field)
        if blank is None and (value or field == "chain_of_thought"):
            blank = value
    return blank


def _has_tools(row: Mapping[str, Any]) -> bool:
    turns = row.get("messages")
    return bool(row.get("tools")) or (isinstance(turns, list) and any(_is_tool_turn(turn) for turn in turns))


def _is_tool_turn(turn: object) -> bool:
    return isinstance(turn, dict) and (bool(turn.get("tool_calls")) or turn.get("role") == "tool")


def _tool_sample(row: dict[str, Any], source: Source) -> Sample | BadRow:
    turns, tools = row.get("messages"), row.get("tools") or []
    if not isinstance(tools, list):
        raise wrong("tools", "list", tools)
    for at, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise wrong(f"tools[{at}]", "object", tool)
    if not isinstance(turns, list):
        raise no_turns("messages", turns)
    plain = [at for at, turn in enumerate(turns) if not _is_tool_turn(turn)]
    if turns and (not plain or plain[-1] != len(turns) - 1):
        raise BadField(
            f"messages[{len(turns) - 1}]",
            "对话以工具调用结束，没有最后的回答；请补上回答或删去这一行",
            "the conversation ends with a tool call and has no final answer; add it, or remove the row",
        )
    example = to_example({**row, "tools": None, "messages": [turns[at] for at in plain]}, "openai", source)
    if isinstance(example, BadRow):
        field = _PLACE.sub(lambda found: f"messages[{plain[int(found[1])]}]", example.field)
        return BadRow(source, field, example.zh, example.en, row)
    said = dict(zip(plain, example.messages, strict=True))
    trace = [said[at].as_dict() if at in said else _tool_turn(turn, at) for at, turn in enumerate(turns)]
    return _sample(example, thinking=_thinking(row), trace=trace, tools=tools)


def _tool_turn(turn: dict[str, Any], at: int) -> dict[str, Any]:
    if turn.get("weight") not in (None, 1):
        raise BadField(
            f"messages[{at}].weight",
            "尚不支持按轮权重；请删去不训练的轮次",
            "weights of single turns are not supported; remove the turns not to be trained on",
        )
    keys = ("role", "content", "tool_call_id") if turn["role"] == "tool" else ("role", "content", "tool_calls")
    return {key: turn.get(key) for key in keys}
