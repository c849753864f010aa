"""The compiled library as on a processor without AVX-512."""

from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.inference.worker.native import library


@contextmanager
def narrow_vectors() -> Iterator[None]:
    """Steps that begin meanwhile are computed with AVX2, but for products by tiles."""
    switch = library._loaded().engine_narrow_vectors
    switch(1)
    try:
        yield
    finally:
        switch(0)
