"""What is seen of living trainers from one look to the next: signs of life, steps, and what the kernel counts.

Times are measured here, by a clock that nobody sets and that stands still while the machine sleeps: a file's age says
nothing after a clock was set or a laptop woke up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.training import run_folder
from tunesmith.training.memory_kills import MemoryKills
from tunesmith.training.run import Progress
from tunesmith.training.run_folder import TrainerProcess

_QUIET_S, _QUIET_STEPS = 60.0, 10  # no step for so long, and for so many steps' time: how long it takes is not known
_DYING_S = 10.0  # a process that the kernel kills for its memory is seen alive until it has given that back


@dataclass(slots=True)
class _Seen:
    """Something that changes while all is well.

    Attributes:
        since: when it was first seen to be so.
    """

    value: object
    since: float


class Watch:
    """Remembers what it saw of each run; a new one begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._signs: dict[str, _Seen] = {}
        self._steps: dict[str, _Seen] = {}
        self._kills: dict[str, list[tuple[float, MemoryKills]]] = {}

    def silent_s(self, run_id: str, folder: Path, process: TrainerProcess) -> float:
        """Seconds for which its trainer, seen alive each time, has shown no sign of life."""
        self._count_kills(run_id, process.memory_kills)
        sign = (process.pid, process.started, run_folder.last_sign(folder))
        return self._unchanged_s(self._signs, run_id, sign)

    def told(self, run_id: str, folder: Path) -> Progress:
        """What its trainer last told; without a speed and a time left when no step has come for very long."""
        progress = run_folder.read_progress(folder)
        quiet_s = self._unchanged_s(self._steps, run_id, progress.step)
        steps_left = progress.total_steps - progress.step
        if progress.seconds_left is None or steps_left <= 0:
            return progress
        if quiet_s < max(_QUIET_S, _QUIET_STEPS * progress.seconds_left / steps_left):
            return progress
        return replace(progress, tokens_per_second=None, seconds_left=None)

    def memory_kills(self, run_id: str) -> MemoryKills | None:
        """The kernel's count some seconds before the trainer was last seen alive; None when it never was."""
        counted = self._kills.get(run_id)
        return counted[0][1] if counted else None

    def _count_kills(self, run_id: str, counted_by: MemoryKills | None) -> None:
        """Keep two counts, so far apart that the older was made before the trainer began to die.

        Args:
            counted_by: the counter of the trainer's own control group, which need not be ours.
        """
        if counted_by is None:
            return
        counted, now = self._kills.setdefault(run_id, []), self._clock()
        if not counted or now - counted[-1][0] > _DYING_S:
            counted.append((now, counted_by.again()))
            del counted[:-2]

    def _unchanged_s(self, seen: dict[str, _Seen], run_id: str, value: object) -> float:
        now, before = self._clock(), seen.get(run_id)
        if before is None or before.value != value:
            seen[run_id] = _Seen(value, now)
            return 0.0
        return now - before.since
