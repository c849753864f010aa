"""Hits counted in memory, for ``limits``: the moving window, exact, for a bounded number of keys.

Of the two memory storages ``limits`` ships, the asynchronous one hops to a thread for every key at every hit, the other
wakes a thread every 10 ms to walk all keys and never forgets one; neither has a bound. Importing this imports
``limits`` (0.1 s): do it where a server starts.
"""

import random
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from limits.aio.storage import MemoryStorage

_SAMPLE = 8


@dataclass(slots=True)
class _Key:
    """What is remembered of one key."""

    name: str
    window: float  # seconds
    slot: int  # its place in the list that samples are drawn from
    hits: list[float] = field(default_factory=list)  # oldest first

    def weight(self, now: float) -> tuple[int, float]:
        """How much forgetting it would lose: hits still counted, then how fresh they are."""
        counted = len(self.hits) - bisect_right(self.hits, now - self.window)
        return counted, self.hits[-1] if counted else 0.0


class Windows(MemoryStorage):
    """The moving windows of at most ``most_keys`` keys.

    Nothing here waits, so on one event loop a hit is one step: parallel requests cannot share a place. Room is made as
    Redis does it (sampled eviction): of a few keys drawn by chance those whose window has passed are forgotten, and
    when there is no room left the one with the fewest hits. A flood of new keys drops its own, never a busy one.

    Args:
        clock: seconds that never go back, so that a change of the time of day changes no window.
    """

    def __init__(self, most_keys: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._clock = most_keys, clock
        self._keys: dict[str, _Key] = {}
        self._order: list[_Key] = []

    def __len__(self) -> int:
        return len(self._keys)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` hits unless that would be more than ``limit`` in ``expiry`` seconds."""
        now = self._clock()
        known = self._keys.get(key) or self._new(key, expiry, now)
        del known.hits[: bisect_right(known.hits, now - expiry)]
        if len(known.hits) + amount > limit:
            return False
        known.hits += [now] * amount
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest hit still counted was (now if there is none), and how many are counted."""
        now = self._clock()
        known = self._keys.get(key)
        first = bisect_right(known.hits, now - expiry) if known else 0
        if known is None or first == len(known.hits):
            return now, 0
        return known.hits[first], len(known.hits) - first

    def _new(self, name: str, window: float, now: float) -> _Key:
        drawn = [random.choice(self._order) for _ in range(_SAMPLE)] if self._order else []
        for each in drawn:
            if each.name in self._keys and not each.weight(now)[0]:
                self._forget(each)
        if len(self._keys) >= self._most:
            self._forget(min(drawn, key=lambda each: each.weight(now)))
        made = _Key(name, window, len(self._order))
        self._keys[name] = made
        self._order.append(made)
        return made

    def _forget(self, key: _Key) -> None:
        del self._keys[key.name]
        last = self._order.pop()
        if last is not key:
            self._order[key.slot] = last
            last.slot = key.slot
