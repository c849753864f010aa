"""Importing large libraries."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries in here: the collector of garbage rests meanwhile.

    Modules are no garbage, and looking through what they are made of, again and again as it grows, takes a tenth of the
    time that torch and transformers need (docs/performance.md).
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
