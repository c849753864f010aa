"""``python -m tunesmith.datasets.worker``: one task from standard input, its answer on standard output."""

import errno
import gc
import os
import sys
import threading

import msgspec

from tunesmith.datasets.worker import tasks
from tunesmith.datasets.worker.converting import convert
from tunesmith.datasets.worker.counting import count, count_span
from tunesmith.datasets.worker.processing import process
from tunesmith.datasets.worker.tables import tabulate
from tunesmith.datasets.worker.tasks import Convert, Count, CountSpan, Process, Processed, Progress, Read, Report, Task
from tunesmith.kernel.problems import Problem, Unavailable


def main() -> None:
    """Read the task, do it, answer."""
    task = tasks.task_of(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    gc.disable()  # rows hold no cycles, and looking for them costs a fifth of the time
    try:
        answer: tasks.Said = tasks.Done(msgspec.Raw(tasks.encode(perform(task, _say))))
    except Problem as problem:
        answer = tasks.failed(problem)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        answer = tasks.failed(Unavailable("磁盘空间不足，数据集未保存", "the disk is full; nothing was kept"))
    _say(answer)


def perform(task: Task, report: Report) -> Read | Processed:
    """The answer to ``task``.

    Raises:
        Problem: it failed.
    """
    if isinstance(task, Count):
        return count(task, report)
    if isinstance(task, CountSpan):
        return count_span(task, report)
    if isinstance(task, Process):
        return process(task, report)
    if isinstance(task, Convert):
        return convert(task, report)
    return tabulate(task, report)


def _say(what: tasks.Said | Progress) -> None:
    os.write(1, tasks.encode(what) + b"\n")


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
