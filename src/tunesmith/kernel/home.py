"""The home folder, and names under it.

A path on any wire is a name under the home folder, never opened as given. A name is parsed first (no absolute paths,
no ``..``, no drive letters, no control characters) and opened beneath the home folder without following symbolic
links: by ``openat2`` on Linux, where no rename can race it, by a walk over the components elsewhere.
"""

import ctypes
import errno
import os
import re
import stat
import sys
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
# controls (C1 too), line separators, bidirectional overrides (they forge log lines), half characters
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))})


def parse_name(text: str, field: str) -> PurePosixPath:
    """``text`` as a name under home, e.g. ``data/train.json``.

    Args:
        field: what the caller calls it, for the message.

    Raises:
        Invalid: it is empty, absolute, climbs out, or holds characters no file name should.
    """

    def refuse(zh: str, en: str) -> Problem:
        return Invalid(f"{field} 无效：{zh}", f"{field} is not valid: {en}", field=field)

    if not text or len(text.encode("utf-8", "replace")) > 1024:
        raise refuse("应为 1 到 1024 字节的路径名", "a name of 1 to 1024 bytes is expected")
    if UNPRINTABLE.search(text) or "\\" in text or "%" in text:
        raise refuse("含有不允许的字符", "it holds characters that are not allowed")
    if text.startswith(("/", "~")) or (len(text) > 1 and text[1] == ":"):
        raise refuse(
            "应为主目录下的相对路径，而不是绝对路径", "a path below the home folder is expected, not an absolute one"
        )
    name = PurePosixPath(text)
    if not name.parts:
        raise refuse(
            "应为主目录下的路径，而不是主目录本身", "a path below the home folder is expected, not the folder itself"
        )
    for part in name.parts:
        if part == ".." or not part.strip(". \u2024\u2025\u2026\uff0e"):
            raise refuse("不能离开主目录", "it must not leave the home folder")
        if len(part.encode()) > 255 or part.split(".")[0].strip().lower() in _RESERVED or part != part.rstrip(". "):
            raise refuse(f"{part[:40]!r} 不能用作文件名", f"{part[:40]!r} cannot be a file name")
    return name


class Home:
    """The one folder Tunesmith reads and writes, made on first use with mode 0700."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = root.resolve()

    @property
    def runs(self) -> Path:
        """One folder a run: its recipe, log, metrics and checkpoints."""
        return self._folder("runs")

    @property
    def datasets(self) -> Path:
        """One folder a dataset kept by name: ``data/processed`` on every wire."""
        return self._folder("data", "processed")

    @property
    def uploads(self) -> Path:
        """Files as they were uploaded: ``data/raw`` on every wire."""
        return self._folder("data", "raw")

    @property
    def formatted(self) -> Path:
        """Datasets written in the format a training wants, one folder an owner: ``data/formatted`` on every wire."""
        return self._folder("data", "formatted")

    @property
    def adapters(self) -> Path:
        """Where adapters are published when the caller names no other place."""
        return self._folder("adapters")

    @property
    def evaluations(self) -> Path:
        """One file an evaluation."""
        return self._folder("evaluations")

    @property
    def engines(self) -> Path:
        """Private sockets and logs of engine processes."""
        return self._folder("engines")

    @property
    def secrets(self) -> Path:
        """Keys that nobody else may read, and that no name on a wire reaches."""
        return self._folder("secrets")

    @property
    def usage(self) -> Path:
        """Journals of which model was asked, until they are counted."""
        return self._folder("usage")

    def path(self, text: str, field: str) -> Path:
        """Where the name lies; it need not exist, but no existing part of it is a symbolic link.

        Raises:
            Invalid: not a name. Forbidden: a symbolic link is in the way.
        """
        path = self.root
        for part in parse_name(text, field).parts:
            path = path / part
            if path.is_symlink():
                raise _link(text, field)
        return path

    def name(self, path: Path) -> str:
        """The name of a path below home, as wires show it."""
        return path.relative_to(self.root).as_posix()

    def folder(self, text: str, field: str) -> Path:
        """The existing folder of that name.

        Raises:
            NotFound: there is none.
        """
        path = self.path(text, field)
        if not path.is_dir():
            raise _missing(text, field)
        return path

    def open(self, text: str, field: str) -> BinaryIO:
        """Open the regular file of that name for reading.

        Raises:
            Invalid: not a name, or not a regular file (a folder, device or pipe).
            NotFound: there is none.
            Forbidden: a symbolic link is in the way, or the file may not be read.
        """
        name = parse_name(text, field)
        try:
            descriptor = _open_beneath(self.root, name)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise _link(text, field) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise _missing(text, field) from error
            raise Forbidden(f"{field} 无法读取：{text}", f"{field} cannot be read: {text}", field=field) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Invalid(f"{field} 不是普通文件：{text}", f"{field} is not a regular file: {text}", field=field)
        return os.fdopen(descriptor, "rb")

    def _folder(self, *parts: str) -> Path:
        path = self.root
        for part in parts:
            path = path / part
            path.mkdir(exist_ok=True, mode=0o700)
        return path


def _link(text: str, field: str) -> Problem:
    return Forbidden(f"{field} 经过符号链接：{text}", f"{field} passes through a symbolic link: {text}", field=field)


def _missing(text: str, field: str) -> Problem:
    return NotFound(f"{field} 不存在：{text}", f"{field} does not exist: {text}", field=field)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_beneath(root: Path, name: PurePosixPath) -> int:
    """A descriptor of ``root/name``, reached without a symbolic link. O_NONBLOCK: a pipe must not hang us."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if sys.platform == "linux":
            descriptor = _openat2(folder, name, flags)
            if descriptor is not None:
                return descriptor
        for part in name.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name.parts[-1], flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _openat2(folder: int, name: PurePosixPath, flags: int) -> int | None:
    """openat2(2) beneath ``folder``; None where the kernel has no such call."""
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    result = int(syscall(_SYS_OPENAT2, folder, str(name).encode(), ctypes.byref(how), ctypes.sizeof(how)))
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EPERM):
        return None
    raise OSError(number, os.strerror(number))
