"""Whoever holds leases on runs: told apart from every other, and seen to be gone before its leases are over.

``runs/holders/<id>.lock``, locked (flock) for as long as the holder lives. The kernel unlocks it when the process is
gone, so another server on this home need not wait for a dead holder's leases to end. A holder without such a file is
on another machine, or its file system has no locks: its leases end by time alone.
"""

import fcntl
import os
import re
import socket
import uuid
from pathlib import Path

_ID = re.compile(r"[0-9a-f]{32}")


class Holder:
    """One that moves runs forward.

    Attributes:
        name: host, process and a random id: ``host/4711/0f3a...``; the first two are for people to read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._descriptor = folder, -1
        self.name = f"{socket.gethostname()[:64]}/{os.getpid()}/{uuid.uuid4().hex}"

    def begin(self) -> None:
        """Be seen to live; before the first lease is taken."""
        if self._descriptor >= 0:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._file(self.name)
        assert path is not None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks; an unlocked file would say that we are gone
            path.unlink(missing_ok=True)
        self._descriptor = descriptor

    def end(self) -> None:
        """Hold nothing any more; may begin again."""
        if self._descriptor >= 0:
            self.forget(self.name)
            os.close(self._descriptor)
            self._descriptor = -1

    def gone(self, name: str) -> bool:
        """Whether the holder of that name has certainly ended; False where that cannot be known."""
        path = self._file(name)
        if path is None or name == self.name:
            return False
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            # shared: two that look at once must not take one another for the holder
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def forget(self, name: str) -> None:
        """Remove the trace of a holder that has ended."""
        path = self._file(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def _file(self, name: str) -> Path | None:
        found = name.rpartition("/")[2]
        return self._folder / f"{found}.lock" if _ID.fullmatch(found) else None
