"""Files that are whole or absent: write to a temporary name, fsync, rename."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.problems import Unavailable

PARTIAL = ".partial-"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it becomes ``path`` at the end, or is gone.

    After a crash at any point ``path`` is either as it was or complete.
    """
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` (anything msgspec encodes) as indented JSON, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


@contextmanager
def folder_published_whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; it becomes ``path`` at the end, or is gone.

    Raises:
        FileExistsError: ``path`` exists and is not an empty folder; nothing there is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        try:
            temporary.rename(path)  # replaces an empty folder, refuses any other
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise FileExistsError(f"{path} exists") from error
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free(folder: Path, needed: int) -> None:
    """Refuse work that would fill the disk.

    Raises:
        Unavailable: fewer than ``needed`` bytes are free where ``folder`` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unavailable(
            f"磁盘空间不足：需要 {needed / 1e6:.0f} MB，剩余 {free / 1e6:.0f} MB",
            f"not enough disk: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            needed_bytes=needed,
            free_bytes=free,
        )
