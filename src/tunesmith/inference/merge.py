"""Several streams of events as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from tunesmith.inference.engine import Event


async def merged(parts: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Event, None]:
    """The events of all ``parts`` in the order they come; closing it closes every part.

    Nothing is given out before each part has given its first event or ended, so that a part which refuses its rows
    does so before anything is said.
    """
    async with AsyncExitStack() as stack:
        for part in parts:
            await stack.enter_async_context(aclosing(part))
        if len(parts) == 1:
            async for event in parts[0]:
                yield event
            return
        for first in await _firsts(parts):
            yield first
        async with aclosing(_interleaved(parts)) as events:
            async for event in events:
                yield event


async def _firsts(parts: Sequence[AsyncGenerator[Event, None]]) -> list[Event]:
    tasks = [asyncio.ensure_future(anext(part, None)) for part in parts]
    try:
        return [event for event in await asyncio.gather(*tasks) if event is not None]
    finally:
        # A part can only be closed when it is not running.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _interleaved(parts: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Event, None]:
    waiting = {asyncio.ensure_future(anext(part, None)): part for part in parts}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                part = waiting.pop(task)
                event = task.result()
                if event is not None:
                    waiting[asyncio.ensure_future(anext(part, None))] = part
                    yield event
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
