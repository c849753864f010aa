"""Keys kept in files: random bytes that whoever asks first makes, that nobody else may read, and that stay."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from tunesmith.kernel.files import PARTIAL, sync
from tunesmith.kernel.problems import Problem

KEY_BYTES = 32
_MAX_KEY_FILE = 4096  # bytes

# of what is wrong with the file, in Chinese and in English, the problem to raise
Unfit = Callable[[str, str], Problem]


def kept_key(path: Path, unfit: Unfit) -> bytes:
    """The key in that file, at least 32 bytes; made where there is no file yet.

    Args:
        path: in a folder where nobody else may write.

    Raises:
        Problem: what ``unfit`` makes, as ``read_key``.
    """
    try:
        return read_key(path, unfit)
    except FileNotFoundError:
        _make_key(path)
        return read_key(path, unfit)  # another process may have been first


def read_key(path: Path, unfit: Unfit) -> bytes:
    """The key in that file, at least 32 bytes.

    Raises:
        FileNotFoundError: there is no file.
        Problem: what ``unfit`` makes: the file is shorter, a link or no file at all, or others may read it.
    """
    try:
        # O_NONBLOCK: a pipe must not hang the start
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unfit(f"无法打开（{error.strerror}）", f"it cannot be opened ({error.strerror})") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise unfit("不是普通文件", "it is not a regular file")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise unfit(f"其他用户可以访问，请执行 chmod 600 {path}", f"others may read it: chmod 600 {path}")
        key = os.read(descriptor, _MAX_KEY_FILE)
    finally:
        os.close(descriptor)
    if len(key) < KEY_BYTES:
        raise unfit(f"短于 {KEY_BYTES} 字节", f"it is shorter than {KEY_BYTES} bytes")
    return key


def _make_key(path: Path) -> None:
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, never replaces what another process has put there
        except FileExistsError:
            return
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
