"""The rows of one call, each a stream of its own, as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from tunesmith.inference.engine import Done, Event

ACCEPTED = None  # what a row yields once its server has accepted it, before its first event
RowEvent = Event | None
_AHEAD = 256  # events held for a slow reader; then the rows wait


async def together(rows: Sequence[AsyncGenerator[RowEvent, None]], at_once: int) -> AsyncGenerator[Event, None]:
    """The events of all rows in the order they come; closing it closes every row.

    Nothing is given out before every row that may be open at once has been accepted.

    Args:
        at_once: rows open at once; the rest follow as these end.

    Raises:
        Problem: the first that a row raised.
    """
    if len(rows) == 1:  # the usual call: no task, no queue
        async with aclosing(rows[0]) as events:
            async for event in events:
                if event is not None:
                    yield event
        return
    feed = _Feed(at_once, len(rows))
    tasks = [asyncio.create_task(feed.drain(row)) for row in rows]
    try:
        async with aclosing(feed.events()) as events:
            async for event in events:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for row in rows:
            await row.aclose()  # one that never had its turn


class _Feed:
    """Where the rows meet."""

    def __init__(self, at_once: int, rows: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._queue: asyncio.Queue[Event | Exception] = asyncio.Queue(_AHEAD)
        self._to_accept, self._left = min(at_once, rows), rows
        self._accepted = asyncio.Event()
        self._failure: Exception | None = None

    async def drain(self, row: AsyncGenerator[RowEvent, None]) -> None:
        """Put the row's events into the queue, waiting where the reader is slow."""
        async with self._turns, aclosing(row):
            try:
                async for event in row:
                    if event is None:
                        self._accept()
                    else:
                        await self._queue.put(event)
            except Exception as failure:  # a bug too: the reader must not wait for ever
                self._failure = self._failure or failure
                self._accepted.set()
                await self._queue.put(failure)

    async def events(self) -> AsyncGenerator[Event, None]:
        if not self._left:
            return
        await self._accepted.wait()
        if self._to_accept > 0 and self._failure is not None:
            raise self._failure
        while self._left:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Done):
                self._left -= 1
            yield item

    def _accept(self) -> None:
        self._to_accept -= 1
        if self._to_accept == 0:
            self._accepted.set()
