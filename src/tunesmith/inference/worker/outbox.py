"""What rows report, on its way from the thread that steps to the event loop. Nothing here needs torch.

Handing over a piece of a row's text wakes two processes and their client, which for a small model takes longer than
computing it. So a row's first words, its end and its failure leave at once, and what it says in between some thirty
times a second, all rows together. A model whose steps take longer than that is handed over step by step.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from tunesmith.inference.worker.events import RowEvent, Text

PACE_S = 0.03


class Speaker(Protocol):
    """A row, as far as it reports.

    Attributes:
        heard: its first words have left.
    """

    heard: bool

    def __hash__(self) -> int: ...


R = TypeVar("R", bound=Speaker)


class Outbox(Generic[R]):
    """Between one thread that puts and one event loop that hands out.

    Args:
        loop: where ``hand_out`` is called.
        hand_out: what some rows have reported since their last, each row's in order.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, hand_out: Callable[[Mapping[R, Sequence[RowEvent]]], None]
    ) -> None:
        self._loop, self._hand_out = loop, hand_out
        self._lock = threading.Lock()
        self._new: list[
            Sequence[tuple[R, RowEvent]]
        ] = []  # of some steps; sorted by the loop, while the next one computes
        self._held: dict[R, list[RowEvent]] = {}  # the loop's
        self._ticking = False

    def put(self, events: Sequence[tuple[R, RowEvent]]) -> None:
        """What one step had rows report; from the thread that steps."""
        urgent = {row for row, event in events if not row.heard or type(event) is not Text}
        for row in urgent:
            row.heard = True
        with self._lock:
            self._new.append(events)
            begins = not self._ticking and not all(row in urgent for row, _ in events)
            self._ticking = self._ticking or begins
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to read
            if urgent:
                self._loop.call_soon_threadsafe(self._send, urgent)
            if begins:
                self._loop.call_soon_threadsafe(self._tick)

    def _send(self, rows: Iterable[R]) -> None:
        # What is sent is taken here and not in the other thread: a tick that was due already would come before it with
        # what the row said afterwards.
        with self._lock:
            new, self._new = self._new, []
        self._sort(new)
        said = {row: self._held.pop(row) for row in rows if row in self._held}
        if said:
            self._hand_out(said)

    def _tick(self) -> None:
        with self._lock:
            new, self._new = self._new, []
            self._ticking = bool(new or self._held)
        self._sort(new)
        held, self._held = self._held, {}
        if held:
            self._loop.call_later(PACE_S, self._tick)
            self._hand_out(held)

    def _sort(self, new: Iterable[Sequence[tuple[R, RowEvent]]]) -> None:
        held = self._held
        for events in new:
            for row, event in events:
                said = held.get(row)
                if said is None:
                    held[row] = [event]
                else:
                    said.append(event)
