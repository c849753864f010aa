"""Base and tuned answers in two columns, growing as the events come."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.cli.screen import console, plain, say
from tunesmith.inference.chat import BASE, TUNED
from tunesmith.inference.engine import Delta, Done, Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(slots=True)
class Pair:
    """What base and tuned have said so far to one prompt."""

    prompt: str
    expected: str | None = None
    texts: list[str] = field(default_factory=lambda: ["", ""])
    ends: list[Done | None] = field(default_factory=lambda: [None, None])

    @property
    def base(self) -> str:
        return self.texts[BASE]

    @property
    def tuned(self) -> str:
        return self.texts[TUNED]

    def take(self, event: Event) -> None:
        """Add one event of ``Chat.compare``."""
        if isinstance(event, Delta):
            self.texts[event.row] += event.text
        else:
            self.ends[event.row] = event


async def gather(pair: Pair, events: AsyncGenerator[Event, None]) -> Pair:
    """Take every event into ``pair``."""
    async with aclosing(events) as stream:
        async for event in stream:
            pair.take(event)
    return pair


async def show_live(pair: Pair, events: AsyncGenerator[Event, None]) -> Pair:
    """Show one pair as it grows, on standard output."""
    with growing([pair], console()):
        return await gather(pair, events)


@contextmanager
def growing(pairs: list[Pair], screen: "Console") -> Iterator[None]:
    """Draw the pairs while they grow, on a terminal; print them once at the end, elsewhere."""
    from rich.live import Live

    if not screen.is_terminal:
        yield
        screen.print(drawn(pairs))
        return
    # by its own clock, not for each token: a terminal takes longer than the model; it draws a last time as it ends
    with Live(get_renderable=lambda: drawn(pairs), console=screen, refresh_per_second=12):
        yield


def drawn(pairs: list[Pair]) -> "Table":
    """The pairs as a table: question (and expected answer) above, base to the left, tuned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, expand=True, show_header=True, show_lines=True)
    table.add_column(say("问题", "question"), ratio=3, overflow="fold")
    table.add_column(say("基座", "base"), ratio=4, overflow="fold")
    table.add_column(say("微调", "tuned"), ratio=4, overflow="fold")
    with_expected = any(pair.expected is not None for pair in pairs)
    if with_expected:
        table.add_column(say("期望", "expected"), ratio=3, overflow="fold")
    for pair in pairs:
        right = pair.expected is not None and pair.tuned.strip() == pair.expected.strip()
        cells = [Text(plain(pair.prompt), style="bold"), Text(plain(pair.base)), Text(plain(pair.tuned))]
        if with_expected:
            cells[2].stylize("green" if right else "yellow")
            cells.append(Text(plain(pair.expected or "")))
        table.add_row(*cells)
    return table
