"""An adapter is removed whole, and not while clients are answered by it."""

import threading
from collections.abc import Sequence

import pytest

from tests.unit.models.numbered import put_adapter
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.models.aliases import Aliases, Kind
from tunesmith.models.registry import Registry
from tunesmith.models.removing import Removal
from tunesmith.models.versions import Versions


class World:
    """Adapters ``v1`` and ``v2``, and what removes them."""

    def __init__(self, home: Home, database: Database) -> None:
        for number in (1, 2):
            put_adapter(home, f"adapters/v{number}", bytes([number]))
        shelf = Registry(home)
        self.versions = Versions(database, shelf)
        self.aliases = Aliases(database, self.versions)
        self.registry = Registry(home, None, self.aliases.folder_named)
        self.served: Sequence[tuple[str, str | None]] = ()
        self.removal = Removal(database, self.registry, lambda: self.served)

    def point(self, number: int, expected: int = 0) -> None:
        self.aliases.move("prod", self.versions.get(f"v{number}@1"), expected=expected, kind=Kind.FORCED)


@pytest.fixture
def world(home: Home, database: Database) -> World:
    return World(home, database)


def test_an_adapter_is_kept_while_an_alias_points_at_it_and_the_remedies_are_told(world: World, home: Home) -> None:
    world.point(1)
    for name in ("adapters/v1", "v1", "v1@1", "prod"):
        with pytest.raises(Conflict, match=r"prod points at it.*rollback prod.*unalias prod") as refused:
            world.removal.remove(name)
        assert refused.value.details["aliases"] == ["prod"] and "unalias prod" in refused.value.zh
    assert (home.root / "adapters" / "v1" / "adapter_model.safetensors").exists()
    world.point(2, expected=1)
    assert world.removal.remove("v1").name == "adapters/v1"
    assert [adapter.name for adapter in world.registry.adapters()] == ["adapters/v2"]
    with pytest.raises(Conflict, match="gone"):
        world.aliases.roll_back("prod")
    world.aliases.remove("prod")
    world.removal.remove("v2")
    assert list((home.root / "adapters").iterdir()) == []
    with pytest.raises(NotFound):
        world.removal.remove("v2")


def test_an_adapter_is_kept_while_a_model_is_served_with_it(world: World) -> None:
    world.served = [("other", None), ("assistant", "adapters/v1")]
    with pytest.raises(Conflict, match=r"assistant is served with it.*/models/unload"):
        world.removal.remove("v1")
    world.served = [("assistant", "adapters/v10")]
    world.removal.remove("v1")


def test_an_adapter_is_kept_while_one_that_lies_in_its_folder_is_asked_for(world: World, home: Home) -> None:
    put_adapter(home, "adapters/v1/checkpoint-5", b"5")
    world.served = [("early", "adapters/v1/checkpoint-5")]
    with pytest.raises(Conflict, match="early is served"):
        world.removal.remove("v1")


def test_what_a_killed_removal_left_is_no_adapter_and_goes_with_the_next(world: World, home: Home) -> None:
    folder = home.root / "adapters"
    (folder / "v1").rename(folder / ".removed-0123456789ab-v1")
    assert [adapter.name for adapter in world.registry.adapters()] == ["adapters/v2"]
    world.removal.remove("v2")
    assert list(folder.iterdir()) == []


def test_an_alias_is_never_left_pointing_at_what_is_removed_at_the_same_moment(home: Home, database_url: str) -> None:
    database = Database(database_url)
    world = World(home, database)
    world.versions.take_in()
    for turn in range(6):
        start, done = threading.Barrier(2), []

        def both(work: str, start: threading.Barrier = start, done: list[str] = done) -> None:
            start.wait()
            try:
                world.removal.remove("v1") if work == "remove" else world.point(1)
            except (Conflict, NotFound):
                return
            done.append(work)

        threads = [threading.Thread(target=both, args=(work,)) for work in ("remove", "point")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 1, (turn, done)
        assert (world.aliases.find("prod") is None) == (done == ["remove"])
        if done == ["point"]:
            assert world.aliases.pointed("prod") is not None
            world.aliases.remove("prod")
        else:
            put_adapter(home, "adapters/v1", b"\x01")
    database.close()
