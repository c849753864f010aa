"""The official ``openai`` SDK against a running server and its real engine."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.server import Server
from tests.spec.conftest import BASE

HI: list[Any] = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as made:
        yield made


def test_whole_and_streamed_answers_say_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": HI, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**asked)
    assert whole.model == BASE and whole.choices[0].message.content and whole.usage
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_two_answers_repeat_with_their_seed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": HI, "max_tokens": 12, "n": 2, "seed": 3, "temperature": 2}
    once, again = (client.chat.completions.create(**asked) for _ in range(2))
    said = [choice.message.content for choice in once.choices]
    assert len(set(said)) == 2 and said == [choice.message.content for choice in again.choices]


async def test_base_and_tuned_answer_the_async_client_side_by_side(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        both = await asyncio.gather(
            *(client.chat.completions.create(model=name, messages=HI, temperature=0, max_tokens=12)
              for name in (BASE, "models/lora/adapter1"))
        )  # fmt: skip
    assert len({answer.choices[0].message.content for answer in both}) == 2


def test_raw_text_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=BASE, prompt=["一加一等于", "你好"], temperature=0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1] and all(choice.text for choice in answer.choices)


def test_log_probabilities_are_told_of_every_token(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": BASE, "temperature": 0, "max_tokens": 6}
    chat = client.chat.completions.create(**asked, messages=HI, logprobs=True, top_logprobs=2)
    told = chat.choices[0].logprobs
    assert told is not None and told.content is not None and chat.usage is not None
    assert chat.usage.completion_tokens - len(told.content) in (0, 1)  # the end token has no text
    for token in told.content:
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # greedy: the likeliest was taken
        assert len(token.top_logprobs) == 2 and bytes(token.bytes or ()).decode("utf-8", "replace") == token.token
    raw = client.completions.create(**asked, prompt="一加一等于", logprobs=2).choices[0]
    assert raw.logprobs is not None and raw.logprobs.tokens is not None and raw.logprobs.token_logprobs is not None
    assert len(raw.logprobs.tokens) == len(raw.logprobs.token_logprobs) > 0


class Verdict(BaseModel):
    good: bool
    town: Literal["云溪", "鹿埠"]


def test_an_answer_satisfies_a_pydantic_model(client: openai.OpenAI) -> None:
    for seed in range(2):
        answer = client.chat.completions.parse(
            model=BASE, messages=HI, response_format=Verdict, max_tokens=400, temperature=1.5, seed=seed
        )
        assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_a_prompt_longer_than_the_context_is_the_callers_mistake(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "你好，" * 20_000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=BASE, messages=messages, stream=stream)
        assert caught.value.type == "invalid_request_error"
