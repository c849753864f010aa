"""Child processes asked from asyncio: few at once, ended with whoever waits for them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
import structlog

from tunesmith.datasets.worker import tasks
from tunesmith.datasets.worker.crew import COMMAND
from tunesmith.datasets.worker.tasks import Done, Failed, Progress, Task, encode, problem_of, said_of
from tunesmith.kernel.problems import Unavailable

log = structlog.get_logger(__name__)
OnProgress = Callable[[Progress], None]
_LONGEST_LINE = 4 << 20
_MOST_TOLD = 8 << 10  # bytes of what a child that broke had to say
T = TypeVar("T")


class Worker(Protocol):
    """Does a task out of the way of this process."""

    async def perform(self, task: Task, answer: type[T], on_progress: OnProgress | None = None) -> T:
        """The answer to ``task``.

        Raises:
            Problem: the task failed with it. Unavailable: the worker ended without an answer.
        """
        ...


class Children:
    """A child process a task, ``most`` at once; more wait. Canceling who waits for one kills it first.

    Args:
        command: starts a child that speaks as ``worker.tasks`` says.
    """

    def __init__(self, most: int = 2, command: Sequence[str] = COMMAND) -> None:
        self._turns, self._command = asyncio.Semaphore(most), command

    async def perform(self, task: msgspec.Struct, answer: type[T], on_progress: OnProgress | None = None) -> T:
        """See Worker."""
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
            assert process.stderr
            complaint = asyncio.create_task(process.stderr.read())
            try:
                said = await _answer(process, task, on_progress)
            finally:
                # its own session, so its own group: its children go with it
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
                told = (await complaint)[-_MOST_TOLD:].decode(errors="replace")
        if isinstance(said, Failed):
            raise problem_of(said)
        if said is None:
            log.error("a datasets worker broke", exit=process.returncode, stderr=told)
            raise Unavailable(
                "处理数据的子进程意外退出，请重试；若再次发生，请查看服务器日志",
                "the process that reads the data ended unexpectedly; ask again, and look into the server's log",
            )
        return msgspec.json.decode(said.result, type=answer)


async def _answer(
    process: asyncio.subprocess.Process, task: msgspec.Struct, on_progress: OnProgress | None
) -> Done | Failed | None:
    """What the child said last; None when it ended without an answer."""
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(encode(task) + b"\n")  # left open: the child ends when it is closed
        await process.stdin.drain()
    async for line in process.stdout:
        said: tasks.Said = said_of(line)
        if not isinstance(said, Progress):
            return said
        if on_progress is not None:
            on_progress(said)
    return None
