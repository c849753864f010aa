"""Rows of CSV and of Parquet, as dicts of column name to value."""

import csv
import os
from collections.abc import Iterator
from typing import BinaryIO

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import COLUMNS, BadRow
from tunesmith.datasets.rows import ROW_LIMIT, Reading, not_utf8, nul_at, refused, too_long
from tunesmith.kernel.problems import Invalid

_BATCH_BYTES = 8 << 20
MOST_COLUMNS = 1000


def csv_rows(file: BinaryIO, label: str) -> Iterator[Reading]:
    """Rows of CSV with a header row, separated by comma, semicolon or tab; every value is a string.

    Args:
        file: standing after any byte order mark.

    Raises:
        Invalid: while iterating; not UTF-8, a quote never closed, a row or cell over ROW_LIMIT, a broken header. A row
            with too many or too few cells is a BadRow.
    """
    csv.field_size_limit(ROW_LIMIT)
    feed = _Lines(file, label)
    reader = csv.reader(feed, delimiter=feed.delimiter(), strict=True)
    header = _header(feed, reader)
    while (cells := _cells(feed, reader)) is not None:
        if not cells:
            continue  # an empty line
        if len(cells) != len(header):
            yield _ragged(Source(label, feed.row_line), header, cells)
        else:
            yield feed.row_line, dict(zip(header, cells, strict=True))


def _ragged(source: Source, header: list[str], cells: list[str]) -> BadRow:
    zh, en = f"应有 {len(header)} 列，得到 {len(cells)} 列", f"expected {len(header)} cells, got {len(cells)}"
    if len(cells) < len(header):
        return BadRow(source, header[len(cells)], f"{zh}；请补上缺少的列", f"{en}; add the missing ones", row=cells)
    zh, en = f"{zh}；请用双引号括起含分隔符的文本", f"{en}; put text that holds the separator in double quotes"
    return BadRow(source, "", zh, en, row=cells)


class _Lines:
    """Lines of text for the csv reader, which asks for as many as a row needs."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self.file, self.label = file, label
        self.offset = file.tell()
        self.line = self.row_line = 0
        self.row_bytes = 0

    def delimiter(self) -> str:
        """The separator of the first line."""
        first = self.file.readline(ROW_LIMIT)
        self.file.seek(self.offset)
        if b"," in first:
            return ","
        return ";" if b";" in first else "\t" if b"\t" in first else ","

    def begin_row(self) -> None:
        """The next line asked for is the first of a row."""
        self.row_line, self.row_bytes = self.line + 1, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        data = self.file.readline(ROW_LIMIT + 1)
        if not data:
            raise StopIteration
        self.line += 1
        self.row_bytes += len(data)
        if self.row_bytes > ROW_LIMIT:
            zh, en = too_long()
            raise refused(
                self.label, self.row_line, f"{zh}（或引号没有闭合）", f"{en} (or a quote in it is never closed)"
            )
        if reason := not_utf8(data, self.offset):
            raise refused(self.label, self.line, *reason)
        if b"\0" in data:
            raise refused(self.label, self.line, *nul_at(self.offset + data.index(b"\0")))
        self.offset += len(data)
        return data.decode(errors="replace")  # only a character cut off by the end of the file can be left to replace


def _header(feed: _Lines, reader: Iterator[list[str]]) -> list[str]:
    header: list[str] | None = []
    while header is not None and not header:
        header = _cells(feed, reader)
    names = [name.strip() for name in header or ()]
    if len(names) > MOST_COLUMNS:
        zh, en = (
            f"有 {len(names)} 列，最多 {MOST_COLUMNS} 列；请只保留需要的列",
            f"{len(names)} columns, at most {MOST_COLUMNS} are read; keep those that are needed",
        )
        raise refused(feed.label, feed.row_line, zh, en)
    for name in names:
        if name and names.count(name) > 1:
            zh, en = f"表头重复：{name!r}；请改名", f"the header names {name!r} twice; rename one"
            raise refused(feed.label, feed.row_line, zh, en)
    return names


def _cells(feed: _Lines, reader: Iterator[list[str]]) -> list[str] | None:
    """The next row; None at the end of the file."""
    feed.begin_row()
    try:
        return next(reader, None)
    except csv.Error as error:
        raise _csv_refusal(feed, str(error)) from None


def _csv_refusal(feed: _Lines, detail: str) -> Invalid:
    if "unexpected end of data" in detail:
        zh = "从这一行开始的引号没有闭合；请补上引号"
        en = "a quote of the row that begins here is never closed; close it"
    elif "field larger" in detail:
        size = f"{ROW_LIMIT >> 20} MB"
        zh, en = f"单元格超过 {size}；请检查引号是否闭合", f"a cell is over {size}; see whether its quote is closed"
    elif "new-line character" in detail:
        zh = "换行符是单独的回车（CR）；请转存为 LF 或 CRLF"
        en = "lines end in a bare carriage return; save them with LF or CRLF"
    else:
        zh, en = f"不是有效的 CSV：{detail}；请改正这一行", f"not valid CSV: {detail}; correct the row"
    return refused(feed.label, feed.row_line, zh, en)


def parquet_rows(file: BinaryIO, label: str) -> Iterator[Reading]:
    """Rows of Parquet; the line of a row is its number, from 1.

    Raises:
        Invalid: while iterating; the file is no Parquet, damaged, or uses what the library cannot read.
    """
    import pyarrow as pa  # 60 MB resident: only who reads Parquet pays
    import pyarrow.parquet as pq

    number = 0
    try:
        # pre-buffering would fetch every column chunk of the file at once
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
            names = table.schema_arrow.names
            columns = [name for name in names if name in COLUMNS] or names
            rows = max(1, table.metadata.num_rows)
            total = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
            size = max(1, min(1024, _BATCH_BYTES * rows // max(1, total)))
            for batch in table.iter_batches(batch_size=size, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise refused(label, number + 1, *_why_not_parquet(file, error)) from None


def _why_not_parquet(file: BinaryIO, error: Exception) -> tuple[str, str]:
    if not file.closed:
        file.seek(-min(4, file.seek(0, os.SEEK_END)), os.SEEK_END)
        if file.read() != b"PAR1":
            return (
                "Parquet 文件不完整（缺少结尾）；请重新获取完整的文件",
                "the Parquet file is cut off: its end is missing; fetch or write the whole file again",
            )
    detail = " ".join(str(error).split())[:120]
    return (
        f"无法读取 Parquet：{detail}；请重新获取或写出该文件",
        f"the Parquet file cannot be read: {detail}; fetch or write it again",
    )
