"""Names models are served under."""

import json
import os
from pathlib import Path

import pytest

from tunesmith.inference.served import ServedModels
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Unavailable
from tunesmith.models.aliases import Aliases, Kind
from tunesmith.models.model import Model
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.models.versions import Versions


class Engines:
    """Remembers what was started and ended; refuses what it is told to."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.forgotten: list[str | None] = []
        self.refuse_start = self.refuse_stop = False

    async def prepare(self, model: Model) -> None:
        if self.refuse_start:
            raise Unavailable("起不来", "cannot start")
        self.running.add(model.base)

    async def stop(self, base: str, *, wait_s: float) -> None:
        if self.refuse_stop:
            raise Conflict("使用中", "in use")
        self.running.discard(base)

    async def unload_adapter(self, model: Model) -> None:
        self.forgotten.append(model.adapter)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    for number, name in enumerate(("adapters/old", "adapters/new")):
        folder = home.root / name
        folder.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": SHIPPED}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(b"x")
        os.utime(weights, (1000 + number, 1000 + number))
    return home


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def served(home: Home, engines: Engines) -> ServedModels:
    database = Database(f"sqlite:///{home.root}/test.db")
    database.migrate()
    return ServedModels(database, Registry(home), engines)


def test_the_shipped_model_is_current_when_nothing_is_loaded(served: ServedModels) -> None:
    assert served.current().model == Model(SHIPPED)
    assert [each.name for each in served.list()] == [SHIPPED]
    assert served.get(SHIPPED).is_current and served.switch(SHIPPED).is_current


async def test_the_first_loaded_model_is_current_and_stays_so(served: ServedModels) -> None:
    await served.load("one", SHIPPED, None)
    await served.load("two", SHIPPED, "adapters/old")
    assert [(each.name, each.is_current) for each in served.list()] == [("one", True), ("two", False)]
    assert served.switch("two").model.adapter == "adapters/old"
    assert served.current().name == "two"


async def test_loading_a_name_again_replaces_it_and_keeps_it_current(served: ServedModels) -> None:
    await served.load("one", SHIPPED, None)
    await served.load("one", SHIPPED, "adapters/new")
    assert [(each.model.adapter, each.is_current) for each in served.list()] == [("adapters/new", True)]


async def test_an_engine_serves_until_no_name_needs_it(served: ServedModels, engines: Engines) -> None:
    await served.load("one", SHIPPED, None)
    await served.load("two", SHIPPED, "adapters/new")
    await served.unload("one")
    assert engines.running == {SHIPPED}
    await served.unload("two")
    assert engines.running == set()


async def test_an_adapter_is_forgotten_when_no_other_name_wears_it(served: ServedModels, engines: Engines) -> None:
    await served.load("one", SHIPPED, None)
    await served.load("two", SHIPPED, "adapters/new")
    await served.load("three", SHIPPED, "adapters/new")
    await served.unload("two")
    assert engines.forgotten == []
    await served.unload("three")
    assert engines.forgotten == ["adapters/new"]


async def test_the_shipped_model_answering_by_itself_can_be_unloaded(served: ServedModels, engines: Engines) -> None:
    await engines.prepare(Model(SHIPPED))
    await served.unload(SHIPPED)
    assert engines.running == set()


async def test_when_the_current_model_goes_the_newest_other_becomes_current(served: ServedModels) -> None:
    for name in ("one", "two", "three"):
        await served.load(name, SHIPPED, None)
    served.switch("two")
    await served.unload("two")
    assert [(each.name, each.is_current) for each in served.list()] == [("one", False), ("three", True)]


def test_a_model_on_disk_that_is_broken_says_why_instead_of_being_missing(home: Home, served: ServedModels) -> None:
    config = home.root / "adapters" / "old" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 1000000000'))
    with pytest.raises(Invalid):
        served.get("adapters/old")


async def test_a_model_in_use_stays_when_unloading_is_refused(served: ServedModels, engines: Engines) -> None:
    await served.load("one", SHIPPED, None)
    engines.refuse_stop = True
    with pytest.raises(Conflict):
        await served.unload("one")
    assert [each.name for each in served.list()] == ["one"]


async def test_a_model_whose_engine_does_not_start_is_not_served(served: ServedModels, engines: Engines) -> None:
    engines.refuse_start = True
    with pytest.raises(Unavailable):
        await served.load("one", SHIPPED, None)
    assert [each.name for each in served.list()] == [SHIPPED]


@pytest.mark.parametrize(
    "name, base, adapter, problem",
    [
        ("", SHIPPED, None, Invalid),
        ("x" * 300, SHIPPED, None, Invalid),
        ("a\nb", SHIPPED, None, Invalid),
        ("one", "no/such", None, NotFound),
        ("one", "../outside", None, Invalid),
        ("one", SHIPPED, "adapters/none", NotFound),
        ("one", SHIPPED, "/etc", Invalid),
    ],
)
async def test_what_cannot_be_served_is_refused(
    served: ServedModels, name: str, base: str, adapter: str | None, problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        await served.load(name, base, adapter)


def test_names_on_disk_answer_without_being_loaded(served: ServedModels) -> None:
    assert served.get(SHIPPED).model == Model(SHIPPED)
    assert served.get("adapters/new").model == Model(SHIPPED, "adapters/new")
    for missing in ("nobody", "../etc", "adapters/none", "\ud800"):
        with pytest.raises(NotFound):
            served.get(missing)
    with pytest.raises(NotFound):
        served.switch("nobody")


async def test_compare_asks_the_configured_pair_else_the_current_adapter_else_the_newest(served: ServedModels) -> None:
    assert served.tuned(SHIPPED, "adapters/old", None).model.adapter == "adapters/old"
    assert served.tuned(None, None, None).model.adapter == "adapters/new"
    await served.load("mine", SHIPPED, "adapters/old")
    assert served.tuned(None, None, None).model.adapter == "adapters/old"
    with pytest.raises(NotFound):
        served.tuned(None, "adapters/none", None)
    with pytest.raises(NotFound):
        served.tuned("no/such", "adapters/old", None)


async def test_what_was_served_is_served_after_a_restart(home: Home, served: ServedModels) -> None:
    await served.load("mine", SHIPPED, "adapters/old")
    again = ServedModels(Database(f"sqlite:///{home.root}/test.db"), Registry(home), Engines())
    assert again.current().name == "mine"


class Pointing:
    """Served models of one server on the test's database, with the aliases they follow."""

    def __init__(self, home: Home, url: str | None = None) -> None:
        database = Database(url or f"sqlite:///{home.root}/test.db")
        database.migrate()
        self.versions = Versions(database, Registry(home))
        self.aliases = Aliases(database, self.versions)
        named = Registry(home, None, self.aliases.folder_named)
        self.served = ServedModels(database, named, Engines(), pointers=self.aliases)

    def point(self, ref: str) -> None:
        known = self.aliases.find("prod")
        to = self.versions.get(ref)
        self.aliases.move("prod", to, expected=known.serial if known else 0, kind=Kind.PROMOTED)


