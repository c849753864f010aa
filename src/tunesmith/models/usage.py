"""How often each model is asked and what upstreams charge: counted exactly once whatever is killed, without a database
write for each request.

Each process appends a line a use (a list) or an answer of an upstream (an object) to a journal of its own; ``fold``
moves what the journals of all processes hold into the database. A journal lives through three stages, and every step
from one to the next may be the last before a crash:

    <name>.open     a process appends to it, holding its lock (flock) for the moment of each line
    <name>.closed   renamed under that lock by whoever folds: its writer sees that and begins another
    (gone)          removed, after one transaction added its lines to ``model_notes`` and ``spending`` and recorded its name

A closed journal whose name is recorded was counted already and is only removed. Names are never used twice.
"""

import errno
import fcntl
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa
import structlog

from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.files import sync
from tunesmith.models.model import Model
from tunesmith.models.notes import model_notes, put
from tunesmith.models.spending import Spent, SpentByDay

_OPEN, _CLOSED, _LOCK = ".open", ".closed", "fold.lock"
_LONGEST = 64 * 1024  # bytes of a journal
_TRIES = 10  # journals begun for one line, each closed by a fold before the line came
_AT_ONCE = 500  # journals a transaction
_FOLD_WAIT_S, _LINE_WAIT_S = 10.0, 0.2  # for another that folds, for a writer that was stopped in its line
_MOST_TOKENS, _MOST_USD = 10**9, 1e6  # of one answer: what an upstream says is not taken on trust
_LONGEST_NAME = 200  # characters: an index of PostgreSQL takes no row of 2700 bytes
_log = structlog.get_logger(__name__)

usage_journals = sa.Table("usage_journals", metadata, sa.Column("name", sa.String, primary_key=True))

_Use = tuple[str, str]  # when, and the model's name


class _Payment(msgspec.Struct, frozen=True):
    at: datetime
    spent: Spent


_decode = msgspec.json.Decoder(_Use | _Payment).decode


@dataclass(slots=True)
class _Uses:
    """Of one model, in the journals being folded."""

    count: int = 0
    last: str = ""


class UsageJournal:
    """Counts the use of models. Share between threads; one for each folder in a process.

    What was counted survives ``kill -9``; the machine losing power may lose the lines of the last seconds.

    Args:
        folder: where journals lie, of every process.
    """

    def __init__(self, folder: Path, database: Database, clock: Clock = utc_now) -> None:
        self._folder, self._database, self._clock = folder, database, clock
        self._writing, self._folding = threading.Lock(), threading.Lock()
        self._path: Path | None = None
        self._descriptor = -1
        self._failing = False

    def used(self, model: Model) -> None:
        """Count one use of the model. Never raises for the disk: an answer must not fail because it is not counted."""
        self._write((self._clock().isoformat(timespec="microseconds"), _storable(model.name)))

    def spent(self, spent: Spent) -> None:
        """Count one answer of an upstream, on the day (UTC) it ends. Never raises, as ``used``.

        A cost or a count that no answer can have is taken as the nearest one that it can.
        """
        self._write(_Payment(self._clock(), _bounded(spent)))

    def fold(self) -> None:
        """Move every line written until now, by any process, to the database. Blocking; nothing to do costs nothing.

        Where that cannot be done now (the disk is full, the database locked, another process in the middle of it) the
        lines wait for the next fold, and the log says so.
        """
        try:
            with self._folding:
                if self._journals(_OPEN, _CLOSED):
                    self._fold()
        except (OSError, sa.exc.OperationalError) as error:
            _log.warning("usage_not_folded", reason=str(error))

    def close(self) -> None:
        """Leave the journal and fold."""
        with self._writing:
            self._leave()
        self.fold()

    def _fold(self) -> None:
        with _locked(self._folder / _LOCK, _FOLD_WAIT_S, os.O_CREAT) as ours:
            if not ours:
                raise OSError(errno.EAGAIN, "another process is folding")
            for journal in self._journals(_OPEN):
                _close(journal)
            while closed := self._journals(_CLOSED)[:_AT_ONCE]:
                self._count(closed)

    def _write(self, line: _Use | _Payment) -> None:
        try:
            with self._writing:
                self._append(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            if not self._failing:
                _log.warning("usage_not_counted", reason=str(error))
            self._failing = True
        else:
            self._failing = False

    def _append(self, line: bytes) -> None:
        for _ in range(_TRIES):
            if self._path is None:
                self._begin()
            if self._append_here(line):
                return
            self._leave()
        raise OSError(errno.EAGAIN, "every journal was closed before the line came")

    def _append_here(self, line: bytes) -> bool:
        """Append to the journal begun; False where it is full, or no longer ours to write."""
        assert self._path is not None
        try:
            # a fold that has it will not give it back, so there is nothing to wait for
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            size = self._path.stat().st_size
            if size and size + len(line) > _LONGEST:
                return False
            if os.write(self._descriptor, line) < len(line):
                os.ftruncate(self._descriptor, size)  # or the next line would be torn with this one
                raise OSError(errno.ENOSPC, "the disk is full")
            return True
        except FileNotFoundError:
            return False  # it was closed
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _begin(self) -> None:
        path = self._folder / f"{time.time_ns():x}-{os.getpid():x}-{secrets.token_hex(6)}{_OPEN}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._path = path

    def _leave(self) -> None:
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)

    def _journals(self, *stages: str) -> list[Path]:
        """Journals in one of the stages, the oldest first."""
        with os.scandir(self._folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(stages) and entry.is_file(follow_symlinks=False)
            )

    def _count(self, closed: list[Path]) -> None:
        """Add the lines of closed journals to the database, each once, and remove the journals."""
        names = [journal.stem for journal in closed]
        with self._database.write() as connection:
            counted = set(connection.execute(sa.select(usage_journals.c.name)).scalars())
            fresh = [journal for journal in closed if journal.stem not in counted]
            uses_of, spent = _summed(fresh)
            for name, uses in sorted(uses_of.items()):
                last = model_notes.c.last_used
                put(
                    connection,
                    name,
                    usage_count=model_notes.c.usage_count + uses.count,
                    last_used=sa.case((last > uses.last, last), else_=uses.last),
                )
            spent.save(connection)
            if fresh:
                connection.execute(sa.insert(usage_journals), [{"name": journal.stem} for journal in fresh])
        for journal in closed:
            journal.unlink()
        # only when they are gone for good may their names go: without its name a journal would be counted again
        sync(self._folder)
        with self._database.write() as connection:
            connection.execute(sa.delete(usage_journals).where(usage_journals.c.name.in_(names)))


