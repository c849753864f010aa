"""What ``Chat.ask`` makes of a call: rows, seeds, owners, and what it does not let through."""

from dataclasses import replace
from typing import Any

import pytest

from tunesmith.datasets.example import Message
from tunesmith.inference.chat import MAX_MESSAGES, MAX_PROMPTS, Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Sampling
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model

SAMPLING = Sampling(max_new_tokens=8, temperature=1, top_p=1, top_k=0, repetition_penalty=1, seed=-4)
MODEL = Model("base", "adapters/town")
TALK = [Message("system", ""), Message("user", "hello"), Message("assistant", "hi")]


async def test_each_prompt_is_answered_n_times_for_its_owner_with_seeds_that_repeat() -> None:
    engine, used = ScriptedEngine(), []
    chat = Chat(engine, used.append)
    answers = await collect(chat.ask([TALK, "once upon"], MODEL, SAMPLING, n=2, owner="ada"), rows=4)
    assert [request.prompt for request in engine.asked] == [tuple(TALK), tuple(TALK), "once upon", "once upon"]
    assert [request.sampling.seed for request in engine.asked] == [-4, -5, -4, -5]
    assert {request.owner for request in engine.asked} == {"ada"} and used == [MODEL]
    assert answers[0].text != answers[1].text
    again = await collect(chat.ask([TALK], MODEL, SAMPLING), rows=1)
    assert again[0].text == answers[0].text


async def test_greedy_answers_of_one_prompt_are_alike() -> None:
    greedy = replace(SAMPLING, temperature=0.0)
    one, other = await collect(Chat(ScriptedEngine()).ask([TALK], MODEL, greedy, n=2), rows=2)
    assert one.text == other.text


async def test_log_probabilities_change_no_answer() -> None:
    plain, telling = SAMPLING, replace(SAMPLING, top_logprobs=20)
    [[one], [other]] = [await collect(Chat(ScriptedEngine()).ask([TALK], MODEL, s), rows=1) for s in (plain, telling)]
    assert one.text == other.text


@pytest.mark.parametrize(
    "prompts, n, field",
    [
        ([], 1, "prompts"),
        (["x"] * (MAX_PROMPTS + 1), 1, "prompts"),
        ([""], 1, "prompt"),
        (["\ud800"], 1, "prompt"),
        ([[]], 1, "messages"),
        ([[Message("user", "x")] * (MAX_MESSAGES + 1)], 1, "messages"),
        ([[Message("user", "\udfff")]], 1, "messages[0].content"),
        (["x"] * 2, MAX_PROMPTS // 2 + 1, "num_return_sequences"),
        (["x"], 0, "num_return_sequences"),
    ],
)
def test_what_cannot_be_asked_is_named(prompts: Any, n: int, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        Chat(ScriptedEngine()).ask(prompts, MODEL, SAMPLING, n=n)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "changed",
    [
        {"min_p": 1.1}, {"min_p": float("nan")}, {"presence_penalty": 2.1}, {"frequency_penalty": -2.1},
        {"top_logprobs": 21}, {"top_logprobs": -1}, {"schema": "x" * ((128 << 10) + 1)},
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(changed: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        Chat(ScriptedEngine()).ask([TALK], MODEL, replace(SAMPLING, **changed))
    assert [caught.value.details["field"]] == list(changed)
