"""What may be asked, checked before any engine is."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from tunesmith.datasets.example import Message
from tunesmith.inference.chat import BASE, MAX_PROMPTS, TUNED, Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling, Score
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.problems import Invalid, NotFound, Unavailable
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
        ("min_p", float("nan")),
        ("min_p", 1.1),
        ("presence_penalty", -2.5),
        ("frequency_penalty", float("inf")),
        ("top_logprobs", 21),
    ],
)
def test_a_sampling_value_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(Invalid):
        Chat(Echo()).answer(HELLO, MODEL, replace(SAMPLING, **{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("prompts", [[], [""], ["a", " "], ["a"] * 5000])
def test_a_batch_without_or_with_too_many_or_empty_prompts_is_refused(prompts: list[str]) -> None:
    with pytest.raises(Invalid):
        Chat(Echo()).batch(prompts, MODEL, SAMPLING)


# -- several answers to a prompt -------------------------------------------------------------------------------------

WARM = replace(SAMPLING, temperature=1.0)


async def test_samples_are_asked_in_one_call_prompt_by_prompt() -> None:
    engine = ScriptedEngine()
    answers = await collect(Chat(engine).samples(["a", "b"], MODEL, WARM, 3), rows=6)
    assert [row.prompt[-1].content for row in engine.asked] == ["a"] * 3 + ["b"] * 3  # type: ignore[union-attr]
    assert {row.model for row in engine.asked} == {MODEL} and len(answers) == 6


async def test_samples_differ_without_a_seed() -> None:
    engine = ScriptedEngine()
    answers = await collect(Chat(engine).samples(["a"], MODEL, WARM, 8), rows=8)
    assert len({answer.text for answer in answers}) == 8
    assert {row.sampling for row in engine.asked} == {WARM}


async def test_the_kth_sample_of_each_prompt_is_drawn_with_the_seed_plus_k_and_repeats() -> None:
    engine, seeded = ScriptedEngine(), replace(WARM, seed=40)
    first, again = [await collect(Chat(engine).samples(["a", "b"], MODEL, seeded, 3), rows=6) for _ in range(2)]
    assert [row.sampling.seed for row in engine.asked] == [40, 41, 42] * 4
    assert [one.text for one in first] == [one.text for one in again]
    assert len({one.text for one in first[:3]}) == 3


@pytest.mark.parametrize("seed", [0, (1 << 63) - 1, -1, -5])
async def test_seeds_stay_apart_in_size_and_within_63_bits(seed: int) -> None:
    engine = ScriptedEngine()
    await collect(Chat(engine).samples(["a"], MODEL, replace(WARM, seed=seed), 20), rows=20)
    seeds = [row.sampling.seed for row in engine.asked]
    assert seeds[0] == seed and None not in seeds
    # generators may take a seed by its magnitude
    assert len({abs(each) for each in seeds if each is not None}) == 20
    assert all(-(1 << 63) < each < 1 << 63 for each in seeds if each is not None)


async def test_a_batch_is_one_sample_of_each_prompt_with_the_seed_as_it_is() -> None:
    engine, seeded = ScriptedEngine(), replace(SAMPLING, seed=-3)
    await collect(Chat(engine).batch(["a", "b"], MODEL, seeded), rows=2)
    assert [row.sampling for row in engine.asked] == [seeded, seeded]


@pytest.mark.parametrize(
    ("prompts", "n", "sampling"),
    [
        (1, 0, WARM),
        (1, -1, WARM),
        (1, MAX_PROMPTS + 1, WARM),
        (2, MAX_PROMPTS // 2 + 1, WARM),
        (1, 10**12, WARM),
        (1, 2, SAMPLING),
        (1, 2, replace(WARM, top_k=1)),
    ],
)
def test_a_number_of_samples_that_cannot_be_or_would_all_be_the_same_is_refused(
    prompts: int, n: int, sampling: Sampling
) -> None:
    with pytest.raises(Invalid) as refused:
        Chat(Echo()).samples(["a"] * prompts, MODEL, sampling, n)
    assert refused.value.details["field"] == "num_return_sequences" and refused.value.zh and refused.value.en


def test_as_many_rows_as_a_call_holds_are_taken() -> None:
    Chat(Echo()).samples(["a"] * 2, MODEL, WARM, MAX_PROMPTS // 2)
    Chat(Echo()).samples(["a"], MODEL, SAMPLING, 1)


# -- use -------------------------------------------------------------------------------------------------------------

Ask = Callable[[Chat], AsyncGenerator[Event, None]]
CALLS: list[Ask] = [
    lambda chat: chat.answer(HELLO, MODEL, SAMPLING),
    lambda chat: chat.batch(["a", "b", "c"], MODEL, SAMPLING),
    lambda chat: chat.samples(["a", "b"], MODEL, WARM, 3),
    lambda chat: chat.complete("a", MODEL, SAMPLING),
]


async def drain(events: AsyncGenerator[Event, None]) -> int:
    async with aclosing(events) as stream:
        return len([event async for event in stream])


@pytest.mark.parametrize("ask", CALLS, ids=["answer", "batch", "samples", "complete"])
async def test_a_call_is_one_use_of_its_model_however_many_rows_it_has(ask: Ask) -> None:
    used: list[Model] = []
    assert await drain(ask(Chat(ScriptedEngine(), used.append))) > 1
    assert used == [MODEL]


async def test_comparing_uses_the_bare_base_and_the_tuned_model_once_each() -> None:
    used: list[Model] = []
    await drain(Chat(ScriptedEngine(), used.append).compare(HELLO, MODEL, SAMPLING))
    assert used == [MODEL.bare(), MODEL]
    used.clear()
    await drain(Chat(ScriptedEngine(), used.append).compare(HELLO, MODEL.bare(), SAMPLING))
    assert used == [MODEL.bare()]


async def test_a_use_is_told_with_the_first_event_and_stays_told_when_the_answer_breaks() -> None:
    used: list[Model] = []
    events = Chat(ScriptedEngine(fail_after=2), used.append).answer(HELLO, MODEL, SAMPLING)
    assert used == []
    await anext(events)
    assert used == [MODEL]
    with pytest.raises(Unavailable):
        await drain(events)
    assert used == [MODEL]


async def test_what_is_refused_or_never_begun_is_no_use() -> None:
    used: list[Model] = []
    chat = Chat(ScriptedEngine(models=()), used.append)
    with pytest.raises(Invalid):
        chat.answer([], MODEL, SAMPLING)
    with pytest.raises(NotFound):
        await drain(chat.answer(HELLO, MODEL, SAMPLING))
    with pytest.raises(Unavailable):
        await drain(Chat(ScriptedEngine(fail_after=0), used.append).answer(HELLO, MODEL, SAMPLING))
    await Chat(ScriptedEngine(), used.append).answer(HELLO, MODEL, SAMPLING).aclose()
    assert used == []


async def test_leaving_an_answer_closes_the_engines_rows() -> None:
    engine = ScriptedEngine()
    events = Chat(engine).answer(HELLO, MODEL, SAMPLING)
    await anext(events)
    assert engine.rows == 1
    await events.aclose()
    assert engine.rows == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda chat: chat.answer(HELLO, MODEL, SAMPLING, "ada"),
        lambda chat: chat.compare(HELLO, MODEL, SAMPLING, "ada"),
        lambda chat: chat.batch(["a", "b"], MODEL, SAMPLING, "ada"),
        lambda chat: chat.complete("a", MODEL, SAMPLING, "ada"),
    ],
)
async def test_every_row_of_a_call_is_its_callers(ask: Ask) -> None:
    engine = ScriptedEngine()
    async for _ in ask(Chat(engine)):
        pass
    assert engine.asked and {request.owner for request in engine.asked} == {"ada"}
