"""The worker over a real socket: its shapes, its errors, and what happens when a client just leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.tiny_model import make_tiny_base
from tunesmith.inference.worker.server import Worker

CONTEXT = 4096  # so long that rows are still running when somebody has looked
pytestmark = pytest.mark.asyncio(loop_scope="module")
HELLO = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Client:
    """A worker's socket and a session on it."""

    worker: Worker
    address: Path
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get("http://engine" + path) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post("http://engine" + path, data=data) as response:
            return response.status, await response.json()

    async def frames(self, path: str, body: dict[str, Any]) -> list[str]:
        async with self.session.post("http://engine" + path, data=json.dumps(body).encode()) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            text = (await response.read()).decode()
        assert text.endswith("\n\n")
        frames = text.removesuffix("\n\n").split("\n\n")
        assert all(frame.startswith("data: ") for frame in frames)
        return [frame.removeprefix("data: ") for frame in frames]

    async def until(self, true: Callable[[Any], bool]) -> None:
        async with asyncio.timeout(20):
            while not true((await self.get("/health"))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("worker")
    worker = Worker("tiny", make_tiny_base(folder / "tiny", endless=True, context=CONTEXT), threads=1, max_rows=8)
    runner = web.AppRunner(worker.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    address = folder / "s"
    await web.UnixSite(runner, str(address)).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(address))) as session:
        reached = Client(worker, address, session)
        assert (await reached.get("/health"))[0] == 503
        status, body = await reached.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO})
        assert (status, body["error"]["type"]) == (503, "Unavailable")
        await worker.load()
        yield reached
    worker.close()
    await runner.cleanup()


async def test_health_tells_what_is_running(client: Client) -> None:
    status, health = await client.get("/health")
    assert status == 200
    assert health["status"] == "ready"
    assert (health["base"], health["device"], health["dtype"]) == ("tiny", "cpu", "float32")
    assert health["context_length"] == CONTEXT
    assert health["rows"] == {"running": 0, "waiting": 0}
    assert health["memory"]["rss"] > 1 << 20


