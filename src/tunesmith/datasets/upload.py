"""An uploaded file, kept as it came, and the names it may have."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from tunesmith.datasets.dataset import Dataset
from tunesmith.kernel.home import UNPRINTABLE, parse_name
from tunesmith.kernel.problems import Invalid, Problem

FOLDER = "data/raw"
FORMATS = {"json": (".json", ".jsonl"), "csv": (".csv",)}  # the first suffix is given to files that have another
_LONGEST_FILE_NAME = 64
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Upload:
    """A raw file and what is known of it.

    Attributes:
        id: ``dataset_`` and 12 hexadecimal digits, given once.
        name: as people call it; an owner has one of each.
        path: the file's name under home, e.g. ``data/raw/finance.json``.
        format: "json" (an array or one object a line) or "csv".
        samples: rows, counted.
    """

    id: str
    name: str
    owner: str
    path: str
    format: str
    samples: int
    size_bytes: int
    description: str
    created_at: datetime


Entry = Dataset | Upload


def check_format(format: str) -> str:
    """``format`` if files of it can be uploaded.

    Raises:
        Invalid: they cannot.
    """
    if format in FORMATS:
        return format
    known = ", ".join(FORMATS)
    shown = ascii(format)[:60]
    raise Invalid(
        f"未知的文件格式 {shown}，可用：{known}",
        f"unknown format {shown}; known: {known}",
        field="format",
        reason="unknown",
    )


def check_title(name: str) -> str:
    """``name`` without white space around it, if an upload may be called so: 1 to 128 printable characters.

    Raises:
        Invalid: it may not.
    """
    title = name.strip()
    if 1 <= len(title) <= _LONGEST_NAME and title.isprintable() and not UNPRINTABLE.search(title):
        return title
    raise Invalid(
        f"name 应为 1 到 {_LONGEST_NAME} 个可见字符，得到 {ascii(name)[:80]}",
        f"name must be 1 to {_LONGEST_NAME} printable characters, got {ascii(name)[:80]}",
        field="name",
        reason="required" if not title else "range",
    )


def file_name(sent: str, format: str, number: int = 1) -> str:
    """A safe name for a file that a client called ``sent``: its letters, digits, ``-`` and ``_``, and a known suffix.

    Args:
        format: one of FORMATS.
        number: above 1 for another file of that name: ``finance-2.json``.
    """
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", sent)[-1])
    stem, dot, ending = last.rpartition(".")
    known = FORMATS[format]
    suffix = f".{ending.lower()}" if dot and f".{ending.lower()}" in known else known[0]
    # letters with their marks, and numbers, of any script
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" or c in "-_" else "-" for c in (stem if dot else last))
    tail = f"-{number}{suffix}" if number > 1 else suffix
    stem = re.sub("-{2,}", "-", kept).strip("-_")[: _LONGEST_FILE_NAME - len(tail)].rstrip("-_") or "data"
    while len((stem + tail).encode()) > 255:  # what file systems take
        stem = stem[:-1]
    try:
        return str(parse_name(stem + tail, "file"))
    except Problem:  # a name some systems keep for a device, such as nul
        return f"data-{stem}"[: _LONGEST_FILE_NAME - len(tail)] + tail
