"""Fixtures for every folder of tests."""

import gc
from collections.abc import Generator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.postgres import database_url, postgres, postgres_template

__all__ = ["database_url", "postgres", "postgres_template"]

# these share a server, and a browser, which every process would start for itself
_TOGETHER = ("tests/attacks/", "tests/page/")
_APART = ("tests/page/test_newcomer.py",)  # has servers of its own, and takes longest


class _ByFile(LoadFileScheduling):
    """One process for the tests of a file, and for those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((folder for folder in _TOGETHER if file.startswith(folder) and file not in _APART), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: looking through all of them for garbage, again and again, is a waste."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
