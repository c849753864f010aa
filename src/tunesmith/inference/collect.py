"""Whole answers out of a stream of events."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from tunesmith.inference.engine import Delta, Done, Event


@dataclass(frozen=True, slots=True)
class Answer:
    """All that one row generated."""

    text: str
    done: Done


async def collect(
    events: AsyncGenerator[Event, None], *, rows: int, on_done: Callable[[Done], None] | None = None
) -> list[Answer]:
    """The answers of rows 0 .. rows-1, in order.

    Args:
        on_done: called as each row ends, for progress.
    """
    texts: list[list[str]] = [[] for _ in range(rows)]
    ends: dict[int, Done] = {}
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, Delta):
                texts[event.row].append(event.text)
            else:
                ends[event.row] = event
                if on_done is not None:
                    on_done(event)
    return [Answer("".join(parts), ends[row]) for row, parts in enumerate(texts)]
