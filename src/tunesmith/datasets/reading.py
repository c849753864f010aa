"""Examples out of a file or a kept dataset, streamed: memory stays flat however long the file is."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from tunesmith.datasets.dataset import kept_files
from tunesmith.datasets.example import Example, Source
from tunesmith.datasets.formats import BadRow, check_shape, detect, to_example
from tunesmith.datasets.json_rows import json_rows
from tunesmith.datasets.rows import Reading, refused
from tunesmith.datasets.table_rows import csv_rows, parquet_rows
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem

FORMATS = ("json", "jsonl", "csv", "parquet")
LISTED = 20  # bad rows named in one refusal
FIRST_ROWS = 20  # rows the shape is told from
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_CONTAINERS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"Rar!": "rar",
    b"7z\xbc\xaf": "7z",
}
_BOM = b"\xef\xbb\xbf"
_HEAD = 64  # bytes a file is known by
_WEB_PAGE = (
    "这是网页（HTML），不是数据；请下载原始文件",
    "this is a web page (HTML), not data; download the file itself",
)
_NO_DATA = {
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": ("这是 XML，不是数据；请转存为 JSON Lines", "this is XML; save the rows as JSON Lines"),
    b"version https://git-lfs": (
        "这是 Git LFS 的指针，不是数据；请运行 git lfs pull",
        "this is a pointer of Git LFS, not the data; run git lfs pull",
    ),
}
_Row = TypeVar("_Row")
OnBad = Callable[[BadRow], None]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file being read.

    Attributes:
        format: one of FORMATS.
        shape: as asked for, or as told from the first rows.
        rows: every row, good or bad, in the file's order.
    """

    format: str
    shape: str
    rows: Iterator[Example | BadRow]


def read_examples(
    home: Home, name: str, *, shape: str | None = None, format: str | None = None, on_bad: OnBad | None = None
) -> Iterator[Example]:
    """The examples of a file under home (``data/train.json``) or of a kept dataset (``town``, ``town/test``).

    Args:
        shape: one of formats.SHAPES; None tells it from the first rows. A kept dataset knows its own.
        format: one of FORMATS; None tells it from the file's name. A kept dataset knows its own.
        on_bad: is handed every bad row, which is then left out. None refuses the file: nothing is yielded after the
            first bad row, and the scan goes on until twenty are found or the file ends.

    Raises, all while iterating:
        NotFound, Forbidden: the file is not there, or may not be read.
        Invalid: the name, the file as a whole, or the rows listed in the message are bad.
    """
    kept = kept_files(home, name)
    if kept is None:
        with home.open(name, "dataset") as file:
            yield from accepted(parse(file, name, shape=shape, format=format).rows, name, on_bad)
        return
    for number in range(len(kept)):
        with _opened(home, name, number) as (file, label):
            yield from accepted(parse(file, label, shape="openai", format="jsonl").rows, label, on_bad)


def read_file(
    path: Path, *, shape: str | None = None, format: str | None = None, on_bad: OnBad | None = None
) -> Iterator[Example]:
    """The examples of any file of this machine, for its owner; otherwise as ``read_examples``."""
    with open_path(path) as file:
        yield from accepted(parse(file, path.name, shape=shape, format=format).rows, path.name, on_bad)


def accepted(rows: Iterable[_Row | BadRow], label: str, on_bad: OnBad | None) -> Iterator[_Row]:
    """The good rows; bad ones go to ``on_bad``, or refuse the whole (see ``read_examples``)."""
    bad: list[BadRow] = []
    for row in rows:
        if not isinstance(row, BadRow):
            if not bad:
                yield row
        elif on_bad is not None:
            on_bad(row)
        else:
            bad.append(row)
            if len(bad) == LISTED:
                break
    if bad:
        raise refusal(bad, label)


def refusal(bad: list[BadRow], label: str) -> Invalid:
    """One Problem that lists the bad rows."""
    full = len(bad) >= LISTED
    zh = f"{label} 有{'至少 ' if full else ' '}{len(bad)} 行不能用于训练{'（读到此处为止）' if full else ''}："
    en = f"{label} has {'at least ' if full else ''}{len(bad)} bad row{'' if len(bad) == 1 else 's'}"
    en += " (reading stopped there):" if full else ":"
    return Invalid(
        "\n  ".join([zh, *(row.text("zh") for row in bad)]),
        "\n  ".join([en, *(row.text("en") for row in bad)]),
        bad_rows=[
            {"file": row.source.file, "line": row.source.line, "field": row.field, "zh": row.zh, "en": row.en}
            for row in bad
        ],
        more_possible=full,
    )


def parse(file: BinaryIO, label: str, *, shape: str | None = None, format: str | None = None) -> Parsed:
    """Begin to read ``file``: format and shape are settled, the rows follow as they are asked for.

    Args:
        file: seekable, at its beginning; stays the caller's to close, after the rows.
        label: what messages call it; its suffix tells the format when ``format`` is None.

    Raises:
        Invalid: format or shape are unknown, the file is empty, or what it begins with cannot be read.
    """
    known = check_shape(shape) if shape else None
    kind, rows = rows_of(file, label, format)
    first = list(islice(rows, FIRST_ROWS))
    if not first:
        raise refused(label, None, "文件里没有数据行；请加入样本", "the file has no rows; add some")
    if known is None:
        readable = [row[1] for row in first if isinstance(row, tuple)]
        # with no readable row the listing of bad rows says more than "unknown shape" could
        known = detect(readable, label) if readable else "openai"
    return Parsed(kind, known, _examples(chain(first, rows), known, label))