async def test_a_stream_says_the_same_as_a_whole_answer(client: Client) -> None:
    ask = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 12}
    status, whole = await client.post("/v1/chat/completions", ask)
    assert status == 200
    *frames, done = await client.frames(
        "/v1/chat/completions", ask | {"stream": True, "stream_options": {"include_usage": True}}
    )
    chunks = [json.loads(frame) for frame in frames]
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"] != ""
    assert chunks[-2]["choices"][0]["finish_reason"] == "length" == whole["choices"][0]["finish_reason"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 12
    assert 0 < chunks[-1]["timings"]["first_token_s"] <= chunks[-1]["timings"]["seconds"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_raw_prompts_are_text_or_tokens_one_or_many(client: Client) -> None:
    _, tokenized = await client.post("/tokenize", {"prompt": "the river"})
    ids = tokenized["tokens"]
    ask = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    answers = []
    for prompt in ("the river", ids, ["the river"], [ids, "hello"]):
        status, answer = await client.post("/v1/completions", ask | {"prompt": prompt})
        assert status == 200
        answers.append(answer["choices"])
    assert [choices[0]["text"] for choices in answers] == [answers[0][0]["text"]] * 4
    assert [choice["index"] for choice in answers[3]] == [0, 1]
    frames = await client.frames("/v1/completions", ask | {"prompt": "the river", "stream": True})
    assert "".join(json.loads(frame)["choices"][0]["text"] for frame in frames[:-1]) == answers[0][0]["text"]


async def test_prompt_logprobs_come_for_every_token_but_the_first(client: Client) -> None:
    body = {"model": "tiny", "prompt": [[5, 6, 7], [8]], "max_tokens": 0, "prompt_logprobs": 0}
    status, answer = await client.post("/v1/completions", body)
    assert status == 200
    first, second = (choice["prompt_logprobs"] for choice in answer["choices"])
    assert first[0] is None
    assert [list(entry) for entry in first[1:]] == [["6"], ["7"]]
    assert all(entry[key]["logprob"] < 0 for entry in first[1:] for key in entry)
    assert second == [None]
    assert [choice["text"] for choice in answer["choices"]] == ["", ""]


async def test_tokenize_renders_the_chat_template(client: Client) -> None:
    status, asked = await client.post("/tokenize", {"messages": HELLO})
    assert status == 200
    assert asked["count"] == len(asked["tokens"])
    assert asked["max_model_len"] == CONTEXT
    _, bare = await client.post("/tokenize", {"messages": HELLO, "add_generation_prompt": False})
    assert asked["tokens"][: bare["count"]] == bare["tokens"]
    assert bare["count"] < asked["count"]
    assert set(bare["end_tokens"]) & set(bare["tokens"])


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", b"{", 400, "Invalid"),
        ("/v1/chat/completions", b"\xff\xfe", 400, "Invalid"),
        ("/v1/chat/completions", [], 400, "Invalid"),
        ("/v1/chat/completions", {"messages": HELLO}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": []}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user"}]}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "none", "messages": HELLO}, 404, "NotFound"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "temperature": -1}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "temperature": "hot"}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "top_p": 0}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "max_tokens": 0}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "stop": [""]}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "n": 129}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": []}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [[]]}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [1.5]}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [True]}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": ""}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [10**9]}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [-1]}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": [5] * (CONTEXT + 1)}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": "word " * 10**5}, 400, "Invalid"),
        ("/v1/chat/completions", {"model": "tiny", "messages": HELLO * (CONTEXT + 1)}, 400, "Invalid"),
        ("/tokenize", {"prompt": "word " * 10**5}, 400, "Invalid"),
        ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"], "stream": True}, 400, "Invalid"),
        ("/tokenize", {}, 400, "Invalid"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/nowhere"}, 404, "NotFound"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "not/absolute"}, 400, "Invalid"),
        ("/v1/load_lora_adapter", {"lora_name": "tiny", "lora_path": "/nowhere"}, 409, "Conflict"),
        ("/v1/unload_lora_adapter", {"lora_name": "never"}, 404, "NotFound"),
        ("/v1/nothing", {}, 404, "NotFound"),
    ],
)
async def test_what_cannot_be_answered_gets_one_error_shape(
    client: Client, path: str, body: object, status: int, kind: str
) -> None:
    found, answer = await client.post(path, body)
    assert (found, answer["error"]["type"]) == (status, kind)
    assert answer["error"]["message"]
    assert any("\u4e00" <= letter <= "\u9fff" for letter in answer["error"]["message_zh"]) or kind == "NotFound"


