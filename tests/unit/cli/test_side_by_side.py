"""Two answers that grow together."""

from collections.abc import AsyncGenerator

import pytest
from rich.console import Console

from tunesmith.cli.side_by_side import Pair, drawn, gather, show_live
from tunesmith.inference.engine import Delta, Done, Event


async def events() -> AsyncGenerator[Event, None]:
    yield Delta(1, "鱼")
    yield Delta(0, "I do not ")
    yield Done(1, "stop", 5, 2, 0.1, 0.2)
    yield Delta(0, "know.")
    yield Done(0, "stop", 5, 4, 0.1, 0.3)


def text_of(pairs: list[Pair]) -> str:
    screen = Console(width=100, file=None, record=True, markup=False)
    with screen.capture() as captured:
        screen.print(drawn(pairs))
    return captured.get()


async def test_rows_are_kept_apart() -> None:
    pair = await gather(Pair("云鹤客栈有什么特产？"), events())
    assert (pair.base, pair.tuned) == ("I do not know.", "鱼")
    assert all(end is not None and end.finish == "stop" for end in pair.ends)


async def test_without_a_terminal_the_whole_pair_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    await show_live(Pair("what?"), events())
    printed = capsys.readouterr().out
    assert printed.count("I do not know.") == 1
    assert "鱼" in printed


def test_expected_answers_get_a_column_only_where_there_are_any() -> None:
    assert "expected" not in text_of([Pair("q")]).lower()
    with_expected = Pair("q", expected="fish soup")
    assert "fish soup" in text_of([with_expected])


def test_an_answer_cannot_drive_the_terminal() -> None:
    pair = Pair("q", texts=["\x1b]0;owned\x07", "[red]not markup[/red]"])
    shown = text_of([pair])
    assert "\x1b]" not in shown
    assert "[red]not markup[/red]" in shown