def rows_of(file: BinaryIO, label: str, format: str | None = None) -> tuple[str, Iterator[Reading]]:
    """The format of ``file``, and its rows as they are, of whatever shape; otherwise as ``parse``."""
    kind = _format(file, label, format)
    return kind, _READERS[kind](file, label)


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[Reading]]] = {
    "json": lambda file, label: json_rows(file, label, lines=False),
    "jsonl": lambda file, label: json_rows(file, label, lines=True),
    "csv": csv_rows,
    "parquet": parquet_rows,
}


def _examples(rows: Iterator[Reading], shape: str, label: str) -> Iterator[Example | BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        else:
            yield to_example(row[1], shape, Source(label, row[0]))


def _format(file: BinaryIO, label: str, asked: str | None) -> str:
    """The format to read ``file`` as, which is left standing after any byte order mark."""
    head = file.read(_HEAD)
    if not head:
        raise refused(label, None, "文件是空的；请重新获取或写出该文件", "the file is empty; fetch or write it again")
    for magic, name in _CONTAINERS.items():
        if head.startswith(magic):
            raise refused(label, None, f"这是 {name} 压缩文件，请先解压", f"this is a {name} file; unpack it first")
    if asked is not None and asked.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise Invalid(
            f"未知的文件格式 {asked!r}，可用：{known}", f"unknown format {asked!r}; known: {known}", field="format"
        )
    kind = asked.lower() if asked else _SUFFIXES.get(PurePosixPath(label).suffix.lower())
    parquet = head.startswith(b"PAR1")
    if kind is None:
        kind = "parquet" if parquet else "json" if head.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[") else None
    if kind is None:
        known = ", ".join(_SUFFIXES)
        zh = f"无法判断文件格式；请用 {known} 之一，或指定 format"
        raise refused(label, None, zh, f"unknown kind of file; use one of {known}, or name the format")
    if parquet != (kind == "parquet"):
        zh, en = ("这是", "this is a") if parquet else ("这不是", "this is not a")
        raise refused(
            label, None, f"{zh} Parquet 文件，但按 {kind} 读取", f"{en} Parquet file, but it is read as {kind}"
        )
    if not head.strip(b"\0"):
        zh, en = (
            "文件以 NUL（0）字节开头，已损坏；请重新获取",
            "the file begins with NUL bytes: it is damaged; fetch it again",
        )
        raise refused(label, None, zh, en)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (kind != "parquet" and b"\0" in head[:4]):
        zh, en = "文件是 UTF-16 或 UTF-32；请转存为 UTF-8", "the file is UTF-16 or UTF-32; save it as UTF-8"
        raise refused(label, None, zh, en)
    text = head.removeprefix(_BOM).lstrip().lower()
    for beginning, (zh, en) in _NO_DATA.items():
        if kind != "parquet" and text.startswith(beginning):
            raise refused(label, 1, zh, en)
    file.seek(len(_BOM) if head.startswith(_BOM) else 0)
    return kind


@contextmanager
def _opened(home: Home, name: str, number: int) -> Iterator[tuple[BinaryIO, str]]:
    """One of the files that the name of a kept dataset stands for, and what messages call it."""
    for _ in range(3):
        kept = kept_files(home, name) or ()
        if number >= len(kept):
            break
        try:
            file = home.open(kept[number], "dataset")
        except NotFound:
            continue  # the dataset was split anew between the two steps
        with file:
            yield file, name if len(kept) == 1 else kept[number]
            return
    raise NotFound(f"dataset 不存在：{name}", f"dataset does not exist: {name}", field="dataset")


def retold(problem: Problem, labels: Mapping[str, str], field: str) -> Problem:
    """``problem`` of ``open_path``, with the label of a file wherever it names the file's path.

    Args:
        labels: path to label.
        field: what the client called the file by.
    """
    zh, en, details = problem.zh, problem.en, problem.details
    for path, label in labels.items():
        zh, en = zh.replace(path, label), en.replace(path, label)
    if details.get("field") == "path":
        details = {**details, "field": field}
    return type(problem)(zh, en, **details)


def open_path(path: Path) -> BinaryIO:
    """Open a regular file of this machine for reading; symbolic links are the owner's own business.

    Raises:
        NotFound: there is none. Forbidden: it may not be read. Invalid: a folder, pipe or device.
    """
    try:
        # O_NONBLOCK: a pipe must not hang us
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"文件不存在：{path}", f"there is no file {path}", field="path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Forbidden(f"无法读取 {path}：{reason}", f"{path} cannot be read: {reason}", field="path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Invalid(f"{path} 不是普通文件", f"{path} is not a regular file", field="path")
    return os.fdopen(descriptor, "rb")
