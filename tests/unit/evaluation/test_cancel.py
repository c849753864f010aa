"""Stopping an evaluation that waits or runs."""

import asyncio

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.evaluation.test_service import FACTS, request
from tunesmith.evaluation.evaluation import Evaluation
from tunesmith.evaluation.service import EvaluationService, State
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound

_UNKNOWN = "6f9619ff-8b86-4011-b42d-00c04fc964ff"


class _Desk:
    """A service whose engine answers only once ``hold`` is set."""

    def __init__(self, database: Database, home: Home) -> None:
        self.hold = asyncio.Event()
        self.engine = AnsweringEngine(FACTS, hold=self.hold)
        self.service = EvaluationService(database, home, self.engine)

    def started(self) -> str:
        return self.service.start(request()).id


@pytest.fixture
async def desk(database: Database, home: Home) -> _Desk:
    return _Desk(database, home)


async def test_a_running_evaluation_is_stopped_its_rows_closed_and_the_next_one_runs(desk: _Desk) -> None:
    service, first, second = desk.service, desk.started(), desk.started()
    service.run_soon(first)
    service.run_soon(second)
    await desk.engine.asked.wait()
    canceled = await service.cancel(first)
    assert canceled.state is State.CANCELED
    assert canceled.ended_at is not None
    assert desk.engine.closed == 1
    assert service.get(first) == canceled
    desk.hold.set()
    await service._tasks[second]
    assert service.get(second).state is State.COMPLETED
    assert service.get(first) == canceled
    assert await service.recover() == []


async def test_a_queued_evaluation_is_canceled_without_waiting_for_the_one_that_runs(desk: _Desk) -> None:
    service, first, second = desk.service, desk.started(), desk.started()
    service.run_soon(first)
    service.run_soon(second)
    await desk.engine.asked.wait()
    assert (await service.cancel(second)).state is State.CANCELED
    assert list(service._tasks) == [first]
    assert service.get(first).state is State.RUNNING
    desk.hold.set()
    await service._tasks[first]
    assert service.get(first).state is State.COMPLETED
    assert len(desk.engine.generated) == 1


async def test_whoever_waits_for_a_canceled_evaluation_gets_its_record_and_is_not_interrupted(desk: _Desk) -> None:
    evaluation_id = desk.started()
    waiter = asyncio.create_task(desk.service.execute(evaluation_id))
    await desk.engine.asked.wait()
    canceled = await desk.service.cancel(evaluation_id)
    assert await waiter == canceled


async def test_canceling_twice_is_fine_and_what_never_ran_does_not_run_later(desk: _Desk) -> None:
    evaluation_id = desk.started()
    once = await desk.service.cancel(evaluation_id)
    assert await desk.service.cancel(evaluation_id) == once
    with pytest.raises(Conflict):
        await desk.service.execute(evaluation_id)
    assert desk.engine.generated == []


@pytest.mark.parametrize("fail_after", [None, 0])
async def test_what_has_ended_cannot_be_canceled_and_an_unknown_id_is_not_found(
    database: Database, home: Home, fail_after: int | None
) -> None:
    service = EvaluationService(database, home, AnsweringEngine(FACTS, fail_after=fail_after))
    ended = await service.execute(service.start(request()).id)
    with pytest.raises(Conflict) as caught:
        await service.cancel(ended.id)
    assert str(ended.state) in caught.value.zh
    assert service.get(ended.id) == ended
    with pytest.raises(NotFound):
        await service.cancel(_UNKNOWN)


async def test_a_worker_thread_cancels_through_the_loop(desk: _Desk) -> None:
    evaluation_id = desk.started()
    desk.service.run_soon(evaluation_id)
    await desk.engine.asked.wait()
    loop = asyncio.get_running_loop()

    def in_thread() -> Evaluation:
        return asyncio.run_coroutine_threadsafe(desk.service.cancel(evaluation_id), loop).result()

    assert (await asyncio.to_thread(in_thread)).state is State.CANCELED
    assert desk.engine.closed == 1


async def test_the_loop_goes_on_while_an_interrupted_waiter_waits_for_the_database(
    desk: _Desk, database: Database
) -> None:
    evaluation_id = desk.started()
    waiter = asyncio.create_task(desk.service.execute(evaluation_id))
    await desk.engine.asked.wait()
    with database.write():  # another writer holds the lock
        waiter.cancel()
        await asyncio.sleep(0.05)
        assert desk.engine.closed == 1
        assert not waiter.done()
        waiter.cancel()  # a second interruption does not lose the record
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await asyncio.get_running_loop().shutdown_default_executor()
    assert desk.service.get(evaluation_id).state is State.CANCELED
