"""Files cut into spans that processes read side by side, and the work on one span."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.json_rows import begin, line_rows
from tunesmith.datasets.reading import LISTED, open_path, refusal, rows_of
from tunesmith.datasets.rows import Reading
from tunesmith.datasets.worker.tasks import Bad, Progress, Read, Report, Span

CROWD = 2  # spans read at once
WORTH_A_PROCESS = 32 << 20  # bytes; less is read sooner than a process starts
_REPORT_EVERY_S = 0.25
_ROWS_A_LOOK = 2048


def cut(path: str, label: str, format: str) -> list[Span]:
    """``path`` as one span or, where it is long and of JSON Lines, as CROWD spans of about the same size.

    Raises:
        Invalid: what it begins with cannot be read as ``format``.
    """
    with open_path(Path(path)) as file:
        kind, _ = rows_of(file, label, format)
        whole = Span(path, label, kind)
        size = os.fstat(file.fileno()).st_size
        if kind not in ("json", "jsonl") or size < WORTH_A_PROCESS:
            return [whole]
        start, line, array = begin(file, label, lines=kind == "jsonl")
        if array:
            return [whole]
        borders = [start]
        for number in range(1, CROWD):
            file.seek(max(borders[-1], size * number // CROWD))
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            borders.append(file.tell())
        ends = [*borders[1:], size]
        return [
            Span(path, label, kind, begins, line if begins == start else 1, end)
            for begins, end in zip(borders, ends, strict=True)
            if begins < end
        ]


@contextmanager
def opened(span: Span) -> Iterator[tuple[BinaryIO, Iterator[Reading]]]:
    """The file, and the rows of the span."""
    with open_path(Path(span.path)) as file:
        if span.end is None:
            yield file, rows_of(file, span.label, span.format)[1]
        else:
            file.seek(span.start)
            yield file, line_rows(file, span.label, span.start, span.line, span.end)


class Pace:
    """Reports how far a span is, a few times a second."""

    def __init__(self, phase: str, span: Span, file: BinaryIO, report: Report) -> None:
        self._phase, self._file, self._report, self._start = phase, file, report, span.start
        self._total = (span.end or os.fstat(file.fileno()).st_size) - span.start
        self._due, self._countdown = time.monotonic() + _REPORT_EVERY_S, _ROWS_A_LOOK

    def passed(self, rows: int) -> None:
        """Another row is done, the ``rows``-th."""
        self._countdown -= 1
        if self._countdown:
            return
        self._countdown = _ROWS_A_LOOK
        if (now := time.monotonic()) >= self._due:
            self._due = now + _REPORT_EVERY_S
            self._report(Progress(self._phase, self._file.tell() - self._start, self._total, rows))

    def ended(self, rows: int) -> None:
        """The span is done."""
        self._report(Progress(self._phase, self._total, self._total, rows))


def bad_of(row: BadRow) -> Bad:
    """The bad row without what it held."""
    return Bad(row.source.line, row.field, row.zh, row.en)


def require_good(spans: list[Span], found: list[Read]) -> None:
    """Refuse the files when a row of theirs is bad.

    Raises:
        Invalid: the first bad rows are listed, with their lines in the whole file.
    """
    listed: list[BadRow] = []
    for span, read in zip(spans, found, strict=True):
        passed = _lines_before(span) if read.bad and span.line == 1 else 0
        listed += [
            BadRow(Source(span.label, passed + bad.line), bad.field, bad.zh, bad.en)
            for bad in read.bad[: LISTED - len(listed)]
        ]
    if listed:
        raise refusal(listed, listed[0].source.file)


def _lines_before(span: Span) -> int:
    """Lines of the file before the span; a span that is the beginning has counted them itself."""
    passed, left = 0, span.start
    with open_path(Path(span.path)) as file:
        while left and (block := file.read(min(left, 1 << 20))):
            passed += block.count(b"\n")
            left -= len(block)
    return passed