def _summed(journals: list[Path]) -> tuple[dict[str, _Uses], SpentByDay]:
    """Uses by model, and what was spent."""
    uses_of: dict[str, _Uses] = {}
    spent = SpentByDay()
    for journal in journals:
        for line in _lines(journal):
            if isinstance(line, _Payment):
                spent.add(line.at, line.spent)
            else:
                when, name = line
                uses = uses_of.setdefault(name, _Uses())
                uses.count += 1
                uses.last = max(uses.last, when)  # fixed width and UTC: as text they sort as times
    return uses_of, spent


def _bounded(spent: Spent) -> Spent:
    """What the database can add up for ever: a line that it refused would be in the way of all others."""
    cost = spent.cost_usd
    return replace(
        spent,
        owner=_storable(spent.owner)[:_LONGEST_NAME],
        service=_storable(spent.service)[:_LONGEST_NAME],
        model=_storable(spent.model)[:_LONGEST_NAME],
        prompt_tokens=min(max(0, spent.prompt_tokens), _MOST_TOKENS),
        completion_tokens=min(max(0, spent.completion_tokens), _MOST_TOKENS),
        cost_usd=None if cost is None or not math.isfinite(cost) else min(max(0.0, cost), _MOST_USD),
    )


def _storable(name: str) -> str:
    """Names are text from the disk or from upstreams: half characters and NUL, which no database takes, are replaced."""
    return name.encode("utf-8", "replace").decode().replace("\0", "?")


def _lines(journal: Path) -> Iterator[_Use | _Payment]:
    """The complete lines; the end of a line torn by a crash was never counted."""
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                yield _decode(line)
            except msgspec.DecodeError:
                _log.warning("usage_line_not_readable", journal=journal.name)


def _close(journal: Path) -> None:
    """Take the journal from its writer; not when that was stopped in the middle of a line, which the next fold sees."""
    with _locked(journal, _LINE_WAIT_S) as ours:
        if ours:
            journal.rename(journal.with_suffix(_CLOSED))


@contextmanager
def _locked(path: Path, wait_s: float, flags: int = 0) -> Iterator[bool]:
    """Hold the file's lock against other processes and this one; False where it was not free within ``wait_s``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        end = time.monotonic() + wait_s
        while not (ours := _try_lock(descriptor)) and time.monotonic() < end:
            time.sleep(0.002)
        yield ours
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
