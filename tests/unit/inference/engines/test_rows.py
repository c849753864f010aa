"""Rows that come together: in order of arrival, none lost, all closed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tunesmith.inference.engine import Delta, Done, Event
from tunesmith.inference.engines.rows import ACCEPTED, RowEvent, together
from tunesmith.kernel.problems import Invalid, NotFound


def done(row: int) -> Done:
    return Done(row, "stop", 1, 1, 0.0, 0.0)


class Rows:
    """Rows that say how they fare."""

    def __init__(self) -> None:
        self.open = self.most = self.closed = self.said = 0
        self.go_on = asyncio.Event()

    async def talk(
        self, row: int, deltas: int = 3, *, failure: Exception | None = None, wait: bool = False
    ) -> AsyncGenerator[RowEvent, None]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield ACCEPTED
            for number in range(deltas):
                await asyncio.sleep(0)
                self.said += 1
                yield Delta(row, str(number))
            if wait:
                await self.go_on.wait()
            if failure is not None:
                raise failure
            yield done(row)
        finally:
            self.open -= 1
            self.closed += 1


async def refused(failure: Exception) -> AsyncGenerator[RowEvent, None]:
    await asyncio.sleep(0)
    raise failure
    yield ACCEPTED


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def heard(events: AsyncGenerator[Event, None]) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
async def test_every_row_is_heard_in_its_own_order(count: int) -> None:
    rows = Rows()
    events = await heard(together([rows.talk(row) for row in range(count)], 256))
    for row in range(count):
        own = [event for event in events if event.row == row]
        assert own == [Delta(row, "0"), Delta(row, "1"), Delta(row, "2"), done(row)]
    assert (rows.open, rows.closed) == (0, count)


async def test_no_more_rows_are_open_than_allowed() -> None:
    rows = Rows()
    events = await heard(together([rows.talk(row) for row in range(10)], 3))
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(10))
    assert rows.most == 3


async def test_nothing_is_given_out_before_every_row_is_accepted() -> None:
    rows = Rows()
    go_on = asyncio.Event()

    async def late() -> AsyncGenerator[RowEvent, None]:
        await go_on.wait()
        async for event in rows.talk(1):
            yield event

    events = together([rows.talk(0), late()], 256)
    first = asyncio.create_task(anext(events))
    await turns(100)
    assert rows.said == 3
    assert not first.done()
    go_on.set()
    assert await first == Delta(0, "0")
    await events.aclose()


async def test_a_refusal_is_raised_before_any_event_and_closes_the_others() -> None:
    rows = Rows()
    said: list[Event] = []
    with pytest.raises(Invalid):
        async with aclosing(together([rows.talk(0), refused(Invalid("坏", "bad")), rows.talk(2)], 256)) as events:
            async for event in events:
                said.append(event)
    assert said == []
    assert rows.open == 0


async def test_the_first_failure_wins_and_the_rest_is_closed() -> None:
    rows = Rows()
    talking = [
        rows.talk(0, wait=True),
        rows.talk(1, 2, failure=NotFound("无", "none")),
        rows.talk(2, 40, failure=Invalid("坏", "bad")),
    ]
    with pytest.raises(NotFound):
        await heard(together(talking, 256))
    assert (rows.open, rows.closed) == (0, 3)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_bug_in_a_row_reaches_the_reader(count: int) -> None:
    rows = Rows()
    talking = [rows.talk(0, failure=ZeroDivisionError()), *(rows.talk(row, wait=True) for row in range(1, count))]
    with pytest.raises(ZeroDivisionError):
        await heard(together(talking, 256))
    assert rows.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_slow_reader_holds_the_rows_back(count: int) -> None:
    rows = Rows()
    events = together([rows.talk(row, 10_000) for row in range(count)], 256)
    await anext(events)
    await turns(5_000)
    assert rows.said < 300
    await events.aclose()
    assert (rows.open, rows.closed) == (0, count)


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_closes_every_row_also_those_that_never_had_their_turn(count: int) -> None:
    rows = Rows()
    talking = [rows.talk(row, wait=True) for row in range(count)]
    events = together(talking, 1)
    assert await anext(events) == Delta(0, "0")
    await events.aclose()
    assert rows.open == 0
    for row in talking:
        with pytest.raises(StopAsyncIteration):
            await anext(row)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_a_reader_that_is_canceled_closes_every_row(count: int) -> None:
    rows = Rows()
    reading = asyncio.create_task(heard(together([rows.talk(row, wait=True) for row in range(count)], 256)))
    await turns(100)
    assert rows.said == 3 * count
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (rows.open, rows.closed) == (0, count)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_any_task_may_ask_for_the_next_event(count: int) -> None:
    rows = Rows()
    events = together([rows.talk(row) for row in range(count)], 256)
    said = [await asyncio.create_task(anext(events)) for _ in range(4 * count)]
    assert sum(isinstance(event, Done) for event in said) == count
    await asyncio.create_task(events.aclose())
    assert rows.open == 0
