"""``python -m tunesmith.inference.guard PID COMMAND...``: run a command that must not outlive process PID.

It leads the group of everything the command starts. When PID is gone, or the command has ended, all of the group is
ended with it: an engine that is left over would hold its graphics card for ever.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil

_LOOK_EVERY_S = 0.5


def main() -> None:
    """Run the command and end as it does, whatever ends it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # the whole group is told at once; the command decides how it ends
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    code = child.wait()
    _end_the_rest()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _end_the_rest() -> None:
    for pid in psutil.pids():
        try:
            if pid != os.getpid() and os.getpgid(pid) == os.getpgrp():
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


if __name__ == "__main__":
    main()
