"""What this machine has left for a run: memory, with any limit of a control group, and disk."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Room:
    """Free for a run now.

    Attributes:
        device: "cpu", or the GPU that trains ("cuda:0").
        memory_bytes: of that device.
        disk_bytes: where the home folder lies.
    """

    device: str
    memory_bytes: int
    disk_bytes: int


def room(home: Path) -> Room:
    """What the CPU and the disk of ``home`` have left."""
    return Room("cpu", free_memory(), shutil.disk_usage(home).free)


def free_memory(cgroups: Path = _CGROUPS, process: Path = _PROCESS) -> int:
    """Bytes of memory that can be had without swapping, here and in every control group this process is in."""
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups(cgroups, process)]))


def peak_memory() -> int:
    """The most bytes this process has held at once: resident memory, or the GPU's where it used one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resident("VmHWM")


def resident(name: str) -> int:
    """Bytes the kernel gives under ``name`` (VmHWM, RssAnon); elsewhere than on Linux the most ever resident."""
    try:
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def forget_peak() -> None:
    """Begin to count ``peak_memory`` anew; where the kernel cannot, the old peak stays."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        descriptor = os.open(_PROCESS / "clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, b"5")
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _left_in_groups(cgroups: Path, process: Path) -> Iterator[int]:
    """What each control group that has a limit leaves; pages of files are the kernel's to give back."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        old = controllers == "memory"
        top = cgroups / "memory" if old else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        group = top / path.lstrip("/")
        # a container sees its own group at the top, under the path that the host calls it by
        for folder in dict.fromkeys([group, *group.parents, top]):
            if folder != top and top not in folder.parents:
                continue
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                yield limit - used + _reclaimable(folder / "memory.stat")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _reclaimable(path: Path) -> int:
    try:
        facts = dict(line.split() for line in path.read_text().splitlines())
        return int(facts.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
