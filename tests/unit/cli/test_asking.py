"""Conversations and comparisons from the command line, with an engine that says what it is told."""

import io
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.app import Services
from tunesmith.cli.asking import Talk, questions, sampling_of, start_engine, tuned_model
from tunesmith.cli.session import Session, opened
from tunesmith.inference.chat import Chat
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Score
from tunesmith.inference.switchboard import tuned_model as at_provider
from tunesmith.kernel.problems import Invalid, NotFound, Unavailable
from tunesmith.models.model import Model

from .test_models import make_adapter


class Echo:
    """Repeats the last message; notes how many messages it was shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        for row, request in enumerate(requests):
            self.shown.append(len(request.prompt))
            text = request.prompt[-1].content  # type: ignore[union-attr]
            if text == "break":
                raise Unavailable("引擎已崩溃", "the engine crashed")
            for word in text.split():
                yield Delta(row, word)
            yield Done(row, "stop", 1, 1, 0.0, 0.0)

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        return []


@pytest.fixture
def services(home: Path) -> Iterator[Services]:
    with opened(home) as composed:
        yield replace(composed, chat=Chat(Echo()))


def talk_with(services: Services, system: str | None = None) -> tuple[Talk, Echo]:
    echo = Echo()
    return Talk(replace(services, chat=Chat(echo)), Model("tunesmith-small"), sampling_of(0, 1, 16, None), system), echo


async def test_a_conversation_grows_by_question_and_answer(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    talk, echo = talk_with(services, system="be brief")
    await talk.ask("one two")
    answer, done = await talk.ask("three")
    assert (answer, done.finish) == ("three", "stop")
    assert echo.shown == [2, 4]
    assert capsys.readouterr().out == "onetwo\nthree\n"
    talk.reset()
    await talk.ask("again", quiet=True)
    assert echo.shown[-1] == 2
    assert capsys.readouterr().out == ""


async def test_a_question_that_failed_is_not_part_of_the_conversation(services: Services) -> None:
    talk, echo = talk_with(services)
    with pytest.raises(Unavailable):
        await talk.ask("break")
    await talk.ask("go on", quiet=True)
    assert echo.shown == [1, 1]


def test_questions_are_the_lines_of_the_input_until_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("first\n\n  second  \n/quit\nnever\n"))
    assert list(questions()) == ["first", "second"]


def test_compare_takes_the_named_adapter_or_the_newest(services: Services, home: Path) -> None:
    with pytest.raises(NotFound):
        tuned_model(services, None)
    make_adapter(home / "adapters" / "town")
    expected = Model("tunesmith-small", "adapters/town")
    assert tuned_model(services, None) == expected
    assert tuned_model(services, "adapters/town") == expected
    with pytest.raises(Invalid):
        tuned_model(services, "tunesmith-small")


def test_a_model_at_a_provider_starts_no_engine_of_this_machine() -> None:
    class Nothing:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for")

    session: Session = Nothing()  # type: ignore[assignment]
    start_engine(session, at_provider("0" * 32, "together_ai", "acme/base"))
    with pytest.raises(AssertionError):
        start_engine(session, Model("tiny"))
