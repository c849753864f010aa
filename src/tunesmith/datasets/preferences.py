"""Rows that say which of two answers is better, and the way from a row to two conversations.

    prompt      {"prompt", "chosen", "rejected", "system"?}; prompt a string or a list of messages
    messages    {"messages" or "conversations", "chosen", "rejected"}
    alpaca      {"instruction", "input"?, "chosen", "rejected", "system"?}
    whole       {"chosen", "rejected"}, each the whole conversation

An answer is a string, a message, or a list of messages, whose roles may have either spelling.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tunesmith.datasets.dataset import kept_files
from tunesmith.datasets.example import Example, Source
from tunesmith.datasets.fields import BadField, needed, text_of, wrong
from tunesmith.datasets.formats import BadRow, detect, to_example
from tunesmith.datasets.reading import FIRST_ROWS, OnBad, accepted, open_path, rows_of
from tunesmith.datasets.rows import refused
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid

_FIELDS = ("chosen", "rejected")


class Preference(msgspec.Struct, frozen=True, gc=False):
    """Two conversations that differ in how they end; ``chosen`` ends better."""

    chosen: Example
    rejected: Example

    @property
    def source(self) -> Source:
        return self.chosen.source


def read_preferences(
    home: Home, name: str, *, format: str | None = None, on_bad: OnBad | None = None
) -> Iterator[Preference]:
    """The preferences in a file under home (``data/pairs.jsonl``).

    Args:
        format: as for ``read_examples``.
        on_bad: is handed every bad row, which is then left out. None refuses the file, with the first twenty.

    Raises, all while iterating:
        NotFound, Forbidden: the file is not there, or may not be read.
        Invalid: the name, the file as a whole, or the rows listed in the message are bad.
    """
    with home.open(name, "dataset") as file:
        yield from _read(file, name, format, on_bad)


def read_preference_file(path: Path, *, format: str | None = None, on_bad: OnBad | None = None) -> Iterator[Preference]:
    """The preferences in any file of this machine, for its owner; otherwise as ``read_preferences``."""
    with open_path(path) as file:
        yield from _read(file, path.name, format, on_bad)


def holds_preferences(home: Home, name: str, *, format: str | None = None) -> bool:
    """Whether a file under home says which of two answers is better, as far as its first rows tell.

    A file whose beginning cannot be read does not: whoever reads it as examples says what is wrong with it.

    Raises:
        NotFound, Forbidden: the file is not there, or may not be read.
        Invalid: the name is bad.
    """
    if kept_files(home, name) is not None:
        return False
    with home.open(name, "dataset") as file:
        return _holds(file, name, format)


def file_holds_preferences(path: Path, *, format: str | None = None) -> bool:
    """Whether any file of this machine does, as ``holds_preferences``."""
    with open_path(path) as file:
        return _holds(file, path.name, format)


def _read(file: BinaryIO, label: str, format: str | None, on_bad: OnBad | None) -> Iterator[Preference]:
    _, rows = rows_of(file, label, format)
    first = next(rows, None)
    if first is None:
        raise refused(label, None, "文件里没有数据行；请加入样本", "the file has no rows; add some")
    found = (
        row if isinstance(row, BadRow) else to_preference(row[1], Source(label, row[0]))
        for row in chain((first,), rows)
    )
    yield from accepted(found, label, on_bad)


def _holds(file: BinaryIO, label: str, format: str | None) -> bool:
    try:
        rows = [row[1] for row in islice(rows_of(file, label, format)[1], FIRST_ROWS) if isinstance(row, tuple)]
    except Invalid:
        return False
    try:
        detect(rows, label)
    except Invalid:  # no examples, so far
        return any(isinstance(row, dict) and all(field in row for field in _FIELDS) for row in rows)
    return False


def to_preference(row: object, source: Source) -> Preference | BadRow:
    """The preference in ``row``, or why it is none."""
    try:
        if not isinstance(row, dict):
            raise wrong("", "object", row)
        asked = _asked(row)
        ends = []
        for field in _FIELDS:
            answer = _answer(needed(row, field), field)
            if answer[: len(asked)] == asked and len(answer) > len(asked):
                answer = answer[len(asked) :]  # the whole conversation once more, as UltraFeedback has it
            found = to_example({"messages": [*asked, *answer]}, "openai", source)
            if isinstance(found, BadRow):
                return BadRow(source, _told(found.field, len(asked), field), found.zh, found.en, row)
            ends.append(found)
        chosen, rejected = ends
        if chosen.messages == rejected.messages:
            raise BadField("rejected", "与 chosen 相同；请删去这一行", "is the same as chosen; remove the row")
        if chosen.prompt != rejected.prompt:
            zh, en = (
                "两个回答之前的对话不同；请改正或删去这一行",
                "answers another conversation than chosen; remove the row",
            )
            raise BadField("rejected", zh, en)
    except BadField as bad:
        return BadRow(source, bad.field, bad.zh, bad.en, row)
    return Preference(chosen, rejected)


def _asked(row: Mapping[str, Any]) -> list[dict[str, object]]:
    """The turns that both answers follow."""
    system: list[dict[str, object]] = []
    if row.get("system"):
        system.append({"role": "system", "content": text_of(row["system"], "system")})
    for field in ("messages", "conversations", "prompt"):
        if isinstance(row.get(field), list):
            return [*system, *(_message(turn, f"{field}[{at}]") for at, turn in enumerate(row[field]))]
    if "instruction" in row:
        text = text_of(row["instruction"], "instruction")
        if row.get("input"):
            text = f"{text}\n{text_of(row['input'], 'input')}"
        return [*system, {"role": "user", "content": text}]
    if "prompt" in row:
        return [*system, {"role": "user", "content": text_of(row["prompt"], "prompt")}]
    if isinstance(row.get("chosen"), list):
        return system
    needed(row, "prompt")
    return system


def _answer(value: object, field: str) -> list[dict[str, object]]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": text_of(value, field)}]
    if isinstance(value, list):
        return [_message(turn, f"{field}[{at}]") for at, turn in enumerate(value)]
    if isinstance(value, dict):
        return [_message(value, field)]
    raise wrong(field, "string", value)


def _message(turn: object, field: str) -> dict[str, object]:
    if not isinstance(turn, dict):
        raise wrong(field, "object", turn)
    if "from" in turn and "value" in turn:
        spoken = {"human": "user", "gpt": "assistant"}.get(str(turn["from"]), str(turn["from"]))
        return {"role": spoken, "content": turn["value"]}
    return dict(turn)


def _told(field: str, asked: int, answer: str) -> str:
    """``field`` of the joined conversation, as the row has it."""
    head, bracket, rest = field.partition("[")
    number, _, tail = rest.partition("]")
    if head != "messages" or not bracket or not number.isdigit() or int(number) < asked:
        return field if bracket else answer
    return f"{answer}[{int(number) - asked}]{tail}"
