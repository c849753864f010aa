"""What a decoding request can ask for, over a real socket: the same in streams as in whole answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.tiny_model import make_tiny_base
from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Request, Sampling, TokenLogprob
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.worker import scheduler
from tunesmith.inference.worker.server import Worker
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model

pytestmark = pytest.mark.asyncio(loop_scope="module")
HELLO = [{"role": "user", "content": "hello"}]
CHAT, RAW = "/v1/chat/completions", "/v1/completions"
GREEDY = Sampling(max_new_tokens=12, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
TOWN = {
    "type": "object",
    "properties": {
        "mayor": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["mayor", "size"],
    "additionalProperties": False,
}


# ASCII alone: halves of characters and special tokens look otherwise in a text than alone
LETTERS = {
    "type": "json_schema",
    "json_schema": {"name": "letters", "schema": {"type": "string", "pattern": "^[a-z ]{99}$"}},
}


def spelled(content: list[dict[str, Any]]) -> str:
    """The text that the bytes of the tokens make; special tokens are told and not shown."""
    shown = (bytes(one["bytes"]) for one in content if not one["token"].startswith("<|"))
    return b"".join(shown).decode("utf-8", "replace")


@dataclass(frozen=True)
class Asking:
    """A worker's socket, asked directly and through the client."""

    session: aiohttp.ClientSession
    engine: OpenAIEngine
    worker: Worker

    async def whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post("http://engine" + path, json={"model": "tiny"} | body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def refused(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post("http://engine" + path, json={"model": "tiny"} | body) as response:
            assert response.status == 400
            error: dict[str, Any] = (await response.json())["error"]
            return error

    async def chunks(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        async with self.session.post("http://engine" + path, json={"model": "tiny", "stream": True} | body) as response:
            assert response.status == 200
            frames = (await response.text()).removesuffix("\n\n").split("\n\n")
        assert frames[-1] == "data: [DONE]"
        return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def asking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    folder: Path = tmp_path_factory.mktemp("worker")
    worker = Worker("tiny", make_tiny_base(folder / "tiny", endless=True), threads=1, max_rows=8)
    runner = web.AppRunner(worker.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "s")).start()
    await worker.load()
    engine = OpenAIEngine.worker(folder / "s")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(folder / "s"))) as session:
        yield Asking(session, engine, worker)
    await engine.close()
    worker.close()
    await runner.cleanup()


async def test_log_probabilities_of_chat_belong_to_its_text_in_streams_too(asking: Asking) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 20, "logprobs": True, "top_logprobs": 3}
    (choice,) = (await asking.whole(CHAT, ask))["choices"]
    content = choice["logprobs"]["content"]
    assert len(content) == 20
    assert spelled(content) == choice["message"]["content"]
    for one in content:
        assert one["logprob"] == pytest.approx(max(top["logprob"] for top in one["top_logprobs"]))  # it is greedy
        assert len(one["top_logprobs"]) == 3
        assert one["logprob"] < 0
    chunks = await asking.chunks(CHAT, ask)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == choice["message"]["content"]
    streamed = [one for chunk in chunks for one in (chunk["choices"][0].get("logprobs") or {"content": []})["content"]]
    assert streamed == content
    plain = await asking.chunks(CHAT, ask | {"logprobs": False, "top_logprobs": None})
    assert not any("logprobs" in chunk["choices"][0] for chunk in plain)


async def test_raw_completion_tells_them_in_columns_and_where_each_token_begins(asking: Asking) -> None:
    ask = {"prompt": "the river", "temperature": 0, "max_tokens": 15, "logprobs": 2, "response_format": LETTERS}
    (choice,) = (await asking.whole(RAW, ask))["choices"]
    told = choice["logprobs"]
    assert {len(column) for column in told.values()} == {15}
    assert "".join(told["tokens"]) == choice["text"]
    assert [
        choice["text"].find(token, at) for token, at in zip(told["tokens"], told["text_offset"], strict=True)
    ] == told["text_offset"]
    assert all(2 <= len(likeliest) <= 3 for likeliest in told["top_logprobs"])
    streamed: dict[str, list[Any]] = {name: [] for name in told}
    for chunk in await asking.chunks(RAW, ask):
        for name, column in (chunk["choices"][0].get("logprobs") or {}).items():
            streamed[name] += column
    assert streamed == told


