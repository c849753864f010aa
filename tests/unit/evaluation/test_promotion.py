"""An alias moves only where nothing became worse."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.models.numbered import put_adapter
from tunesmith.datasets.example import Message
from tunesmith.evaluation.evaluation import Question
from tunesmith.evaluation.promotion import FEWEST_QUESTIONS, Promotion, Promotions, TestSet, refusal
from tunesmith.evaluation.service import EvaluationService, State
from tunesmith.inference.engine import Reference, Request, Sampling, Score
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound
from tunesmith.models.aliases import Aliases, Kind
from tunesmith.models.registry import Registry
from tunesmith.models.versions import Versions

GREEDY = Sampling(32, 0.0, 1.0, 0, 1.0)


def asked(kind: str, count: int) -> tuple[Question, ...]:
    return tuple(Question((Message("user", f"{kind} {n}"),), f"answer {n}") for n in range(count))


TEST, CONTROL = TestSet("test", "town/test", asked("test", 40)), TestSet("control", "old/test", asked("control", 30))


class Knowing(AnsweringEngine):
    """Each adapter knows the first so many answers of each set."""

    def __init__(self, knows: dict[str, dict[str, int]], logprob: dict[str, float] | None = None) -> None:
        super().__init__({})
        self.knows, self.logprob = knows, logprob or {}
        self.midway: Callable[[], object] = lambda: None

    def _answer(self, request: Request) -> str:
        assert not isinstance(request.prompt, str)
        midway, self.midway = self.midway, lambda: None
        midway()
        kind, number = request.prompt[-1].content.split()
        return f"answer {number}" if int(number) < self.knows[str(request.model.adapter)][kind] else "no idea"

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        # a little different for each question, or no interval has a width
        worth = [self.logprob[str(each.model.adapter)] - n % 3 / 10 for n, each in enumerate(references)]
        return [Score(each, 4) for each in worth]


class House:
    """What a promotion needs, with three versions whose knowledge the engine decides."""

    def __init__(self, home: Home, database: Database) -> None:
        for number in (1, 2, 3):
            put_adapter(home, f"adapters/v{number}", bytes([number]))
        every = {"test": 40, "control": 30}
        self.engine = Knowing({f"adapters/v{number}": dict(every) for number in (1, 2, 3)})
        self.home, registry = home, Registry(home)
        self.versions = Versions(database, registry)
        self.aliases = Aliases(database, self.versions)
        self.evaluations = EvaluationService(database, home, self.engine)
        named = Registry(home, None, self.aliases.folder_named)
        self.promotions = Promotions(self.evaluations, named, self.versions, self.aliases)
        self.ask = Promotion("v2", "prod", (TEST, CONTROL), ("exact_match",), GREEDY)

    def point(self, number: int, caller: Caller = LOCAL) -> None:
        known = self.aliases.find("prod")
        to = self.versions.get(f"v{number}@1")
        self.aliases.move("prod", to, expected=known.serial if known else 0, kind=Kind.PROMOTED, caller=caller)

    @property
    def now(self) -> str:
        return self.aliases.get("prod").version.ref


@pytest.fixture
async def house(home: Home, database: Database) -> AsyncIterator[House]:
    made = House(home, database)
    yield made
    await made.evaluations.close()


async def test_a_new_alias_is_measured_alone_and_points_there(house: House) -> None:
    shares: list[float] = []
    outcome = await house.promotions.promote(house.ask, told=shares.append)
    assert outcome.moved and house.now == "v2@1" and shares[-1] == 1.0 and shares == sorted(shares)
    report = house.aliases.history("prod")[0].report
    assert report == outcome.report and report is not None
    assert (report["before"], report["after"], report["worse"]) == (None, "v2@1", [])
    assert [each["result"]["metrics"]["exact_match"]["value"] for each in report["sets"]] == [1.0, 1.0]
    assert "difference" not in report["sets"][0]["result"]


async def test_a_version_that_is_no_worse_takes_the_place_and_the_comparison_is_kept(house: House) -> None:
    house.point(1)
    house.engine.knows["adapters/v1"]["test"] = 20
    outcome = await house.promotions.promote(house.ask)
    assert outcome.moved and house.now == "v2@1"
    move = house.aliases.history("prod")[0]
    assert move.kind is Kind.PROMOTED and move.report is not None
    [test, control] = move.report["sets"]
    assert test["result"]["difference"]["exact_match"]["value"] == 0.5
    assert control["result"]["difference"]["exact_match"]["value"] == 0
    after = house.evaluations.get(test["evaluations"]["after"])
    assert (after.model.adapter, after.label) == ("adapters/v2", "v2@1: town/test")


@pytest.mark.parametrize("kind, dataset", [("test", "town/test"), ("control", "old/test")])
async def test_a_version_that_lost_something_is_refused_and_the_figure_named(
    house: House, kind: str, dataset: str
) -> None:
    house.point(1)
    house.engine.knows["adapters/v2"][kind] -= 12
    outcome = await house.promotions.promote(house.ask)
    assert not outcome.moved and outcome.refused and house.now == "v1@1"
    assert outcome.report is not None
    assert outcome.report["worse"] == [{"role": kind, "dataset": dataset, "metric": "exact_match"}]
    said = refusal(outcome, "prod").en
    assert dataset in said and "exact_match" in said and "v1@1" in said and len(house.aliases.history("prod")) == 1


async def test_a_loss_too_small_to_be_sure_of_is_none(house: House) -> None:
    house.point(1)
    house.engine.knows["adapters/v2"]["test"] -= 3
    assert (await house.promotions.promote(house.ask)).moved


async def test_a_perplexity_that_rises_is_a_loss_and_one_that_falls_is_none(house: House) -> None:
    house.point(1)
    house.engine.logprob = {"adapters/v1": -4.0, "adapters/v2": -6.0, "adapters/v3": -2.0}
    ask = replace(house.ask, metrics=("perplexity",))
    assert (await house.promotions.promote(ask)).refused
    assert (await house.promotions.promote(replace(ask, adapter="v3"))).moved


async def test_a_forced_move_keeps_that_it_was_worse(house: House) -> None:
    house.point(1)
    house.engine.knows["adapters/v2"]["test"] = 0
    assert (await house.promotions.promote(replace(house.ask, force=True))).moved
    move = house.aliases.history("prod")[0]
    assert move.kind is Kind.FORCED and move.report is not None and len(move.report["worse"]) == 1
    await house.promotions.promote(replace(house.ask, adapter="v1@1", sets=(), force=True))
    assert house.now == "v1@1" and house.aliases.history("prod")[0].report is None


async def test_another_alias_may_be_promoted_by_its_name(house: House) -> None:
    await house.promotions.promote(replace(house.ask, alias="next"))
    assert (await house.promotions.promote(replace(house.ask, adapter="next"))).moved and house.now == "v2@1"


async def test_where_it_points_already_nothing_is_measured(house: House) -> None:
    house.point(2)
    outcome = await house.promotions.promote(house.ask)
    assert not outcome.moved and not outcome.refused and outcome.alias is not None
    assert house.engine.generated == [] and len(house.aliases.history("prod")) == 1


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"adapter": "nobody"}, NotFound),
        ({"alias": "No Such"}, Invalid),
        ({"sets": ()}, Invalid),
        ({"sets": (CONTROL,)}, Invalid),
        ({"sets": (replace(TEST, questions=TEST.questions[: FEWEST_QUESTIONS - 1]),)}, Invalid),
        ({"metrics": ("magic",)}, Invalid),
    ],
)
async def test_what_cannot_be_compared_is_refused_before_any_question(
    house: House, change: dict[str, object], problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        await house.promotions.promote(replace(house.ask, **change))  # type: ignore[arg-type]
    assert house.engine.generated == [] and house.aliases.list() == []


async def test_anothers_alias_is_refused_before_any_question(house: House) -> None:
    house.point(1, Caller("amy"))
    with pytest.raises(Forbidden):
        await house.promotions.promote(house.ask, Caller("bob"))
    assert house.engine.generated == []


async def test_an_alias_whose_version_is_gone_moves_only_by_force(house: House) -> None:
    house.point(1)
    shutil.rmtree(house.home.root / "adapters" / "v1")
    with pytest.raises(Conflict, match="gone"):
        await house.promotions.promote(house.ask)
    assert (await house.promotions.promote(replace(house.ask, force=True))).moved and house.now == "v2@1"


async def test_an_alias_that_somebody_moved_meanwhile_is_left_there(house: House) -> None:
    house.point(1)

    house.engine.midway = lambda: house.point(3, Caller("amy", admin=True))
    with pytest.raises(Conflict, match="amy pointed prod at v3@1 meanwhile"):
        await house.promotions.promote(house.ask)
    assert house.now == "v3@1"


async def test_an_adapter_replaced_while_it_was_measured_is_not_promoted(house: House) -> None:
    house.point(1)
    house.engine.midway = lambda: put_adapter(house.home, "adapters/v2", b"other")
    with pytest.raises(Conflict, match="replaced"):
        await house.promotions.promote(house.ask)
    assert house.now == "v1@1"


async def test_canceled_midway_nothing_has_moved_and_nothing_goes_on(house: House) -> None:
    house.point(1)
    house.engine._hold = asyncio.Event()
    work = asyncio.ensure_future(house.promotions.promote(house.ask))
    await house.engine.asked.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert house.now == "v1@1" and house.engine.active == 0
    assert [each.state for each in house.evaluations.list()] == [State.CANCELED]
