"""The folder of a dataset: held by one writer at a time, measured, and told apart from what a crash left."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.datasets.dataset import MANIFEST, SPLIT_PREFIX, Manifest, whole_files
from tunesmith.kernel.files import PARTIAL
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound, Unavailable

_STALE_S = 3600.0  # a temporary folder nothing was written to for so long is nobody's any more


@contextmanager
def alone(folder: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder of a dataset: others who change it wait, in this process and in any other.

    Raises:
        NotFound: it was removed while we waited.
        Conflict: somebody else holds it, and we would not wait.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise missing(name) from None
    try:
        if not lock(descriptor, wait=wait):
            raise Conflict(f"数据集 {name} 正在被修改", f"the dataset {name} is being changed", name=name)
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise missing(name)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Take the lock of an open file or folder; it is given back when its process ends, however that ends.

    Returns:
        Whether it is ours now; always True after waiting.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a living process has locked the file or folder at ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room() -> Iterator[None]:
    """A full disk becomes a Problem."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("磁盘空间不足，数据集未保存", "the disk is full; nothing was kept") from None
        raise


def size_of(folder: Path, *, but: str | None = None) -> int:
    """Bytes of everything in ``folder`` but the manifest and the folder ``but``."""
    skipped = {folder / MANIFEST, *([folder / but] if but else [])}
    return sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and not {file, file.parent} & skipped
    )


def sweep_splits(folder: Path, manifest: Manifest) -> None:
    """Delete splits the manifest no longer names, finished or not; the caller holds the folder."""
    current = manifest.split.folder if manifest.split else None
    for other in folder.iterdir():
        ours = other.name.startswith((SPLIT_PREFIX, PARTIAL))
        if ours and other.name != current and other.is_dir() and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)


def is_stale(folder: Path) -> bool:
    """Whether nothing in ``folder`` was written to for an hour."""
    newest = max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
    return time.time() - newest > _STALE_S


def is_free(folder: Path) -> bool:
    """Whether a dataset may be published there: there is nothing, or an empty folder, which a rename replaces."""
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def lost_files(home: Home, manifest: Manifest) -> list[str]:
    """The files with the dataset's rows that are not there, by their names under home."""
    return [name for name in whole_files(manifest) if not (home.root / name).is_file()]


def absent(text: str) -> NotFound:
    """There is nothing of that id or name; it is quoted cut, and escaped unless every character of it is printable."""
    asked = (text if text.isprintable() else ascii(text))[:80]
    return NotFound(f"数据集不存在：{asked}", f"there is no dataset {asked}", field="dataset_id")


def taken(name: str, field: str = "name") -> Conflict:
    """The name belongs to a dataset, whoever owns it."""
    return Conflict(f"数据集 {name} 已存在", f"there is already a dataset {name}", field=field, name=name)


def missing(name: str) -> NotFound:
    """There is no such dataset, or none for this caller."""
    return NotFound(f"数据集不存在：{name}", f"there is no dataset {name}", field="name", name=name)
