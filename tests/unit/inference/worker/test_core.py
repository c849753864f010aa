"""The thread that steps: it hears of everything that waits for it before the next step."""

from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.core import Core
from tunesmith.inference.worker.row import Row


def test_rows_are_taken_in_together_whatever_wake_ups_lie_between_them() -> None:
    core: Any = Core.__new__(Core)
    taken: list[Row] = []
    core._inbox, core._closing = SimpleQueue(), False
    core.scheduler = SimpleNamespace(idle=True, retained=False, add=taken.append)
    rows = [Row([1], Sampling(1, 0.0, 1.0, 0, 1.0)) for _ in range(5)]
    for row in rows:  # as when answers end and new questions come at once
        core._inbox.put(None)
        core._inbox.put(row)
    core._take_in()
    assert taken == rows
