"""Counting the rows of a raw file, every one of them read."""

from itertools import islice
from pathlib import Path

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.json_rows import first_byte
from tunesmith.datasets.reading import LISTED, open_path, rows_of
from tunesmith.datasets.rows import Reading, refused
from tunesmith.datasets.table_rows import MOST_COLUMNS
from tunesmith.datasets.worker.crew import perform
from tunesmith.datasets.worker.spans import Pace, bad_of, cut, opened, require_good
from tunesmith.datasets.worker.tasks import Bad, Count, CountSpan, Read, Report


def count(task: Count, report: Report) -> Read:
    """How many rows the file has; they may have any shape, but each is an object.

    Raises:
        Invalid: the file is not of its format, broken or empty, or rows are bad; file, line and reason are named.
    """
    _require_format(task)
    spans = cut(task.path, task.label, task.format)
    found = perform(count_span, [CountSpan(span) for span in spans], report)
    require_good(spans, found)
    rows = sum(read.rows for read in found)
    if not rows:
        raise refused(task.label, None, "文件里没有数据行", "the file has no rows")
    return Read(rows)


def count_span(task: CountSpan, report: Report) -> Read:
    """The good rows of the span, and the first bad ones."""
    rows = 0
    bad: list[Bad] = []
    with opened(task.span) as (file, readings):
        pace = Pace("checking", task.span, file, report)
        for reading in readings:
            if type(reading) is tuple and type(reading[1]) is dict and len(reading[1]) <= MOST_COLUMNS:
                rows += 1
                pace.passed(rows)
            else:
                bad.append(_bad(reading, task.span.label))
                if len(bad) == LISTED:
                    break
        pace.ended(rows)
    return Read(rows, tuple(bad))


def _bad(reading: Reading, label: str) -> Bad:
    if isinstance(reading, BadRow):
        return bad_of(reading)
    line, value = reading
    if isinstance(value, dict):
        zh, en = (
            f"有 {len(value)} 个字段，最多 {MOST_COLUMNS} 个",
            f"{len(value)} fields, at most {MOST_COLUMNS} are read",
        )
    else:
        zh, en = "每行应为一个 JSON 对象", "each row should be a JSON object"
    return bad_of(BadRow(Source(label, line), "", zh, en))


def _require_format(task: Count) -> None:
    """JSON sent as CSV would be read as one odd column, CSV sent as JSON as nothing but bad rows: say what it is."""
    with open_path(Path(task.path)) as file:
        rows_of(file, task.label, task.format)  # leaves the file after any byte order mark
        _, line, first = first_byte(file)
        if task.format == "csv" and first in (b"{", b"["):
            zh, en = (
                "内容是 JSON，但按 CSV 上传；请用 format=json",
                "it holds JSON, but was sent as CSV; send format=json",
            )
            raise refused(task.label, line, zh, en)
        if task.format == "json" and first not in (b"{", b"[", b""):
            with open_path(Path(task.path)) as again:
                reading = next(islice(rows_of(again, task.label, task.format)[1], 1), None)
            # a broken encoding or a NUL says more than that it is no JSON
            if isinstance(reading, BadRow) and ("UTF-8" in reading.en or "NUL" in reading.en):
                raise refused(task.label, reading.source.line, reading.zh, reading.en)
            zh = "不是 JSON（应以 { 或 [ 开头）；若为 CSV，请用 format=csv"
            raise refused(task.label, line, zh, "not JSON, which begins with { or [; if it is CSV, send format=csv")
