"""What the folder of a run says, piece by piece: its curves after a step, its log after a byte, its stage, its memory.

Each piece costs what it holds, however long the run: a page that looks every second must not read the whole file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tunesmith.training import run_folder
from tunesmith.training.plan import accuracy

COLUMNS = ("loss", "learning_rate", "tokens_per_second", "grad_norm", "time")
_NEAR = 1 << 16  # bytes that are read rather than searched
_TAIL = 1 << 16
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Curves:
    """Points of a run's curves, column by column, in the order of the steps.

    Attributes:
        training: ``step``, each of COLUMNS, and whatever else the trainer told of steps; None where a step has none.
        validation: ``step``, ``loss``, and whatever else was told of the scorings.
        more: whether there are points after these already.
    """

    training: dict[str, list[Any]]
    validation: dict[str, list[Any]]
    more: bool


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Whole lines of a log, without what moves a terminal's cursor.

    Attributes:
        start, end: bytes of the log; the next piece begins at ``end``.
        size: bytes the log has now.
    """

    text: str
    start: int
    end: int
    size: int


def curves(folder: Path, after: int, most: int) -> Curves:
    """The points after step ``after``: those of ``most`` steps at the most."""
    training: dict[str, list[Any]] = {"step": [], **{name: [] for name in COLUMNS}}
    validation: dict[str, list[Any]] = {"step": [], "loss": []}
    for row in _rows(folder, after):
        step, event = row.pop("step", None), row.pop("event", None)
        if not isinstance(step, int) or step <= after or event not in (None, "validation"):
            continue
        told = training if event is None else validation
        if event is None and len(told["step"]) == most:
            return Curves(training, validation, True)
        _append(told, step, row)
    return Curves(training, validation, False)


def stage(folder: Path) -> str | None:
    """What the trainer is at: "checking", "loading", "training" or "saving"; None before it said anything."""
    found = None
    for row in _last_rows(folder):
        if row.get("event") == "stage" and isinstance(row.get("stage"), str):
            found = row["stage"]
        elif "event" not in row:
            found = "training"
    return found


def log(folder: Path, after: int | None, most: int) -> LogPiece:
    """At most ``most`` bytes of the log from byte ``after``; None gives its end. Empty where nothing was printed."""
    try:
        with (folder / run_folder.LOG).open("rb") as file:
            size = file.seek(0, 2)
            start = _line_from(file, max(0, size - min(most, _TAIL))) if after is None else min(after, size)
            file.seek(start)
            read = file.read(most)
    except OSError:
        return LogPiece("", 0, 0, 0)
    # the rest of a line comes with the next piece, but where the whole of it is longer than a piece
    whole = read.rfind(b"\n") + 1 or (len(read) if len(read) == most else 0)
    text = read[:whole].decode("utf-8", "replace").replace("\r\n", "\n")
    shown = "\n".join(_UNPRINTABLE.sub("", line.rpartition("\r")[2]) for line in text.split("\n"))
    return LogPiece(shown, start, start + whole, size)


def memory_bytes(folder: Path) -> int | None:
    """What the trainer takes now; the most it took, once it has ended; None where nobody knows."""
    held = accuracy.read(folder)
    if held is not None:
        return held.memory_bytes
    process = run_folder.read_trainer(folder)
    if process is None or not run_folder.alive(process):
        return None
    import psutil

    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return None


def _append(told: dict[str, list[Any]], step: int, row: dict[str, Any]) -> None:
    known = len(told["step"])
    told["step"].append(step)
    for name in row.keys() - told.keys() - {"epoch", "total_steps", "seconds_left"}:
        if isinstance(row[name], int | float) and (name != "time" or "time" in told):
            told[name] = [None] * known
    for name, column in told.items():
        if name != "step":
            value = row.get(name)
            column.append(_short(value) if isinstance(value, float) else None)


def _short(value: float) -> float | int:
    """Six digits are more than anybody sees in a curve, and half of what is sent."""
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 2)


def _rows(folder: Path, after: int) -> Iterator[dict[str, Any]]:
    """The complete rows from just before the first one after step ``after`` on."""
    try:
        file = (folder / run_folder.METRICS).open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(_before(file, after) if after > 0 else 0)
        for line in file:
            row = _row(line)
            if row is not None:
                yield row


def _before(file: BinaryIO, after: int) -> int:
    """A line's beginning with no row of a later step before it; steps only grow along the file."""
    low, high = 0, file.seek(0, 2)
    while high - low > _NEAR:
        middle = _line_from(file, (low + high) // 2)
        file.seek(middle)
        step = None
        while step is None and file.tell() < high:
            row = _row(file.readline()) or {}
            step = row.get("step") if isinstance(row.get("step"), int) else None
        if step is None or step > after:
            high = (low + high) // 2
        else:
            low = middle
    return low


def _line_from(file: BinaryIO, place: int) -> int:
    """Where the first line begins that begins at ``place`` or later."""
    if place == 0:
        return 0
    file.seek(place - 1)
    file.readline()
    return file.tell()


def _last_rows(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        with (folder / run_folder.METRICS).open("rb") as file:
            file.seek(_line_from(file, max(0, file.seek(0, 2) - _NEAR // 4)))
            lines = file.readlines()
    except OSError:
        return
    yield from (row for row in map(_row, lines) if row is not None)


def _row(line: bytes) -> dict[str, Any] | None:
    """None where the line was torn, or is no row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = _decode(line)
    except msgspec.DecodeError:
        return None
    return row if isinstance(row, dict) else None
