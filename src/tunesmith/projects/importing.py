"""Runs out of an uploaded file, row by row: CSV with Kiln's columns, JSON Lines with those as fields, and whatever other
shape of a question with its answer ``datasets.formats`` knows.

    input, output, reasoning?, chain_of_thought?, tags?    tags with commas between, or a list
    trace, tags?                                           JSON of OpenAI messages; the last turn is the example
    messages, tools?                                       the same as a list

Every row is read and checked before the first is kept.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

import msgspec

from tunesmith.datasets.example import Message, Source
from tunesmith.datasets.formats import BadRow, detect, to_example
from tunesmith.datasets.reading import rows_of
from tunesmith.datasets.rows import Reading
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import check_number, new_id, shown
from tunesmith.projects.project import Task, TaskRun
from tunesmith.projects.run_fields import check_run, check_tags
from tunesmith.projects.traces import calls_tools, check_tools, check_trace, last_turns

LARGEST_FILE = 256 << 20  # bytes
MOST_ROWS = 100_000
MOST_SHARES = 20
_OPTIONAL = ("reasoning", "chain_of_thought", "tags")
_KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_SHARES_EPSILON = 0.001


@dataclass(frozen=True, slots=True)
class Checked:
    """The good rows of a file, on disk.

    Attributes:
        count: how many runs ``runs`` gives.
        conversations: how many of them hold several turns.
    """

    count: int
    conversations: int
    _spool: IO[bytes]

    def runs(self, task: Task, now: datetime, tags: Callable[[], str | None]) -> Iterator[TaskRun]:
        """The runs, in the order of the file, a microsecond apart so that lists keep it.

        Args:
            tags: is asked for one more tag for each.
        """
        self._spool.seek(0)
        for index, line in enumerate(self._spool):
            fields = _decoded(line)
            if (tag := tags()) is not None:
                fields["tags"] = tuple(dict.fromkeys((*fields.get("tags", ()), tag)))
            moment = now + timedelta(microseconds=index)
            yield TaskRun(id=new_id(), task_id=task.id, created_at=moment, **fields)


@contextmanager
def checked_rows(file: BinaryIO, filename: str, task: Task) -> Iterator[Checked]:
    """All rows of ``file``, read and found good.

    Args:
        file: seekable, at its beginning; stays the caller's to close.
        filename: the client's; tells the kind of the file, and what messages call it.

    Raises:
        Invalid: a file of another kind, too large, or without rows; or "Error in row N: …" for the first bad row, which
            counts as Kiln does: the first of a table is row 2, as its header is row 1.
    """
    name = PurePosixPath(filename.replace("\\", "/"))
    label, kind = shown(name.name) or "file", _KINDS.get(name.suffix.lower())
    if kind is None:
        raise Invalid(
            f"{label}：只能导入 CSV 和 JSON Lines（{', '.join(_KINDS)}）",
            f"{label}: only CSV and JSON Lines can be imported ({', '.join(_KINDS)})",
            field="file",
        )
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > LARGEST_FILE:
        most = f"{LARGEST_FILE >> 20} MB"
        zh, en = f"{label}：文件超过 {most}；请分成几个", f"{label}: the file is over {most}; divide it into several"
        raise Invalid(zh, en, field="file")
    with tempfile.TemporaryFile() as spool:
        count = conversations = 0
        for row, reading in enumerate(rows_of(file, label, kind)[1], 2 if kind == "csv" else 1):
            if count == MOST_ROWS:
                zh, en = f"{label}：超过 {MOST_ROWS} 行", f"{label}: over {MOST_ROWS} rows"
                raise Invalid(f"{zh}；请分成几个文件", f"{en}; divide it into several files", field="file")
            fields = _checked(reading, row, label, task)
            spool.write(msgspec.json.encode(fields) + b"\n")
            count += 1
            conversations += sum(message["role"] == "user" for message in fields.get("trace", ())) > 1
        if not count:
            raise Invalid(f"{label}：没有数据行", f"{label}: the file has no rows; add some", field="file")
        yield Checked(count, conversations, spool)


def check_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    """Proportions by tag; empty where none are asked for.

    Raises:
        Invalid: they do not add up to 1, or a tag or a number is none.
    """
    if not shares:
        return {}
    if not isinstance(shares, Mapping) or len(shares) > MOST_SHARES:
        zh, en = (
            f"splits 应为至多 {MOST_SHARES} 个标签的对象",
            f"splits must be an object of at most {MOST_SHARES} tags",
        )
        raise Invalid(zh, en, field="splits")
    found = {}
    for tag, share in shares.items():
        check_tags([tag], "splits")
        number = check_number(share, f"splits.{tag}")
        if not 0 <= number <= 1:
            zh, en = f"splits.{tag} 应在 0 与 1 之间", f"splits.{tag} must be between 0 and 1"
            raise Invalid(zh, en, field="splits")
        found[tag] = number
    if abs(sum(found.values()) - 1) > _SHARES_EPSILON:
        listed = ", ".join(f"{tag}: {share:g}" for tag, share in found.items())
        raise Invalid(
            f"splits 的比例之和应为 1：{listed}",
            f"Splits must sum to 1. The following splits do not: {listed}",
            field="splits",
        )
    return found


def dealt_tags(shares: Mapping[str, float], count: int) -> Callable[[], str | None]:
    """Gives each of ``count`` rows its tag, by chance, so that the proportions are met to the row."""
    if not shares:
        return lambda: None
    tags: list[str] = []
    for tag, share in shares.items():
        tags += [tag] * int(share * count)
    largest = max(shares, key=lambda tag: shares[tag])
    tags = (tags + [largest] * (count - len(tags)))[:count]
    secrets.SystemRandom().shuffle(tags)
    return iter(tags).__next__


def _checked(reading: Reading, row: int, label: str, task: Task) -> dict[str, Any]:
    if isinstance(reading, BadRow):
        raise _error(row, reading.source.line, reading.field, reading.zh, reading.en)
    line, value = reading
    try:
        fields = _fields(value, Source(label, line))
        if isinstance(fields, BadRow):
            raise _error(row, line, fields.field, fields.zh, fields.en)
        return check_run(fields, task)
    except Invalid as problem:
        if "row" in problem.details:
            raise
        # the one reader that is asked row by row believes that each is the first
        zh, en = (text.removeprefix(f"{label}:1: ") for text in (problem.zh, problem.en))
        raise _error(row, line, "", zh, en, named=str(problem.details.get("field", ""))) from None


def _error(row: int, line: int, field: str, zh: str, en: str, *, named: str = "") -> Invalid:
    """The refusal of a row; ``named`` is a field that the messages name already."""
    zh, en = (f"{field}：{zh}", f"{field}: {en}") if field else (zh, en)
    return Invalid(f"第 {row} 行有误：{zh}", f"Error in row {row}: {en}", row=row, line=line, field=field or named)


def _fields(row: object, source: Source) -> dict[str, Any] | BadRow:
    """What the row says of a run, not checked yet."""
    if not isinstance(row, dict):
        return BadRow(source, "", "应为对象；请写成 {...}", "expected an object; write it as {...}")
    more = {name: row[name] for name in _OPTIONAL if row.get(name) not in (None, "")}
    if row.get("trace") not in (None, ""):
        return _of_trace(row, "trace") | more
    messages = row.get("messages")
    turns = [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []
    if turns and (row.get("tools") or any(calls_tools(turn) for turn in turns)):
        return _of_trace(row, "messages") | more
    if not messages and "instruction" not in row and not row.get("system"):
        asked, answered = row.get("input"), row.get("output")
        if isinstance(asked, str | dict) and isinstance(answered, str | dict):
            return {"input": _as_text(asked), "output": _as_text(answered)} | more
    example = to_example(row, detect([row], source.file), source)
    return example if isinstance(example, BadRow) else _of_messages(example.messages) | more


def _of_trace(row: Mapping[str, Any], field: str) -> dict[str, Any]:
    trace = check_trace(row[field], field)
    asked, answered = last_turns(trace, field)
    thought = trace[-1].get("reasoning_content")
    found: dict[str, Any] = {"input": asked, "output": answered, "trace": trace}
    if thought:
        found["reasoning"] = thought
    if row.get("tools"):
        found["tools"] = check_tools(row["tools"])
    return found


def _of_messages(messages: tuple[Message, ...]) -> dict[str, Any]:
    asked = [message.content for message in messages if message.role == "user"][-1]
    found: dict[str, Any] = {"input": asked, "output": messages[-1].content}
    if len(messages) > 2:
        found["trace"] = [message.as_dict() for message in messages]
    return found


def _as_text(value: str | dict[str, Any]) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _decoded(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(line)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