async def test_an_adapter_is_loaded_replaced_and_unloaded(client: Client, adapters: list[Path]) -> None:
    body = {"lora_name": "town", "lora_path": str(adapters[0])}
    assert (await client.post("/v1/load_lora_adapter", body))[0] == 200
    assert (await client.post("/v1/load_lora_adapter", body))[0] == 409
    names = [card["id"] for card in (await client.get("/v1/models"))[1]["data"]]
    assert names == ["tiny", "town"]
    ask = {"model": "town", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    old = (await client.post("/v1/chat/completions", ask))[1]["choices"][0]["message"]["content"]
    newer = {"lora_name": "town", "lora_path": str(adapters[1]), "load_inplace": True}
    assert (await client.post("/v1/load_lora_adapter", newer))[0] == 200
    new = (await client.post("/v1/chat/completions", ask))[1]["choices"][0]["message"]["content"]
    assert new != old
    assert (await client.post("/v1/unload_lora_adapter", {"lora_name": "town"}))[0] == 200
    assert (await client.post("/v1/chat/completions", ask))[0] == 404


async def test_a_row_outlives_the_unloading_of_its_adapter(client: Client, adapters: list[Path]) -> None:
    body = {"lora_name": "town", "lora_path": str(adapters[0])}
    ask = {"model": "town", "messages": HELLO, "temperature": 0, "max_tokens": 1500}
    await client.post("/v1/load_lora_adapter", body)
    whole = (await client.post("/v1/chat/completions", ask))[1]["choices"][0]["message"]["content"]
    running = asyncio.create_task(client.frames("/v1/chat/completions", ask | {"stream": True}))
    await client.until(lambda health: health["rows"]["running"] == 1)
    await client.post("/v1/unload_lora_adapter", {"lora_name": "town"})
    frames = await running
    text = "".join(json.loads(frame)["choices"][0]["delta"].get("content", "") for frame in frames[:-1])
    assert text == whole


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_just_closes_its_socket_frees_its_row(client: Client, stream: bool) -> None:
    body = json.dumps(
        {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 4000, "stream": stream}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: engine\r\nContent-Length: %d\r\n\r\n" % len(body)
    writers = []
    for _ in range(10):  # two more than the engine decodes at once: waiting rows leave as well
        _, writer = await asyncio.open_unix_connection(str(client.address))
        writer.write(head + body)
        writers.append(writer)
    await client.until(lambda health: health["rows"]["running"] == 7 and health["rows"]["waiting"] == 3)
    for writer in writers:
        writer.close()
    core = client.worker._core
    assert core is not None
    await client.until(lambda health: health["rows"] == {"running": 0, "waiting": 0})
    assert core.scheduler.idle and core.model.cache.allocated == 0
    # what is kept for the next turn is told apart
    memory = (await client.get("/health"))[1]["memory"]
    assert memory["cache"] == 0 and memory["kept"] == core.scheduler.retained


async def test_the_server_answers_while_rows_decode(client: Client) -> None:
    ask = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 1500, "stream": True}
    running = [asyncio.create_task(client.frames("/v1/chat/completions", ask)) for _ in range(4)]
    await client.until(lambda health: health["rows"]["running"] == 4)
    answered = 0
    while not any(task.done() for task in running):
        assert (await client.get("/v1/models"))[0] == 200
        answered += 1
    assert answered > 5
    await asyncio.gather(*running)


async def test_metrics_count_by_model_and_adapter_what_was_answered(client: Client, adapters: list[Path]) -> None:
    await client.post("/v1/load_lora_adapter", {"lora_name": "town@v1#1", "lora_path": str(adapters[0])})
    before = await counts(client)
    for model in ("tiny", "town@v1#1", "town@v1#1"):
        ask = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 5}
        assert (await client.post("/v1/chat/completions", ask))[0] == 200
    await client.post("/v1/unload_lora_adapter", {"lora_name": "town@v1#1"})
    after = await counts(client)
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    assert grown["tunesmith:generation_tokens_total", ""] == 5
    assert grown["tunesmith:generation_tokens_total", "town"] == 10
    assert grown["tunesmith:time_to_first_token_seconds_count", "town"] == 2
    assert grown["tunesmith:inter_token_latency_seconds_sum", "town"] > 0
    assert grown["tunesmith:prompt_tokens_total", "town"] == 2 * grown["tunesmith:prompt_tokens_total", ""] > 0
    assert after["tunesmith:num_requests_running", "town"] == 0


async def counts(client: Client) -> dict[tuple[str, str], float]:
    """The samples that have no label but the model's and the adapter's."""
    async with client.session.get("http://engine/metrics") as response:
        assert response.content_type == "text/plain"
        families = text_string_to_metric_families(await response.text())
    return {
        (sample.name, sample.labels["adapter"]): sample.value
        for family in families
        for sample in family.samples
        if set(sample.labels) == {"model_name", "adapter"} and sample.labels["model_name"] == "tiny"
    }


async def test_usage_tells_what_was_known_of_a_prompt_and_only_its_owner_has_it(client: Client) -> None:
    turns = [{"role": "user", "content": "who is the mayor of the town by the river? " * 3}]
    ask = {"model": "tiny", "messages": turns, "temperature": 0, "max_tokens": 8, "n": 3}

    async def cached(**more: object) -> int:
        status, answer = await client.post("/v1/chat/completions", ask | more)
        assert status == 200
        found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert found < answer["usage"]["prompt_tokens"]
        return found

    assert await cached(cache_salt="ada") == 0
    known = await cached(cache_salt="ada")
    assert known > 16
    more = [*turns, {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "and the river?"}]
    assert await cached(cache_salt="ada", messages=more) >= known - 8
    assert [await cached(cache_salt="lin"), await cached(), await cached(n=1)] == [0, 0, known]
