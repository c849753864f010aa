"""What may be asked, checked before any engine is."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from tunesmith.datasets.example import Message
from tunesmith.inference.chat import BASE, TUNED, Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling, Score
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model

SAMPLING = Sampling(max_new_tokens=8, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
MODEL = Model("base", "adapters/town")
HELLO = [Message("user", "hello")]


class Echo:
    """Says which model each row was asked of, and what."""

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        for row, request in enumerate(requests):
            yield Delta(row, f"{request.model.adapter}: {request.prompt[-1].content}")  # type: ignore[union-attr]
            yield Done(row, "stop", 1, 1, 0.0, 0.0)

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        return []


async def test_compare_asks_the_bare_base_and_the_tuned_model_the_same_question() -> None:
    answers = await collect(Chat(Echo()).compare(HELLO, MODEL, SAMPLING), rows=2)
    assert answers[BASE].text == "None: hello"
    assert answers[TUNED].text == "adapters/town: hello"


async def test_batch_answers_in_order() -> None:
    answers = await collect(Chat(Echo()).batch(["a", "b"], MODEL, SAMPLING), rows=2)
    assert [answer.text for answer in answers] == ["adapters/town: a", "adapters/town: b"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Message("assistant", "hi")],
        [Message("user", "hi"), Message("system", "be kind")],
        [Message("user", "  \n")],
        [Message("user", "\ud800")],
        HELLO * 100_000,
    ],
)
def test_a_conversation_nobody_can_answer_is_refused_with_its_field(messages: list[Message]) -> None:
    with pytest.raises(Invalid) as refused:
        Chat(Echo()).answer(messages, MODEL, SAMPLING)
    assert str(refused.value.details["field"]).startswith("messages")
    assert refused.value.zh and refused.value.en


@pytest.mark.parametrize(
    "field, value",
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 10**12),
        ("temperature", float("nan")),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("nan")),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
    ],
)
def test_a_sampling_value_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(Invalid):
        Chat(Echo()).answer(HELLO, MODEL, replace(SAMPLING, **{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("prompts", [[], [""], ["a", " "], ["a"] * 5000])
def test_a_batch_without_or_with_too_many_or_empty_prompts_is_refused(prompts: list[str]) -> None:
    with pytest.raises(Invalid):
        Chat(Echo()).batch(prompts, MODEL, SAMPLING)
