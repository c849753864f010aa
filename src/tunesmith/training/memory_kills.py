"""How often the kernel has killed for want of memory: what tells such a death from any other by the same signal."""

from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_WHOLE_SYSTEM = Path("/proc/vmstat")


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """A counter of the kernel's, as it stood at one moment.

    Attributes:
        counter: the file that has it.
    """

    counter: str
    count: int

    def again(self) -> "MemoryKills":
        """The same counter as it stands now."""
        now = _read(Path(self.counter))
        return self if now is None else MemoryKills(self.counter, now)

    def since(self) -> int:
        """How many processes were killed since then; 0 where that is not known."""
        now = _read(Path(self.counter))
        return 0 if now is None else max(0, now - self.count)


def now() -> MemoryKills | None:
    """The counter of this process's control group, or the whole system's where it is in none; None without Linux."""
    for path in _candidates():
        count = _read(path)
        if count is not None:
            return MemoryKills(str(path), count)
    return None


def _candidates() -> list[Path]:
    try:
        memberships = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in memberships:
        number, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, file = _CGROUPS / "memory", "memory.oom_control"
        elif number == "0":
            root, file = _CGROUPS, "memory.events"
        else:
            continue
        # in a container the group may be named as the host sees it, and be the root here
        found += [root / group.lstrip("/") / file, root / file]
    return [*found, _WHOLE_SYSTEM]


def _read(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return None