async def test_a_stop_string_cuts_log_probabilities_with_the_text(asking: Asking) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 20, "logprobs": True, "response_format": LETTERS}
    (whole,) = (await asking.whole(CHAT, ask))["choices"]
    text = whole["message"]["content"]
    (cut,) = (await asking.whole(CHAT, ask | {"stop": text[7:10]}))["choices"]
    kept = cut["message"]["content"]
    assert kept == text[: text.index(text[7:10])]
    told = cut["logprobs"]["content"]
    assert told == whole["logprobs"]["content"][: len(told)]
    assert kept.startswith("".join(one["token"] for one in told))


async def test_several_answers_to_one_prompt_are_those_of_their_seeds(asking: Asking) -> None:
    ask = {"messages": HELLO, "temperature": 1.2, "max_tokens": 12, "seed": 40}
    answer = await asking.whole(CHAT, ask | {"n": 5})
    assert [choice["index"] for choice in answer["choices"]] == list(range(5))
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    alone = [await asking.whole(CHAT, ask | {"seed": 40 + k}) for k in range(5)]
    assert texts == [one["choices"][0]["message"]["content"] for one in alone]
    assert len(set(texts)) > 1
    assert answer["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 60
    chunks = await asking.chunks(CHAT, ask | {"n": 5, "stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == answer["usage"]
    streamed, ended, roles = [""] * 5, [0] * 5, [0] * 5
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        at = choice["index"]
        assert not ended[at]
        streamed[at] += choice["delta"].get("content", "")
        ended[at] += choice["finish_reason"] == "length"
        roles[at] += "role" in choice["delta"]
    assert (streamed, ended, roles) == (texts, [1] * 5, [1] * 5)


async def test_several_answers_to_several_raw_prompts_come_prompt_by_prompt(asking: Asking) -> None:
    ask = {"prompt": ["the river", "hello"], "temperature": 1.0, "max_tokens": 6, "seed": 3, "n": 2, "logprobs": 0}
    answer = await asking.whole(RAW, ask)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for prompt in range(2):
        for k in range(2):
            one = await asking.whole(RAW, ask | {"prompt": ask["prompt"][prompt], "n": 1, "seed": 3 + k})  # type: ignore[index]
            assert one["choices"][0]["text"] == answer["choices"][2 * prompt + k]["text"]
    too_many = await asking.refused(RAW, ask | {"prompt": ["a"] * 600})
    assert too_many["param"] == "n"
    assert (await asking.refused(RAW, {"prompt": "a", "max_tokens": 0, "prompt_logprobs": 0, "n": 2}))["param"] == "n"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_keeps_to_its_schema_and_ends_when_it_is_whole(asking: Asking, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN, "strict": True}}
    ask = {"messages": HELLO, "temperature": 1.5, "max_tokens": 300, "seed": 1, "response_format": form, "n": 3}
    texts = [""] * 3
    if stream:
        for chunk in await asking.chunks(CHAT, ask):
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            assert choice["finish_reason"] in (None, "stop")
    else:
        answer = await asking.whole(CHAT, ask)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    towns = [json.loads(text) for text in texts]
    assert all(set(town) == {"mayor", "size"} and 0 <= town["size"] < 100 for town in towns)


async def test_a_schema_that_repeats_itself_is_kept_to_its_end_and_not_a_token_longer(asking: Asking) -> None:
    schema = {"type": "array", "items": {"const": "river"}, "minItems": 12, "maxItems": 12}
    form = {"type": "json_schema", "json_schema": {"name": "rivers", "schema": schema}}
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 450, "response_format": form}
    answer = await asking.whole(CHAT, ask)
    assert json.loads(answer["choices"][0]["message"]["content"]) == ["river"] * 12
    told = await asking.whole(CHAT, ask | {"logprobs": True})
    assert told["choices"][0]["message"] == answer["choices"][0]["message"]
    content = told["choices"][0]["logprobs"]["content"]
    assert len(content) == told["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]


async def test_any_object_may_be_asked_for(asking: Asking) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 40, "response_format": {"type": "json_object"}}
    text = (await asking.whole(CHAT, ask))["choices"][0]["message"]["content"]
    assert text.startswith("{")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"enum": ["x" * 100 for _ in range(2000)]},
        {"properties": {f"k{i}": {"type": "integer"} for i in range(1500)}},
        None,
        [],
    ],
)
async def test_a_hostile_schema_is_refused_before_anything_is_said_and_others_go_on(
    asking: Asking, schema: object
) -> None:
    beside = asyncio.create_task(asking.whole(CHAT, {"messages": HELLO, "temperature": 0, "max_tokens": 100}))
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    ask = {"messages": HELLO, "max_tokens": 10, "response_format": form, "stream": True}
    error = await asking.refused(CHAT, ask)
    assert error["type"] == "Invalid"
    assert error["param"] == "response_format"
    assert "JSON schema" in error["message"] or "bytes" in error["message"]
    assert (await beside)["usage"]["completion_tokens"] == 100


