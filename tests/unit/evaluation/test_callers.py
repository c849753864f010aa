"""Whose evaluations a caller sees."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.evaluation.test_service import FACTS, request
from tunesmith.evaluation.service import EvaluationService, State
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound

ANN, BOB, ROOT = Caller("ann"), Caller("bob"), Caller("root", admin=True)
NOBODYS = "6f9619ff-8b86-4011-b42d-00c04fc964ff"

Ask = Callable[[EvaluationService, str], Coroutine[Any, Any, object]]


async def get(service: EvaluationService, evaluation_id: str) -> object:
    return service.get(evaluation_id, caller=BOB)


async def outputs(service: EvaluationService, evaluation_id: str) -> object:
    return service.outputs(evaluation_id, caller=BOB)


async def cancel(service: EvaluationService, evaluation_id: str) -> object:
    return await service.cancel(evaluation_id, caller=BOB)


@pytest.fixture
def service(database: Database, home: Home) -> EvaluationService:
    return EvaluationService(database, home, AnsweringEngine(FACTS))


@pytest.mark.parametrize("ask", [get, outputs, cancel])
@pytest.mark.parametrize("ended", [False, True])
async def test_anothers_evaluation_is_answered_word_for_word_like_a_missing_one(
    service: EvaluationService, ask: Ask, ended: bool
) -> None:
    theirs = service.start(request(), caller=ANN)
    if ended:
        theirs = await service.execute(theirs.id)
    with pytest.raises(NotFound) as hidden:
        await ask(service, theirs.id)
    with pytest.raises(NotFound) as missing:
        await ask(service, NOBODYS)
    told = [[text.replace(theirs.id, NOBODYS) for text in (p.value.zh, p.value.en)] for p in (hidden, missing)]
    assert told[0] == told[1] and hidden.value.details == missing.value.details
    assert service.get(theirs.id, caller=ANN) == theirs  # and nothing happened to it


async def test_a_caller_lists_their_own_evaluations_and_an_admin_all(service: EvaluationService) -> None:
    anns, bobs = service.start(request(), caller=ANN), service.start(request(), caller=BOB)
    assert (anns.owner, bobs.owner, service.start(request()).owner) == ("ann", "bob", "local")
    assert service.list(ANN) == [anns] and service.list(caller=BOB) == [bobs]
    assert len(service.list(ROOT)) == len(service.list()) == 3
    assert len(service.list(LOCAL, limit=2)) == 2


async def test_an_owner_and_an_admin_read_and_cancel(service: EvaluationService) -> None:
    ended = await service.execute(service.start(request(), caller=ANN).id)
    for caller in (ANN, ROOT):
        assert service.get(ended.id, caller=caller) == ended
        assert len(service.outputs(ended.id, caller=caller)) == len(FACTS)
        with pytest.raises(Conflict):
            await service.cancel(ended.id, caller=caller)
        waiting = service.start(request(), caller=ANN)
        assert (await service.cancel(waiting.id, caller=caller)).state is State.CANCELED
