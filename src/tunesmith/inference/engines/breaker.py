"""Whether an upstream is worth asking: after several connections in a row failed, it is left alone for a while.

Fed by connections only. A model that answers badly, or one request that is refused, says nothing of the next one; five
unrelated bad answers must not shut a service.
"""

import time
from collections.abc import Callable

_FAILURES = 5
_COOL_S = 5.0


class Breaker:
    """Opens after ``failures`` failed connections in a row, then lets one caller in every ``cool_s`` seconds try."""

    def __init__(
        self, failures: int = _FAILURES, cool_s: float = _COOL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._cool_s, self._clock = failures, cool_s, clock
        self._failed = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Callers are being turned away, but for the one that tries."""
        return self._failed >= self._most

    def wait_s(self) -> float:
        """Seconds until the upstream may be asked again; 0 lets this caller ask.

        Who is let in while it is open tries for everybody: the others keep being turned away meanwhile.
        """
        if not self.open:
            return 0.0
        now = self._clock()
        if now < self._next_try:
            return self._next_try - now
        self._next_try = now + self._cool_s
        return 0.0

    def connected(self) -> None:
        """The upstream has answered, whatever it said."""
        self._failed = 0

    def failed(self) -> None:
        """No connection came about, or it was lost before a byte of an answer."""
        self._failed += 1
        self._next_try = self._clock() + self._cool_s
