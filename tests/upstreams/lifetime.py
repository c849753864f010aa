"""How an upstream process lives: it says when it is ready, and ends with whoever started it."""

import contextlib
import json
import os
import resource
import sys
import threading
from collections.abc import Mapping


def announce(facts: Mapping[str, object]) -> None:
    """Print one JSON line: ready, and where."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """End this process as soon as its stdin closes, which the death of its parent does as well."""
    threading.Thread(target=_wait_for_the_end, daemon=True, name="stdin").start()


def allow_many_connections() -> None:
    """Raise the limit of open files as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_for_the_end() -> None:
    # os.read, not sys.stdin: a thread inside a buffered read holds its lock while the interpreter ends
    while os.read(0, 4096):
        pass
    os._exit(0)
