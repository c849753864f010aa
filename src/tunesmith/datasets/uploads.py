"""Uploads: a file taken while it streams in, checked whole, and kept as it came under ``data/raw``.

While it comes its name is ``.upload-<id>``, and its writer holds its lock. Then the record is written, naming the path
it will have, and the file is renamed. Killed before the record, there is a file nobody holds and no record knows, and
``reconcile`` deletes it; killed after it, there is a record without its file but the whole file ``.upload-<id>`` beside
it, and ``reconcile`` renames that. At no moment does a file without a record stand under a name anybody may read.
"""

import asyncio
import contextlib
import errno
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import structlog

from tunesmith.datasets.children import Children, OnProgress, Worker
from tunesmith.datasets.dataset import check_description, is_id, new_id
from tunesmith.datasets.folder import absent, is_held, lock, room
from tunesmith.datasets.reading import retold
from tunesmith.datasets.upload import FOLDER, Upload, check_format, check_title, file_name
from tunesmith.datasets.upload_store import UploadStore
from tunesmith.datasets.worker.tasks import Count, Read
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.files import require_free, sync
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, Problem, TooMany
from tunesmith.settings import Settings

__all__ = ["Incoming", "Place", "Upload", "UploadService"]

log = structlog.get_logger(__name__)
_INCOMING = ".upload-"
_ROOM_LEFT = 64 << 20  # bytes an upload leaves on the disk for everybody else
_LOOK_EVERY = 16 << 20  # bytes
_MOST_OF_A_NAME = 1000
_MOST_AT_ONCE = 16  # uploads under way in this process: each is a thread now and then, an open file and a connection
_MOST_OF_ONE = 4  # of one caller
_RETRY_S = 10


