"""What a child is asked and what it answers: one JSON line in, JSON lines out.

The child ends when its standard input does: whoever asked is gone then.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tunesmith.kernel import problems
from tunesmith.kernel.problems import Problem


class Span(msgspec.Struct, frozen=True):
    """A whole file, or the rows of JSON Lines that begin in a range of its bytes.

    Attributes:
        label: what messages call the file.
        line: the line ``start`` lies on; of a range that is no beginning nobody has counted: 1.
        end: None for a whole file, which is then read by its format.
    """

    path: str
    label: str
    format: str
    start: int = 0
    line: int = 1
    end: int | None = None


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Check every row of a raw file, and count them. Answered by Read."""

    path: str
    label: str
    format: str


class CountSpan(msgspec.Struct, frozen=True, tag="count-span"):
    """The part of Count that may run beside others. Answered by Read."""

    span: Span


class Given(msgspec.Struct, frozen=True):
    """A file to be processed; the shape is told from its first rows when it is None."""

    path: str
    label: str
    format: str
    shape: str | None = None


class Process(msgspec.Struct, frozen=True, tag="process"):
    """Rewrite files as one dataset, split. Answered by Processed.

    Attributes:
        folder: empty, the caller's to delete; holds nothing but the splits at the end.
    """

    files: tuple[Given, ...]
    folder: str
    ratios: dict[str, float]
    seed: int
    template: str | None = None


class Convert(msgspec.Struct, frozen=True, tag="convert"):
    """Write the conversations of a span to ``lines``, and their marks to ``marks``. Answered by Read."""

    span: Span
    shape: str
    seed: int
    template: str | None
    lines: str
    marks: str


class Tabulate(msgspec.Struct, frozen=True, tag="tabulate"):
    """Write ``name.parquet`` beside every ``name.jsonl`` of a folder. Answered by Read."""

    folder: str
    names: tuple[str, ...]


Task = Count | CountSpan | Process | Convert | Tabulate


class Bad(msgspec.Struct, frozen=True):
    """A bad row; the line counts from the beginning of the span."""

    line: int
    field: str
    zh: str
    en: str


class Read(msgspec.Struct, frozen=True):
    """How many rows were good, and the first bad ones."""

    rows: int
    bad: tuple[Bad, ...] = ()


class Processed(msgspec.Struct, frozen=True):
    """What was written.

    Attributes:
        splits: split name to its number of rows.
        duplicates: rows that say exactly what an earlier row says; they are kept.
        leaks: rows whose prompt also stands in an earlier split, as dealt, whose rows were read back from the written files.
        sha256: of the splits one after another.
    """

    shape: str
    splits: dict[str, int]
    duplicates: int
    leaks: int
    sha256: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the phase ``checking``, ``converting``, ``splitting`` or ``writing`` is.

    Attributes:
        bytes, total: of the files read in this phase.
    """

    phase: str
    bytes: int
    total: int
    rows: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The answer; nothing comes after it."""

    result: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A Problem; nothing comes after it."""

    kind: str
    zh: str
    en: str
    details: dict[str, Any]


Report = Callable[[Progress], None]
Said = Progress | Done | Failed
encode = msgspec.json.Encoder().encode
task_of = msgspec.json.Decoder(Task).decode
said_of = msgspec.json.Decoder(Said).decode


def failed(problem: Problem) -> Failed:
    """The wire form of a Problem."""
    return Failed(type(problem).__name__, problem.zh, problem.en, problem.details)


def problem_of(failed: Failed) -> Problem:
    """The Problem a child failed with."""
    kinds = {kind.__name__: kind for kind in Problem.__subclasses__() if kind.__module__ == problems.__name__}
    return kinds.get(failed.kind, Problem)(failed.zh, failed.en, **failed.details)
