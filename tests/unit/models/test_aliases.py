"""Aliases point at one version, move whole or not at all, and go back."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.unit.models.conftest import Clock
from tests.unit.models.numbered import put_adapter
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound
from tunesmith.models.aliases import Alias, Aliases, Kind
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.models.versions import Versions

AMY, BOB = Caller("amy"), Caller("bob")


@pytest.fixture
def versions(home: Home, database: Database) -> Versions:
    for number in (1, 2, 3):
        put_adapter(home, f"adapters/v{number}", bytes([number]))
    return Versions(database, Registry(home))


@pytest.fixture
def aliases(database: Database, versions: Versions, clock: Clock) -> Aliases:
    return Aliases(database, versions, taken=lambda name: name in (SHIPPED, "v1"), clock=clock)


@pytest.fixture
def point(aliases: Aliases, versions: Versions) -> Callable[..., Alias]:
    """Point ``prod`` at a version by its number."""

    def move(number: int, caller: Caller = LOCAL, kind: Kind = Kind.PROMOTED, alias: str = "prod") -> Alias:
        known = aliases.find(alias)
        serial = known.serial if known else 0
        return aliases.move(
            alias, versions.get(f"v{number}@1"), expected=serial, kind=kind, report={"n": number}, caller=caller
        )

    return move


def test_an_alias_points_at_one_version_and_keeps_every_move(
    aliases: Aliases, point: Callable[..., Alias], clock: Clock
) -> None:
    point(1, AMY)
    clock.pass_(60)
    moved = point(2, AMY, Kind.FORCED)
    assert (moved.version.ref, moved.serial, moved.owner) == ("v2@1", 2, "amy")
    assert [each.name for each in aliases.list()] == ["prod"] and aliases.list() == [moved]
    newest, first = aliases.history("prod")
    assert (newest.ref, newest.kind, newest.by, newest.report) == ("v2@1", Kind.FORCED, "amy", {"n": 2})
    assert (first.ref, (newest.at - first.at).total_seconds()) == ("v1@1", 60)


def test_rolling_back_goes_back_move_by_move_and_a_new_move_starts_from_there(
    aliases: Aliases, point: Callable[..., Alias]
) -> None:
    for number in (1, 2, 3):
        point(number)
    assert [aliases.roll_back("prod").version.ref for _ in range(2)] == ["v2@1", "v1@1"]
    with pytest.raises(Conflict, match="nothing before"):
        aliases.roll_back("prod")
    point(3)
    assert aliases.roll_back("prod").version.ref == "v1@1"
    kinds = [move.kind for move in aliases.history("prod")]
    assert kinds == [Kind.ROLLED_BACK, Kind.PROMOTED, *[Kind.ROLLED_BACK] * 2, *[Kind.PROMOTED] * 3]


def test_an_alias_is_not_rolled_back_to_what_is_gone(home: Home, aliases: Aliases, point: Callable[..., Alias]) -> None:
    point(1)
    point(2)
    (home.root / "adapters" / "v1" / "adapter_model.safetensors").unlink()
    with pytest.raises(Conflict, match=r"v1@1.*gone"):
        aliases.roll_back("prod")
    assert aliases.get("prod").version.ref == "v2@1"


def test_of_two_who_decided_on_the_same_state_one_is_told_and_nothing_is_lost(home: Home, database_url: str) -> None:
    for number in (1, 2, 3):
        put_adapter(home, f"adapters/v{number}", bytes([number]))
    database = Database(database_url)
    versions = Versions(database, Registry(home))
    aliases = Aliases(database, versions)
    aliases.move("prod", versions.get("v1@1"), expected=0, kind=Kind.PROMOTED)
    start, told = threading.Barrier(8), []

    def move(number: int) -> None:
        mine = Aliases(database, versions)
        start.wait()
        try:
            mine.move("prod", versions.get(f"v{2 + number % 2}@1"), expected=1, kind=Kind.PROMOTED)
            told.append("moved")
        except Conflict as problem:
            assert "meanwhile" in problem.en
            told.append("refused")

    threads = [threading.Thread(target=move, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["moved"] + ["refused"] * 7
    assert [each.serial for each in aliases.history("prod")] == [2, 1]
    assert aliases.get("prod").version.ref == aliases.list()[0].version.ref != "v1@1"
    database.close()


def test_only_the_owner_and_admins_move_an_alias(aliases: Aliases, point: Callable[..., Alias]) -> None:
    point(1, AMY)
    with pytest.raises(Forbidden):
        point(2, BOB)
    with pytest.raises(Forbidden):
        aliases.roll_back("prod", BOB)
    point(2, AMY)
    assert aliases.roll_back("prod", Caller("root", admin=True)).version.ref == "v1@1"
    assert aliases.get("prod").owner == "amy"
    point(2, BOB, alias="bobs")


def test_a_removed_alias_points_nowhere_and_one_made_after_it_begins_anew(database_url: str, home: Home) -> None:
    for number in (1, 2):
        put_adapter(home, f"adapters/v{number}", bytes([number]))
    database = Database(database_url)
    versions = Versions(database, Registry(home))
    aliases = Aliases(database, versions, served=lambda name: name == "served")
    first, second = versions.get("v1@1"), versions.get("v2@1")
    for name in ("prod", "served", "stage"):
        aliases.move(name, first, expected=0, kind=Kind.PROMOTED, caller=AMY)
    aliases.move("prod", second, expected=1, kind=Kind.PROMOTED, caller=AMY)
    with pytest.raises(Forbidden, match="removes"):
        aliases.remove("prod", BOB)
    with pytest.raises(Conflict, match="switch to another"):
        aliases.remove("served", AMY)
    assert aliases.remove("prod", AMY).version == second
    assert [each.name for each in aliases.list()] == ["served", "stage"]
    assert aliases.find("prod") is None and aliases.pointed("prod") is None
    for asked in (aliases.get, aliases.remove, aliases.history, aliases.roll_back):
        with pytest.raises(NotFound, match="there is no alias prod"):
            asked("prod")
    with pytest.raises(Conflict, match="removed meanwhile"):  # who decided on what it was before
        aliases.move("prod", first, expected=2, kind=Kind.PROMOTED, caller=AMY)

    made = aliases.move("prod", first, expected=0, kind=Kind.FORCED, caller=BOB)
    assert (made.owner, [move.kind for move in aliases.history("prod")]) == ("bob", [Kind.FORCED])
    with pytest.raises(Conflict, match="nothing before"):  # not back to what it was in its former life
        aliases.roll_back("prod", BOB)
    with pytest.raises(Conflict, match="bob pointed prod"):
        aliases.move("prod", second, expected=0, kind=Kind.PROMOTED, caller=BOB)
    aliases.move("prod", second, expected=made.serial, kind=Kind.PROMOTED, caller=BOB)
    assert aliases.roll_back("prod", BOB).version == first
    database.close()


@pytest.mark.parametrize(
    "name", ["", "Prod", "a/b", "a b", "-a", "a" * 64, "prod@1", "nul", "a.", "小", "model_0123456789ab", "..", "a\n"]
)
def test_a_name_that_no_alias_may_have_is_refused(name: str, point: Callable[..., Alias]) -> None:
    with pytest.raises(Invalid):
        point(1, alias=name)


def test_an_alias_does_not_take_the_name_of_a_model(aliases: Aliases, point: Callable[..., Alias]) -> None:
    for name in (SHIPPED, "v1"):
        with pytest.raises(Conflict):
            point(1, alias=name)
    assert aliases.list() == []
    with pytest.raises(NotFound):
        aliases.get("prod\x1b")


def test_an_adapter_is_found_by_alias_and_by_version_wherever_its_name_may_stand(
    home: Home, aliases: Aliases, point: Callable[..., Alias]
) -> None:
    registry = Registry(home, None, aliases.folder_named)
    point(2)
    assert registry.adapter("prod").name == "adapters/v2"
    assert registry.adapter("v3@1").name == registry.adapter("v3").name == "adapters/v3"
    with pytest.raises(NotFound):
        registry.adapter("stage")
    put_adapter(home, "prod", b"a folder of that name takes nothing")
    assert registry.adapter("prod").name == "adapters/v2"
    put_adapter(home, "adapters/v2", b"replaced")
    with pytest.raises(Conflict, match="replaced"):
        registry.adapter("prod")


_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tests.unit.models.killing import killed_before
from tunesmith.kernel import db
from tunesmith.kernel.home import Home
from tunesmith.models import aliases, version_store, versions
from tunesmith.models.registry import Registry

home = Home(Path(sys.argv[1]))

def opened():
    database = db.Database(f"sqlite:///{home.root / 'tunesmith.db'}")
    known = versions.Versions(database, Registry(home))
    return database, known, aliases.Aliases(database, known)

database, known, pointing = opened()
pointing.move("prod", known.get("v1@1"), expected=0, kind=aliases.Kind.PROMOTED)
refs = {number: known.get(f"v{number}@1") for number in (1, 2)}
database.close()
moved, line = 1, 0

def move():
    database, _, _ = opened()
    to = refs[1 + moved % 2]
    made = aliases.Move("prod", moved + 1, aliases.Kind.PROMOTED, to.ref, "me", datetime.now(UTC))
    assert version_store.VersionStore(database).add_move(made, to)

while True:
    killed = killed_before(line, {version_store.__file__, db.__file__}, move)
    database, known, pointing = opened()
    history = pointing.history("prod")
    assert len(history) in ((moved, moved + 1) if killed else (moved + 1,)), (line, moved, history)
    assert pointing.get("prod").version.ref == history[0].ref == ("v1@1" if len(history) % 2 else "v2@1")
    moved = len(history)
    database.close()
    if not killed:
        break
    line += 1
print(line)
"""


@pytest.mark.crash
def test_killed_between_any_two_lines_an_alias_has_moved_or_has_not(
    home: Home, database: Database, versions: Versions
) -> None:
    versions.take_in()
    database.close()
    done = subprocess.run([sys.executable, "-c", _KILLED, str(home.root)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
