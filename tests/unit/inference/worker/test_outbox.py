"""The outbox: first words and ends leave at once, what lies between at a pace, nothing is lost or out of order."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from tunesmith.inference.worker import outbox
from tunesmith.inference.worker.events import Ended, Failed, RowEvent, Text
from tunesmith.inference.worker.outbox import Outbox
from tunesmith.kernel.problems import Unavailable

OVER = Ended("stop", 3, 0.1, 0.2)


@dataclass(eq=False)
class Speaker:
    heard: bool = False


class Heard:
    """An outbox, and what has been handed out, hand-over by hand-over."""

    def __init__(self) -> None:
        self.out: list[dict[Speaker, list[RowEvent]]] = []
        self.box: Outbox[Speaker] = Outbox(asyncio.get_running_loop(), self._take)

    def _take(self, said: Mapping[Speaker, Sequence[RowEvent]]) -> None:
        self.out.append({row: list(events) for row, events in said.items()})

    async def after(self, seconds: float = 0.0) -> list[dict[Speaker, list[RowEvent]]]:
        await asyncio.sleep(seconds)
        await asyncio.sleep(0)
        found, self.out = self.out, []
        return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PACE_S", 3600.0)


@pytest.mark.usefixtures("slow")
async def test_first_words_leave_at_once_and_then_those_of_the_next_step() -> None:
    row, heard = Speaker(), Heard()
    heard.box.put([(row, Text("a"))])
    assert await heard.after() == [{row: [Text("a")]}]
    heard.box.put([(row, Text("b"))])
    assert await heard.after() == [{row: [Text("b")]}]  # nothing left lately
    heard.box.put([(row, Text("c"))])
    assert await heard.after() == []


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("last", [OVER, Failed(Unavailable("坏", "broken"))])
async def test_an_end_leaves_at_once_with_what_was_held_of_its_row_alone(last: Ended | Failed) -> None:
    row, other, heard = Speaker(), Speaker(), Heard()
    for word in "abc":
        heard.box.put([(row, Text(word)), (other, Text(word))])
        await heard.after()
    heard.box.put([(other, Text("d")), (row, Text("d")), (row, last)])
    assert await heard.after() == [{row: [Text("c"), Text("d"), last]}]


@pytest.mark.usefixtures("slow")
async def test_a_row_that_begins_while_others_are_held_does_not_wait() -> None:
    row, late, heard = Speaker(), Speaker(), Heard()
    for word in "abc":
        heard.box.put([(row, Text(word))])
        await heard.after()
    heard.box.put([(row, Text("d")), (late, Text("x"))])
    assert await heard.after() == [{late: [Text("x")]}]


async def test_what_is_held_leaves_together_after_a_while_though_no_step_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "PACE_S", 0.05)
    row, other, heard = Speaker(), Speaker(), Heard()
    for word in "abcd":
        heard.box.put([(row, Text(word)), (other, Text(word))])
        said = await heard.after()
    assert said == []
    while not said:
        said = await heard.after(0.01)
    assert said == [{row: [Text("c"), Text("d")], other: [Text("c"), Text("d")]}]
    assert await heard.after(0.15) == []
    heard.box.put([(row, Text("e"))])  # silence has passed since: it does not wait
    assert await heard.after() == [{row: [Text("e")]}]


async def test_words_stay_in_order_when_a_hand_over_was_due_before_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    row, other, heard = Speaker(), Speaker(), Heard()
    due: list[Callable[[], None]] = []
    monkeypatch.setattr(loop, "call_later", lambda seconds, tick: due.append(tick))
    for word in "abc":
        heard.box.put([(other, Text(word))])
        await heard.after()
    [tick] = due
    loop.call_soon(tick)
    heard.box.put([(row, Text("x"))])
    heard.box.put([(row, Text("y"))])
    monkeypatch.undo()
    said = [event for out in await heard.after() for event in out.get(row, [])]
    assert said == [Text("x"), Text("y")]


async def test_a_loop_that_has_closed_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    box: Outbox[Speaker] = Outbox(loop, lambda said: None)
    loop.close()
    box.put([(Speaker(), Text("a"))])
