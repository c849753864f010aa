"""Adapters get names and numbers, and keep them."""

import shutil
import threading
from pathlib import Path

import pytest

from tests.unit.models.numbered import RUN, put_adapter
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.models.registry import Registry
from tunesmith.models.versions import Versions, name_of


@pytest.fixture
def versions(home: Home, database: Database) -> Versions:
    return Versions(database, Registry(home))


def refs(versions: Versions, name: str | None = None) -> list[tuple[str, str]]:
    return [(each.ref, each.adapter) for each in versions.list(name)]


@pytest.mark.parametrize(
    "adapter, run, name",
    [
        ("adapters/town-1a2b3c4d", RUN, "town"),
        ("adapters/town-1a2b3c4d", None, "town-1a2b3c4d"),  # a date or a word of that form is part of the name
        ("adapters/town-20240101", RUN, "town-20240101"),
        ("adapters/小镇", None, "小镇"),
        ("adapters/amy/town", None, "amy/town"),
        ("models/checkpoints/task1/final", None, "models/checkpoints/task1"),
        ("town", None, "town"),
        ("adapters/-1a2b3c4d", RUN, "-1a2b3c4d"),
        ("adapters/a@2", None, "a-2"),
    ],
)
def test_a_version_is_called_after_its_folder_without_its_run(adapter: str, run: str | None, name: str) -> None:
    assert name_of(adapter, run) == name


def test_runs_on_one_dataset_are_numbered_in_the_order_they_were_made(home: Home, versions: Versions) -> None:
    put_adapter(home, "adapters/town-1a2b3c4d", b"1", run=RUN)
    put_adapter(home, "adapters/town-5e6f7a8b", b"2", run="5e6f7a8b" + "0" * 24)
    put_adapter(home, "adapters/city", b"3")
    assert refs(versions) == [
        ("city@1", "adapters/city"),
        ("town@2", "adapters/town-5e6f7a8b"),
        ("town@1", "adapters/town-1a2b3c4d"),
    ]
    put_adapter(home, "adapters/town", b"4")
    assert refs(versions, "adapters/town")[0] == ("town@3", "adapters/town")


def test_a_number_is_found_without_having_been_listed_before(home: Home, versions: Versions) -> None:
    put_adapter(home, "adapters/town")
    found = versions.get("adapters/town@1")
    assert (found.ref, found.base) == ("town@1", "tunesmith-small")
    for text in ("town@2", "town@0", "town@01", "town@x", "town", "@1", "to\nwn@1", "town@1\n", "\ud800@1"):
        with pytest.raises(NotFound):
            versions.get(text)


def test_a_folder_whose_files_are_replaced_is_another_version_and_the_old_one_is_refused(
    home: Home, versions: Versions
) -> None:
    put_adapter(home, "adapters/town", b"old")
    [first] = versions.list()
    put_adapter(home, "adapters/town", b"new")
    assert [each.ref for each in versions.list()] == ["town@2", "town@1"]
    with pytest.raises(Conflict, match="replaced"):
        versions.usable(first)
    assert versions.usable(versions.get("town@2")).name == "adapters/town"
    put_adapter(home, "adapters/town", b"old")
    assert versions.usable(first).name == "adapters/town" and len(versions.list()) == 2


def test_another_config_over_the_same_weights_is_another_version(home: Home, versions: Versions) -> None:
    folder = put_adapter(home, "adapters/town")
    versions.take_in()
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 16'))
    assert [each.ref for each in versions.list()] == ["town@2", "town@1"]


def test_a_restored_backup_is_the_version_it_was(home: Home, versions: Versions, tmp_path: Path) -> None:
    folder = put_adapter(home, "adapters/town")
    [version] = versions.list()
    shutil.copytree(folder, tmp_path / "backup")
    shutil.rmtree(folder)
    with pytest.raises(Conflict, match="gone"):
        versions.usable(version)
    assert not versions.lies(version)
    shutil.copytree(tmp_path / "backup", folder)
    assert versions.usable(version).name == "adapters/town"
    assert [each.ref for each in versions.list()] == ["town@1"] and versions.lies(versions.get("town@1"))


def test_the_number_of_a_deleted_adapter_is_never_given_again(home: Home, versions: Versions) -> None:
    folder = put_adapter(home, "adapters/town")
    versions.take_in()
    shutil.rmtree(folder)
    put_adapter(home, "adapters/town", b"another")
    assert [each.ref for each in versions.list()] == ["town@2", "town@1"]


def test_an_adapter_elsewhere_that_ends_alike_does_not_stand_in(home: Home, versions: Versions) -> None:
    folder = put_adapter(home, "town")
    [version] = versions.list()
    shutil.rmtree(folder)
    put_adapter(home, "adapters/town")
    with pytest.raises(Conflict, match="gone"):
        versions.usable(version)


def test_many_who_number_at_once_give_each_adapter_one_number(home: Home, database_url: str) -> None:
    database = Database(database_url)
    for number in range(6):
        put_adapter(home, f"adapters/town-{number:08x}", bytes([number]), run=f"{number:08x}" + "0" * 24)
    everybody = [Versions(database, Registry(home)) for _ in range(4)]
    start = threading.Barrier(len(everybody))

    def take_in(versions: Versions) -> None:
        start.wait()
        versions.take_in()

    threads = [threading.Thread(target=take_in, args=(each,)) for each in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everybody[0].list("town")
    assert [each.number for each in found] == [6, 5, 4, 3, 2, 1] and len({each.adapter for each in found}) == 6
    database.close()
