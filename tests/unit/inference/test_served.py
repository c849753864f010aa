"""Names models are served under."""

import json
import os
from pathlib import Path

import pytest

from tunesmith.inference.served import ServedModels
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Unavailable
from tunesmith.models.model import Model
from tunesmith.models.registry import SHIPPED, Registry


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