class UploadService:
    """Takes, keeps and finds uploads. Blocking but for ``Incoming.finish``; share between threads.

    Whoever asks is shown their own, an admin all; another's is answered like a missing one.

    Args:
        worker: checks files; one shared with DatasetService keeps few children at once.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        settings: Settings,
        clock: Clock = utc_now,
        worker: Worker | None = None,
    ) -> None:
        self._store, self._home, self._clock = UploadStore(database), home, clock
        self._limit, self._worker = settings.max_upload_bytes, worker or Children()
        self._under_way: Counter[str] = Counter()
        self._places = threading.RLock()  # a place may be left by the garbage collector, in the middle of anything

    def place(self, caller: Caller = LOCAL) -> "Place":
        """Room for one upload more; to be asked for before anything of it is read.

        Raises:
            TooMany: the caller has 4 uploads under way, or all together have 16; ``retry_after`` is in seconds.
        """
        with self._places:
            own, everybody = self._under_way[caller.name], self._under_way.total()
            if own >= _MOST_OF_ONE or everybody >= _MOST_AT_ONCE:
                zh, en = ("您", "you have") if own >= _MOST_OF_ONE else ("服务器", "the server has")
                raise TooMany(
                    f"{zh}同时进行的上传过多，请在 {_RETRY_S} 秒后重试",
                    f"{en} too many uploads under way; try again in {_RETRY_S} seconds",
                    retry_after=_RETRY_S,
                )
            self._under_way[caller.name] += 1
        return Place(lambda: self._leave(caller.name))

    def _leave(self, name: str) -> None:
        with self._places:
            self._under_way[name] -= 1
            self._under_way += Counter()  # forgets whoever has none

    def begin(
        self,
        filename: str,
        *,
        name: str = "",
        description: str = "",
        format: str = "json",
        caller: Caller = LOCAL,
        place: "Place | None" = None,
    ) -> "Incoming":
        """Open a file to write an upload to; ``name``, ``description`` and ``format`` may be set until it is finished.

        Args:
            place: what ``place`` gave, left when the upload is finished or aborted; None takes one.

        Raises:
            Unavailable: the disk is full. TooMany: see ``place``.
        """
        held = place or self.place(caller)
        try:
            require_free(self._home.uploads, _ROOM_LEFT)
            incoming = Incoming(self, self._home.uploads, self._limit, filename, caller, held)
        except BaseException:
            held.leave()
            raise
        incoming.name, incoming.description, incoming.format = name, description, format
        return incoming

    def get(self, id: str, caller: Caller = LOCAL) -> Upload:
        """The upload with that id.

        Raises:
            NotFound: there is none.
        """
        found = self._store.with_id(id) if is_id(id) else None
        if found is None or not caller.sees(found.owner):
            raise absent(id)
        return found

    def list(self, caller: Caller = LOCAL) -> list[Upload]:
        """Every upload the caller may see, the newest first."""
        return self._store.list(caller.only)

    def remove(self, id: str, caller: Caller = LOCAL) -> None:
        """Delete the file and forget it.

        Raises:
            NotFound: there is none.
        """
        found = self.get(id, caller)
        # the file first: without its record anybody could read it
        self._home.path(found.path, "path").unlink(missing_ok=True)
        self._store.delete(found.id)

    def reconcile(self) -> None:
        """Finish or delete what a crash left half done; called once at start. See the module's docstring."""
        for file in sorted(self._home.uploads.glob(f"{_INCOMING}*")):
            try:
                self._reconcile(file)
            except (Problem, OSError) as error:  # one that is in the way of its name keeps no other waiting
                log.warning("an upload that a crash cut is left as it is", file=file.name, error=str(error))
        for upload in self._store.list():
            waiting = self._home.uploads / f"{_INCOMING}{upload.id}"
            # not exists: a link in its place is somebody's doing, and no reason to forget whose the name is
            if not os.path.lexists(waiting) and not os.path.lexists(self._home.root / upload.path):
                log.warning("an uploaded file is gone; its record is deleted", path=upload.path)
                self._store.delete(upload.id)

    def _reconcile(self, file: Path) -> None:
        if is_held(file):
            return  # another process is writing it
        found = self._store.with_id(file.name.removeprefix(_INCOMING))
        if found is None:
            file.unlink(missing_ok=True)
        else:
            _publish(file, self._home.path(found.path, "path"))

    def check(self, incoming: "Incoming") -> Count:
        """What to ask a worker about a file that came whole.

        Raises:
            Invalid: the name, the description or the format will not do. Conflict: the name is taken.
        """
        self._store.require_new_name(incoming.caller.name, check_title(incoming.name))
        check_description(incoming.description)
        label = file_name(incoming.filename, check_format(incoming.format))
        return Count(str(incoming.path), label, incoming.format)

    async def count(self, task: Count, on_progress: OnProgress | None) -> int:
        """Rows of the file, every one of them read.

        Raises:
            Invalid: it is broken; file, line and reason are named.
        """
        try:
            return (await self._worker.perform(task, Read, on_progress)).rows
        except Problem as problem:
            raise retold(problem, {task.path: task.label}, "file") from None

    def keep(self, incoming: "Incoming", samples: int) -> Upload:
        """Record the upload, then give its file the name it was recorded with.

        Raises:
            Conflict: the name was taken meanwhile.
        """
        made = Upload(
            id=incoming.id,
            name=check_title(incoming.name),
            owner=incoming.caller.name,
            path="",
            format=incoming.format,
            samples=samples,
            size_bytes=incoming.size_bytes,
            description=incoming.description,
            created_at=self._clock(),
        )
        upload = self._store.insert(lambda: self._paths(made, incoming.filename))
        _publish(incoming.path, self._home.path(upload.path, "path"))
        return upload

    def _paths(self, upload: Upload, filename: str) -> Iterator[Upload]:
        for number in range(1, _MOST_OF_A_NAME):
            chosen = file_name(filename, upload.format, number)
            # a file the machine's owner put there has no record
            if not os.path.lexists(self._home.uploads / chosen):
                yield replace(upload, path=f"{FOLDER}/{chosen}")


