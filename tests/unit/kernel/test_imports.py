"""The collector of garbage while libraries are imported."""

import gc

import pytest

from tunesmith.kernel.imports import importing


def test_nothing_is_collected_while_libraries_are_imported_and_everything_afterwards() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        import tunesmith.nothing_of_the_kind  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
