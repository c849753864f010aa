"""A trainer kept ready beside a server, so that a run need not wait for libraries to be imported.

It holds some 350 MB and does nothing. It ends with whoever keeps it, however that ends: the socket between them closes.
A run gets it as it would get a new process: with its lock and its log, and found again by what it writes.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from tunesmith.settings import Settings
from tunesmith.training.plan.room import free_memory
from tunesmith.training.surroundings import environment

_FREE = 4 << 30  # bytes that must be free beside it
_LOOK_S = 10.0  # the first look comes so late, too: a server that is about to end needs none
_AGAIN_S = 600.0  # after one died while it waited: something ends it, memory perhaps
_log = structlog.get_logger(__name__)


class Standby:
    """Keeps one trainer that waits, or none; may be asked from several threads.

    Args:
        free: bytes of memory that are free now.
        module: what waits.
    """

    def __init__(
        self,
        settings: Settings,
        free: Callable[[], int] = free_memory,
        module: str = "tunesmith.training.waiting",
    ) -> None:
        self._settings, self._free, self._module = settings, free, module
        self._wanted = settings.warm_trainer and settings.trainer_processes == 1
        self._guard = threading.Lock()
        self._waiting: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._not_before = 0.0

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The one that waits, or is about to."""
        return self._waiting[0] if self._waiting else None

    async def forever(self, idle: Callable[[], bool]) -> None:
        """Keep one whenever ``idle`` says that nothing trains, until canceled; then it is ended."""
        try:
            while self._wanted:
                await asyncio.sleep(_LOOK_S)
                try:
                    if await asyncio.to_thread(idle):
                        await asyncio.to_thread(self.keep)
                except Exception:
                    _log.exception("no_trainer_kept")
        finally:
            self.end()

    def keep(self) -> None:
        """Start one where there is none, and room for it."""
        with self._guard:
            if self._waiting is not None and self._waiting[0].poll() is not None:
                _log.warning("waiting_trainer_ended", status=self._waiting[0].returncode)
                self._not_before = time.monotonic() + _AGAIN_S
                self._forget()
            if self._waiting is not None and self._free() < _FREE // 2:
                self._forget()
            if not self._wanted or self._waiting or time.monotonic() < self._not_before or self._free() < _FREE:
                return
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._module],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=environment(self._settings),
                    start_new_session=True,  # as every trainer: it is to outlive the server
                )
            self._waiting = process, ours

    def take(self, folder: Path, lock: int, log: int) -> "subprocess.Popen[bytes] | None":
        """Give the run in ``folder`` to the one that waits, and never to another; None where none does.

        Args:
            lock: descriptor that holds the run's lock. log: of the file it is to print to.
        """
        with self._guard:
            if self._waiting is None:
                return None
            process, ours = self._waiting
            self._waiting = None
            with ours:
                try:
                    if process.poll() is None:
                        socket.send_fds(ours, [os.fsencode(folder)], [lock, log])
                        return process
                except OSError as error:
                    _log.warning("waiting_trainer_not_reached", reason=str(error))
            _end(process)
            return None

    def end(self) -> None:
        """End the one that waits; a trainer that was given a run trains on."""
        with self._guard:
            self._wanted = False
            self._forget()

    def _forget(self) -> None:
        if self._waiting is not None:
            process, ours = self._waiting
            self._waiting = None
            ours.close()
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """It has been given nothing, so nothing is lost."""
    process.kill()
    process.wait()
