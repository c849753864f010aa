"""Fixtures for every folder of tests."""

import gc
from collections.abc import Generator

import pytest

from tests.postgres import database_url, postgres, postgres_template

__all__ = ["database_url", "postgres", "postgres_template"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: looking through all of them for garbage, again and again, is a waste."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
