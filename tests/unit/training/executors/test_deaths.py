"""Every end of a trainer has its true name, in both languages, and no other."""

import errno
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.training import failures, run_folder
from tunesmith.training.executors.deaths import cause
from tunesmith.training.run_folder import Silent


@pytest.mark.parametrize(
    ("status", "killed_for_memory", "silent", "zh", "en"),
    [
        (-9, 1, None, "系统内存耗尽", "the system ran out of memory and killed the trainer"),
        (None, 2, None, "系统内存耗尽", "the system ran out of memory and killed the trainer"),
        (-9, 0, None, "信号 9（SIGKILL）", "signal 9 (SIGKILL): the system ran out of memory, or somebody did it"),
        (-11, 1, None, "信号 11（SIGSEGV）终止", "killed by signal 11 (SIGSEGV)"),
        (3, 1, None, "状态码 3", "with status 3"),
        (None, 0, None, "未留下原因", "gone without a word"),
        (run_folder.NO_ROOM, 0, None, "磁盘已满", "the disk is full"),
        (-9, 0, Silent(720.0), "12 分钟没有任何动静", "no sign of life for 12 minutes"),
    ],
)
def test_the_cause_says_what_is_known(
    status: int | None, killed_for_memory: int, silent: Silent | None, zh: str, en: str
) -> None:
    said = cause(status, killed_for_memory, silent)
    assert zh in said[0] and en in said[1]
    if silent is None and not (killed_for_memory and status in (None, -signal.SIGKILL)):
        assert "killed the trainer" not in said[1]


def allocated_too_much() -> Exception:
    import torch

    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 46)
    return refused.value


def written_to_a_full_disk() -> Exception:
    with pytest.raises(OSError) as refused, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    return refused.value


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (allocated_too_much, ("内存", "out of memory")),
        (MemoryError(), ("内存", "out of memory")),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ("内存", "out of memory")),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ("显存", "out of memory")),
        (written_to_a_full_disk, ("磁盘已满", "disk is full")),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ("磁盘已满", "disk is full")),
        # safetensors' own exception has no number
        (ValueError("I/O error: No space left on device (os error 28)"), ("磁盘已满", "disk is full")),
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_what_a_trainer_lacked_is_named(error: Exception | Callable[[], Exception], words: tuple[str, str]) -> None:
    said = failures.named(error if isinstance(error, Exception) else error())
    assert said is not None and words[0] in said[0] and words[1] in said[1]


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.EACCES, "Permission denied"), RuntimeError("")])
def test_what_has_no_name_gets_none(error: Exception) -> None:
    assert failures.named(error) is None and not failures.no_room(error)
