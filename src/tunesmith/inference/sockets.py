"""Where the private sockets of engine processes lie."""

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

_LONGEST_SOCKET = 100  # bytes; the kernel allows 107 with its ending


def socket_folder(engines: Path) -> Path:
    """``engines``, or where its path is too long for a socket a short private folder that is always the same for it."""
    if len(os.fsencode(engines)) + 20 <= _LONGEST_SOCKET:
        return engines
    name = hashlib.sha256(os.fsencode(engines)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"tunesmith-{os.getuid()}-{name}"
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()
    # Everybody may write in the temporary folder: use what lies there only when it is ours and closed to others.
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return short
    return Path(tempfile.mkdtemp(prefix="tunesmith-"))


def remove_dead_sockets(folder: Path) -> None:
    """Remove sockets nobody listens on: their workers ended with the server that was killed."""
    for path in folder.glob("*.sock"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # busy, so somebody is there
