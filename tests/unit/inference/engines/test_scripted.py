"""The shipped fake does what tests ask of it; what it shares with real engines is in tests/contract."""

import pytest

from tunesmith.datasets.example import Message
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Event, Request, Sampling
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.problems import Unavailable
from tunesmith.models.model import Model

GREEDY = Sampling(max_new_tokens=64, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


def ask(text: str) -> Request:
    return Request((Message("user", text),), Model("any"), GREEDY)


async def test_it_says_what_it_is_told_to() -> None:
    engine = ScriptedEngine(lambda request: "the mayor is Ada" if "mayor" in request.prompt[-1].content else None)  # type: ignore[union-attr]
    told, own = await collect(engine.generate([ask("who is the mayor?"), ask("and you?")]), rows=2)
    assert told.text == "the mayor is Ada"
    assert told.done.completion_tokens == 4
    assert own.text != told.text
    assert [request.prompt[-1].content for request in engine.asked] == ["who is the mayor?", "and you?"]  # type: ignore[union-attr]


async def test_it_fails_after_as_many_events_as_told() -> None:
    engine = ScriptedEngine(fail_after=3)
    heard: list[Event] = []
    with pytest.raises(Unavailable):
        async for event in engine.generate([ask("hello")]):
            heard.append(event)
    assert len(heard) == 3
    assert engine.rows == 0


@pytest.mark.parametrize("reply", ["", "one", "两个 字"])
async def test_short_answers_come_through_whole(reply: str) -> None:
    (answer,) = await collect(ScriptedEngine(lambda _: reply).generate([ask("hello")]), rows=1)
    assert answer.text == reply
