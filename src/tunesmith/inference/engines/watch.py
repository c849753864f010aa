"""How long one answer may keep us waiting, looked at by a timer and not at every piece.

A timeout object for each piece would double the cost of a stream; here a piece costs two readings of the clock.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    Attributes:
        first_s: from the request to the first token.
        idle_s: of silence between tokens. Time the reader takes is not counted.
        total_s: for the whole answer.
    """

    first_s: float = NEVER
    idle_s: float = NEVER
    total_s: float = NEVER


class Watch:
    """Calls ``late`` once, when the patience with an answer is at its end.

    Args:
        late: told which it was: "first token", "idle" or "total".
        started: when the answer was asked for, by the running loop's clock.
    """

    def __init__(self, patience: Patience, late: Callable[[str], None], started: float) -> None:
        self._patience, self._late, self._started = patience, late, started
        self._loop = asyncio.get_running_loop()
        self._heard = self._over = False
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        due = self._due()[0]
        if due != NEVER:
            # the first token may make it due earlier: one look then, as a rule after the end, spares another timer
            self._timer = self._loop.call_at(min(due, started + patience.idle_s), self._arm)

    @property
    def left_s(self) -> float:
        """Seconds until the patience ends, as things stand; less than nothing after that."""
        return self._due()[0] - self._loop.time()

    @property
    def which(self) -> str:
        """With what it ends, as things stand."""
        return self._due()[1]

    def waiting(self) -> None:
        """The reader waits for the upstream from now on."""
        self._waiting_since = self._loop.time()

    def came(self) -> None:
        """Something came; the reader is busy with it."""
        self._waiting_since = None

    def heard(self) -> None:
        """A token came, or the model is known to be thinking."""
        if not self._heard:
            self._heard = True
            if self._timer is None or self._due()[0] < self._timer.when():
                self._arm()

    def stop(self) -> None:
        """The answer is over."""
        self._over = True
        self._disarm()

    def _due(self) -> tuple[float, str]:
        """When the patience ends as things stand, and with what."""
        total = self._started + self._patience.total_s
        if not self._heard:
            due, which = self._started + self._patience.first_s, "first token"
        else:
            since = self._loop.time() if self._waiting_since is None else self._waiting_since
            due, which = since + self._patience.idle_s, "idle"
        return (total, "total") if total < due else (due, which)

    def _arm(self) -> None:
        self._disarm()
        due, which = self._due()
        if self._over or due == NEVER:
            return
        if due <= self._loop.time():
            self._over = True
            self._late(which)
        else:
            self._timer = self._loop.call_at(due, self._arm)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