class Place:
    """Room for one upload; may be left more than once, and from any thread."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave
        self._lock = threading.RLock()

    def leave(self) -> None:
        """Give it to the next."""
        with self._lock:
            leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class Incoming:
    """An upload while it comes: write to it, then finish or abort it.

    Attributes:
        id: what the upload will have.
        filename: what the client called the file; any text.
        name, description, format: as the form says; checked when it is finished.
        size_bytes: written so far.
        path: where it lies until it is kept.
    """

    def __init__(
        self, service: UploadService, folder: Path, limit: int, filename: str, caller: Caller, place: Place
    ) -> None:
        self.id, self.filename, self.caller = new_id(), filename, caller
        self.name, self.description, self.format = "", "", "json"
        self.size_bytes = 0
        self.path = folder / f"{_INCOMING}{self.id}"
        self._service, self._limit = service, limit
        with room():
            self._file = _created(self.path)
        self._free_at = _LOOK_EVERY
        self._state = threading.Lock()  # between keeping and aborting, which a canceled request may do at once
        self._over = False
        self._place = place
        # a request canceled before its first step neither finishes nor aborts
        weakref.finalize(self, _drop, self.path, self._file, place).atexit = False

    def write(self, data: bytes) -> None:
        """Keep ``data``. Blocking; call in a thread, in order.

        Raises:
            Invalid: the file is larger than the limit. Unavailable: the disk is nearly full.
        """
        if self.size_bytes + len(data) > self._limit:
            limit = f"{self._limit / (1 << 20):.0f} MB"
            raise Invalid(
                f"文件超过上限 {limit}",
                f"the file is over the limit of {limit}",
                field="file",
                reason="too_large",
                limit_bytes=self._limit,
            )
        with room():
            self._file.write(data)
        self.size_bytes += len(data)
        if self.size_bytes >= self._free_at:
            self._free_at = self.size_bytes + _LOOK_EVERY
            require_free(self.path.parent, _ROOM_LEFT)

    async def finish(self, on_progress: OnProgress | None = None) -> Upload:
        """Check the file and keep it; whatever goes wrong, canceling too, it is aborted.

        Raises:
            Invalid: the form or the file is bad. Conflict: the caller has an upload of that name.
            Unavailable: the disk is full, or the worker broke.
        """
        try:
            task = await asyncio.to_thread(self._complete)
            samples = await self._service.count(task, on_progress)
            return await asyncio.shield(asyncio.to_thread(self._keep, samples))
        finally:
            await asyncio.shield(asyncio.to_thread(self.abort))

    def abort(self) -> None:
        """Delete what came, unless it was kept; twice is fine. Blocking."""
        with self._state:
            if not self._over:
                self._over = True
                _drop(self.path, self._file, self._place)
        self._place.leave()

    def _complete(self) -> Count:
        task = self._service.check(self)
        with room():
            self._file.flush()
            os.fsync(self._file.fileno())
        return task

    def _keep(self, samples: int) -> Upload:
        with self._state:
            if self._over:
                raise Invalid("上传已中止", "the upload was aborted", field="file", reason="cut")
            upload = self._service.keep(self, samples)
            self._over = True
            self._file.close()
            return upload


def _drop(path: Path, file: BinaryIO, place: Place) -> None:
    place.leave()
    if not file.closed:  # else it was kept or dropped before
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what could not be written any more is not wanted any more
            file.close()


def _created(path: Path) -> BinaryIO:
    """A new file, locked; its lock is held from its first moment or nobody has seen it."""
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", 1 << 20)
        lock(file.fileno())
        if path.exists():
            return file
        file.close()  # somebody's reconcile came between the two lines


def _publish(temporary: Path, path: Path) -> None:
    """Rename, but never over another file."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not temporary.samefile(path):  # the same: we were killed between the two lines
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        temporary.rename(path)  # a file system without hard links
    temporary.unlink(missing_ok=True)
    sync(path.parent)