def test_an_alias_answers_with_the_version_it_points_at_and_follows_it(home: Home) -> None:
    one = Pointing(home)
    with pytest.raises(NotFound):
        one.served.get("prod")
    one.point("old@1")
    before = one.served.get("prod")
    assert (before.name, before.version, before.answers) == ("prod", "old@1", "old@1")
    one.point("new@1")
    assert before.model == Model(SHIPPED, "adapters/old"), "what was resolved stays what it was"
    assert one.served.resolve("prod").model == Model(SHIPPED, "adapters/new")
    assert one.served.get("old@1").model.adapter == "adapters/old"
    assert one.served.get("adapters/old").version is None and one.served.get("adapters/old").answers == "adapters/old"


def test_two_servers_on_one_database_agree_at_once(home: Home) -> None:
    one, two = Pointing(home), Pointing(home)
    one.point("old@1")
    assert two.served.get("prod").model.adapter == "adapters/old"
    two.point("new@1")
    assert one.served.get("prod").model.adapter == "adapters/new"
    one.aliases.roll_back("prod")
    assert two.served.get("prod").model.adapter == "adapters/old"


def test_an_alias_can_be_the_current_model_and_is_followed(home: Home) -> None:
    one = Pointing(home)
    one.point("old@1")
    assert one.served.switch("prod").is_current
    one.point("new@1")
    assert one.served.resolve(None).model.adapter == "adapters/new" and one.served.current().version == "new@1"
    assert [(each.name, each.model.adapter, each.is_current) for each in one.served.list()] == [
        ("prod", "adapters/new", True)
    ]


def test_an_alias_whose_version_is_gone_is_an_error_and_no_other_model_answers(home: Home) -> None:
    one = Pointing(home)
    one.point("old@1")
    one.served.switch("prod")
    (home.root / "adapters" / "old" / "adapter_model.safetensors").unlink()
    for ask in (lambda: one.served.get("prod"), one.served.current, lambda: one.served.get("old@1")):
        with pytest.raises(Conflict, match="gone"):
            ask()
    assert [each.name for each in one.served.list()] == ["prod"], "a list does not fail because of one"


async def test_a_model_is_not_loaded_under_the_name_of_an_alias_or_version(home: Home) -> None:
    one = Pointing(home)
    one.point("old@1")
    for name in ("prod", "new@1"):
        with pytest.raises(Conflict, match="alias"):
            await one.served.load(name, SHIPPED, None)
    loaded = await one.served.load("pinned", SHIPPED, "prod")
    one.point("new@1")
    assert loaded.model == one.served.get("pinned").model == Model(SHIPPED, "adapters/old")


def test_compare_may_be_configured_with_an_alias(home: Home) -> None:
    one = Pointing(home)
    one.point("old@1")
    assert one.served.tuned(None, "prod", None).model.adapter == "adapters/old"
    assert one.served.tuned(None, None, "prod").model.adapter == "adapters/old"
