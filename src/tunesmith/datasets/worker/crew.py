"""Several children of a child, each at a task of its own."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import msgspec

from tunesmith.datasets.worker.spans import CROWD
from tunesmith.datasets.worker.tasks import Done, Failed, Progress, Read, Report, encode, problem_of, said_of

T = TypeVar("T")
COMMAND = (sys.executable, "-P", "-m", "tunesmith.datasets.worker")


def perform(do: Callable[[T, Report], Read], tasks: Sequence[T], report: Report) -> list[Read]:
    """The answers to ``tasks``, in their order: one alone is done here by ``do``, more in children, CROWD at once.

    Raises:
        Problem: of the first task that failed; the others are ended.
    """
    if len(tasks) == 1:
        return [do(tasks[0], report)]
    total = Total(len(tasks), report)
    crew = Crew()
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [pool.submit(crew.ask, task, total.of(number)) for number, task in enumerate(tasks)]
        try:
            wait(answers, return_when=FIRST_EXCEPTION)
        finally:
            failed = [answer for answer in answers if answer.done() and answer.exception()]
            if failed:
                pool.shutdown(wait=False, cancel_futures=True)
                crew.end()
        return [answer.result() for answer in (failed or answers)]


class Total:
    """The progress of several tasks as one."""

    def __init__(self, tasks: int, report: Report) -> None:
        self._parts: list[Progress | None] = [None] * tasks
        self._report, self._lock = report, threading.Lock()

    def of(self, number: int) -> Report:
        """Where the task of that number reports."""

        def report(progress: Progress) -> None:
            with self._lock:
                self._parts[number] = progress
                parts = [part for part in self._parts if part]
                self._report(
                    Progress(
                        progress.phase,
                        sum(part.bytes for part in parts),
                        sum(part.total for part in parts),
                        sum(part.rows for part in parts),
                    )
                )

        return report


class Crew:
    """Children that can be ended together; they also end when this process does."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended = False
        self._lock = threading.Lock()

    def ask(self, task: Any, report: Report) -> Read:
        """Have a child do the task; waits.

        Raises:
            Problem: it failed with one. RuntimeError: it ended without an answer.
        """
        with self._lock:
            if self._ended:
                raise RuntimeError("ended")
            process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._processes.append(process)
        with process:  # leaving closes its standard input, which ends it
            assert process.stdin and process.stdout
            process.stdin.write(encode(task) + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                said = said_of(line)
                if isinstance(said, Done):
                    return msgspec.json.decode(said.result, type=Read)
                if isinstance(said, Failed):
                    raise problem_of(said)
                report(said)
        raise RuntimeError(f"a worker ended without an answer (exit {process.returncode})")

    def end(self) -> None:
        """End every child now, and start no more."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()
