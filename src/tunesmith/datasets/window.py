"""Some rows out of the middle of a file or a kept dataset, found without decoding what stands before them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from tunesmith.datasets.dataset import Dataset, kept_files
from tunesmith.datasets.example import Example, Source
from tunesmith.datasets.formats import BadRow, detect, to_example
from tunesmith.datasets.json_rows import begin, line_rows
from tunesmith.datasets.preferences import Preference, to_preference
from tunesmith.datasets.reading import FIRST_ROWS, rows_of
from tunesmith.datasets.rows import ROW_LIMIT, Reading
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid

MOST = 500  # rows of one window
PREFERENCE = "preference"  # the shape of rows with "chosen" and "rejected"
Row = Example | Preference | BadRow


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that stand together.

    Attributes:
        shape: of all the file's rows, as its first ones tell.
    """

    shape: str
    rows: tuple[Row, ...]


def window(home: Home, name: str, offset: int, limit: int) -> Window:
    """The rows from ``offset`` on, at most ``limit`` of them, of a file under home or a kept dataset (``town/test``).

    A row that cannot be read is among them, as a BadRow. Linear in what stands before, some 20 ms for 100,000 rows of
    JSON Lines.

    Raises:
        NotFound, Forbidden: the file is not there, or may not be read.
        Invalid: ``offset`` or ``limit`` will not do, or the file as a whole cannot be read.
    """
    if offset < 0 or not 0 <= limit <= MOST:
        raise Invalid(
            f"offset 应不小于 0，limit 应在 0 与 {MOST} 之间",
            f"offset must be at least 0 and limit between 0 and {MOST}",
            field="limit" if offset >= 0 else "offset",
        )
    found: list[Row] = []
    shape = ""
    for file_name in kept_files(home, name) or (name,):
        with home.open(file_name, "dataset") as file:
            kind, told = shape_of(file, file_name)
            shape = shape or told
            passed, rows = _from(file, file_name, kind, offset)
            offset -= passed
            found += (_row(each, told, file_name) for each in islice(rows, limit - len(found)))
        if len(found) >= limit:
            break
    return Window(shape, tuple(found))


def shape_of(file: BinaryIO, label: str) -> tuple[str, str]:
    """Format and shape of the file, as its first rows tell; it is left at its beginning.

    Raises:
        Invalid: what it begins with cannot be read.
    """
    kind, rows = rows_of(file, label)
    first = [row[1] for row in islice(rows, FIRST_ROWS) if isinstance(row, tuple)]
    file.seek(0)
    try:
        return kind, detect(first, label) if first else "openai"
    except Invalid:
        if any(isinstance(row, dict) and {"chosen", "rejected"} <= row.keys() for row in first):
            return kind, PREFERENCE
        raise


def rows_in(entry: Dataset, part: str) -> int | None:
    """How many rows the part of a kept dataset has; None where there is no such part."""
    return entry.examples if part in ("", "all") else entry.splits.get(part)


def _from(file: BinaryIO, label: str, kind: str, offset: int) -> tuple[int, Iterator[Reading]]:
    """How many rows were passed, and those behind them."""
    if kind in ("json", "jsonl"):
        rows_of(file, label)  # behind a byte order mark
        start, line, array = begin(file, label, lines=kind == "jsonl")
        if not array:
            return _lines_from(file, label, start, line, offset)
    file.seek(0)
    _, rows = rows_of(file, label)
    return sum(1 for _ in islice(rows, offset)), rows


def _lines_from(file: BinaryIO, label: str, at: int, line: int, offset: int) -> tuple[int, Iterator[Reading]]:
    file.seek(at)
    passed, whole = 0, True
    while passed < offset and (text := file.readline(ROW_LIMIT)):
        at += len(text)
        # a longer row comes in pieces, and only its end counts
        ends = text.endswith(b"\n")
        passed += ends and not (whole and text.isspace())
        line += ends
        whole = ends
    return passed, line_rows(file, label, at, line)


def _row(read: Reading, shape: str, label: str) -> Row:
    if isinstance(read, BadRow):
        return read
    source = Source(label, read[0])
    return to_preference(read[1], source) if shape == PREFERENCE else to_example(read[1], shape, source)
