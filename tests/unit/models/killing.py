"""kill -9 between any two lines: the work is repeated, killed one line later each time."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def killed_before(line: int, files: Collection[str], work: Callable[[], object]) -> bool:
    """Do ``work`` in a fork that ends itself by SIGKILL before the ``line``-th line it comes to in ``files``.

    To be called in a process of one thread, with no database open.

    Returns:
        False where the work came to its end before that line.
    """
    child = os.fork()
    if child == 0:
        _work_until(line, files, work)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


def _work_until(line: int, files: Collection[str], work: Callable[[], object]) -> None:
    passed = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            if passed == line:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1
        return trace

    sys.settrace(trace)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
