"""``/aliases`` and below, an addition to the document: names that point at a version, and may be asked for like models."""

from typing import Annotated, Literal, NotRequired, cast

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.service import DatasetService
from tunesmith.dialects.gpt_service.evaluation_answers import EvaluationFigures
from tunesmith.dialects.gpt_service.model_answers import Success
from tunesmith.dialects.gpt_service.wire import Body
from tunesmith.evaluation.evaluation import MOST_QUESTIONS, Question
from tunesmith.evaluation.metrics import NAMES
from tunesmith.evaluation.promotion import Promotion, Promotions, TestSet, refusal
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.sse import unless_left
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home
from tunesmith.models.aliases import Alias, Aliases, Move


class PromoteRequest(Body):
    """``test`` and ``control`` are datasets (``town/test``); without ``force`` a test set must be named."""

    adapter: str
    test: str | None = None
    control: str | None = None
    metrics: Annotated[list[str], Field(max_length=16, fail_fast=True, default_factory=lambda: list(NAMES))]
    max_tokens: int = 256
    force: bool = False


class AliasShown(TypedDict):
    """An alias and the version it points at (``town@3``); ``moved_at`` in ISO 8601."""

    name: str
    version: str
    lora_adapter: str
    base_model: str
    moved_at: str


class AliasList(TypedDict):
    aliases: list[AliasShown]
    total_count: int


class ComparedIds(TypedDict):
    """Ids of evaluations."""

    after: str
    before: NotRequired[str]


class ComparedSet(TypedDict):
    """What both versions were asked; in ``result`` the version before is the base."""

    role: Literal["test", "control"]
    dataset: str
    evaluations: ComparedIds
    result: EvaluationFigures


class Worse(TypedDict):
    """A metric that became significantly worse."""

    role: Literal["test", "control"]
    dataset: str
    metric: str


class PromotionReport(TypedDict):
    """Two versions compared; ``before`` is null where there was none."""

    before: str | None
    after: str
    sets: list[ComparedSet]
    worse: list[Worse]


class AliasMove(TypedDict):
    """A move of an alias to ``version``, or, ``removed``, away from it. Who moved it, and what was compared (null where
    nothing was), is for its owner and admins."""

    serial: int
    kind: Literal["promoted", "forced", "rolled_back", "removed"]
    version: str
    moved_at: str
    moved_by: NotRequired[str]
    report: NotRequired[PromotionReport | None]


class AliasHistory(AliasShown):
    """The newest move first."""

    history: list[AliasMove]


class AliasPromoted(AliasShown):
    """``moved`` is false where it pointed there already; ``report`` is null where nothing was measured."""

    status: Success
    moved: bool
    report: PromotionReport | None


class AliasRolledBack(AliasShown):
    status: Success
    moved: Literal[True]


class AliasRemoved(AliasShown):
    """What it pointed at until now."""

    status: Success


def build(aliases: Aliases, promotions: Promotions, datasets: DatasetService, home: Home) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/aliases", tags=["aliases"])

    @routes.get("", **described(AliasList))
    def every_alias(request: Request) -> AliasList:
        """Where each alias points."""
        found = [_shown(each) for each in aliases.list()]
        return {"aliases": found, "total_count": len(found)}

    @routes.get("/{name}", **described(AliasHistory))
    def one_alias(request: Request, name: str) -> AliasHistory:
        """With every move, the newest first; what was compared is for its owner and admins."""
        alias = aliases.get(name)
        all_of_it = caller_of(request).sees(alias.owner)
        return {**_shown(alias), "history": [_move(each, all_of_it) for each in aliases.history(name)]}

    @routes.post("/{name}", **described(AliasPromoted))
    async def promote(request: Request, name: str, body: PromoteRequest) -> Response:
        """Compare and move; the answer comes when that is done, 409 where something became worse."""
        caller = caller_of(request)

        async def whole() -> Response:
            await run_in_threadpool(aliases.movable, name, caller)
            asked = await run_in_threadpool(_promotion, body, name, caller, datasets, home)
            outcome = await promotions.promote(asked, caller)
            if outcome.refused:
                raise refusal(outcome, name)
            assert outcome.alias is not None
            told: AliasPromoted = {
                "status": "success",
                "moved": outcome.moved,
                **_shown(outcome.alias),
                "report": cast(PromotionReport | None, outcome.report),
            }
            return JSONResponse(told)

        return await unless_left(request, whole())

    @routes.post("/{name}/rollback", **described(AliasRolledBack))
    def roll_back(request: Request, name: str) -> AliasRolledBack:
        """Back to the version before."""
        return {"status": "success", "moved": True, **_shown(aliases.roll_back(name, caller_of(request)))}

    @routes.delete("/{name}", **described(AliasRemoved))
    def remove(request: Request, name: str) -> AliasRemoved:
        """Let it point nowhere; the version it pointed at stays, and is named."""
        return {"status": "success", **_shown(aliases.remove(name, caller_of(request)))}

    return routes


def _promotion(body: PromoteRequest, name: str, caller: Caller, datasets: DatasetService, home: Home) -> Promotion:
    sets = []
    for role, dataset in (("test", body.test), ("control", body.control)):
        if dataset is not None:
            datasets.check_may_read(dataset, caller)
            sets.append(TestSet(role, dataset, _questions(home, dataset)))  # type: ignore[arg-type]
    greedy = Sampling(max_new_tokens=body.max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
    return Promotion(body.adapter, name, tuple(sets), tuple(body.metrics), greedy, body.force)


def _questions(home: Home, dataset: str) -> tuple[Question, ...]:
    """No more than are needed to say that there are too many."""
    found: list[Question] = []
    for example in read_examples(home, dataset):
        found.append(Question(example.prompt, example.completion))
        if len(found) > MOST_QUESTIONS:
            break
    return tuple(found)


def _shown(alias: Alias) -> AliasShown:
    return {
        "name": alias.name,
        "version": alias.version.ref,
        "lora_adapter": alias.version.adapter,
        "base_model": alias.version.base,
        "moved_at": alias.moved_at.isoformat(),
    }


def _move(move: Move, all_of_it: bool) -> AliasMove:
    said: AliasMove = {
        "serial": move.serial,
        "kind": move.kind.value,
        "version": move.ref,
        "moved_at": move.at.isoformat(),
    }
    if all_of_it:
        said["moved_by"] = move.by
        said["report"] = cast(PromotionReport | None, move.report)
    return said