async def test_penalties_and_min_p_change_what_is_said(asking: Asking) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 40}
    plain = (await asking.whole(CHAT, ask))["choices"][0]["message"]["content"]
    for change in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 1.5}):
        assert (await asking.whole(CHAT, ask | change))["choices"][0]["message"]["content"] != plain
    hot = {"temperature": 1.5, "seed": 1}
    assert (await asking.whole(CHAT, ask | hot))["choices"][0]["message"]["content"] != plain
    assert (await asking.whole(CHAT, ask | hot | {"min_p": 1}))["choices"][0]["message"]["content"] == plain


async def heard(engine: OpenAIEngine, request: Request) -> tuple[str, list[TokenLogprob], Done]:
    text, told, done = "", [], None
    async with aclosing(engine.generate([request])) as events:
        async for event in events:
            if isinstance(event, Delta):
                assert event.text or event.logprobs
                text += event.text
                told += event.logprobs
            else:
                done = event
    assert done is not None
    return text, told, done


async def test_the_client_carries_everything_there_and_back(asking: Asking) -> None:
    messages = (Message("user", "hello"),)
    for prompt in (messages, "the river"):
        text, told, done = await heard(asking.engine, Request(prompt, Model("tiny"), replace(GREEDY, top_logprobs=4)))
        assert (done.completion_tokens, len(told)) == (12, 12)
        assert all(token.top[0].logprob == pytest.approx(token.logprob) for token in told)
        # that wire names tokens by their text, so those that look alike are one
        assert all(len(token.top) == 4 or (isinstance(prompt, str) and token.top) for token in told)
        shown = b"".join(token.raw for token in told if not token.text.startswith("<|")).decode("utf-8", "replace")
        assert shown == ("" if isinstance(prompt, str) else text)
        _, told, _ = await heard(asking.engine, Request(prompt, Model("tiny"), replace(GREEDY, top_logprobs=0)))
        assert [token.top for token in told] == [()] * 12
        _, told, _ = await heard(asking.engine, Request(prompt, Model("tiny"), GREEDY))
        assert told == []
    town = replace(GREEDY, temperature=1.0, seed=2, max_new_tokens=300, schema=json.dumps(TOWN), min_p=0.05)
    text, _, done = await heard(asking.engine, Request(messages, Model("tiny"), town, owner="ada"))
    assert set(json.loads(text)) == {"mayor", "size"}
    assert done.finish == "stop"
    with pytest.raises(Invalid):
        await heard(asking.engine, Request(messages, Model("tiny"), replace(GREEDY, schema='{"$ref": "http://a/b"}')))


async def test_nothing_is_guessed_where_each_token_has_to_be_looked_at(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Watched(scheduler.Drafter):
        def __init__(self, prompt: Sequence[int], said: Sequence[int]) -> None:
            made.append(prompt)
            super().__init__(prompt, said)

    monkeypatch.setattr(scheduler, "Drafter", Watched)
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 8}
    await asking.whole(CHAT, ask | {"logprobs": True})
    await asking.whole(CHAT, ask | {"response_format": LETTERS})
    assert made == []
    await asking.whole(CHAT, ask)
    assert len(made) == 1


async def test_guesses_come_true_and_change_nothing(asking: Asking) -> None:
    said = "the mayor of the town is called Ada " * 4
    for heat in (
        {"temperature": 0},
        {"temperature": 0.7, "seed": 5, "frequency_penalty": 0.2, "repetition_penalty": 0.9},
    ):
        ask = {"prompt": said, "max_tokens": 60} | heat
        text = (await asking.whole(RAW, ask))["choices"][0]["text"]
        # log-probabilities are told token by token, so nothing is guessed
        assert (await asking.whole(RAW, ask | {"logprobs": 0}))["choices"][0]["text"] == text
