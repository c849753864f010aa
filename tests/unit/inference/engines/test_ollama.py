"""Answers from Ollama, over its own wire and real sockets, from servers that behave and servers that do not."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from tests.unit.inference.engines import serving
from tests.unit.inference.engines.serving import Handler
from tests.upstreams.modes import spoken
from tests.upstreams.running import Upstream, misbehaving
from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling
from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.upstream import Terms
from tunesmith.inference.engines.watch import Patience
from tunesmith.inference.ollama import OllamaTotals
from tunesmith.kernel.problems import (
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TimedOut,
    TooMany,
    Unavailable,
    Unsupported,
)
from tunesmith.models.model import Model

PLAIN = Sampling(max_new_tokens=8, temperature=0.5, top_p=0.9, top_k=0, repetition_penalty=1.0)
QWEN = Model("qwen3:8b")


@asynccontextmanager
async def ollama(handler: Handler, terms: Terms = Terms(), **options: Any) -> AsyncIterator[OllamaEngine]:  # noqa: B008
    """An engine whose server answers everything with ``handler``."""
    async with serving.serving(handler) as url:
        engine = OllamaEngine.at(f"{url}/", terms, **options)
        try:
            yield engine
        finally:
            await engine.close()


def says(*pieces: bytes) -> Handler:
    """Streams ``pieces`` as they stand, one write each."""
    return serving.says(*pieces, content_type="application/x-ndjson")


def answers(status: int, body: bytes) -> Handler:
    return serving.answers(status, body, "application/json")


def line(text: str = "", **more: Any) -> bytes:
    """A line of /api/chat."""
    message = {"role": "assistant", "content": text, **more}
    return json.dumps({"model": "qwen3:8b", "message": message, "done": False}, ensure_ascii=False).encode() + b"\n"


def end(reason: str = "stop", text: str = "", **counts: int) -> bytes:
    """The last line of /api/chat."""
    message = {"role": "assistant", "content": text}
    last = {"model": "qwen3:8b", "message": message, "done": True, "done_reason": reason, **counts}
    return json.dumps(last).encode() + b"\n"


def ask(text: str = "hello", sampling: Sampling = PLAIN, model: Model = QWEN) -> Request:
    return Request((Message("user", text),), model, sampling)


async def heard(engine: OllamaEngine, *requests: Request) -> list[Event]:
    async with aclosing(engine.generate(requests)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_pieces_that_break_anywhere_give_the_same_answer() -> None:
    stream = line("你") + b"\r\n" + line() + line("好\n") + end("length", "🌍", prompt_eval_count=3, eval_count=5)
    for size in (1, 2, 7, 64, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        async with ollama(says(*pieces)) as engine:
            *deltas, done = await heard(engine, ask())
        assert text_of(deltas) == "你好\n🌍"
        assert isinstance(done, Done)
        assert (done.finish, done.prompt_tokens, done.completion_tokens) == ("length", 3, 5)
        assert done.spoke == "qwen3:8b"
        assert 0 < done.first_token_s <= done.seconds


async def test_lines_that_come_together_leave_together() -> None:
    async with ollama(says(line("a") + line("b") + line("c") + end())) as engine:
        assert text_of((await heard(engine, ask()))[:1]) == "abc"


async def test_a_conversation_is_sent_whole_and_the_model_is_told_not_to_think() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, await request.json()))
        return await says(line("a"), end())(request)

    warm = Sampling(8, 0.5, 0.9, 40, 1.2, seed=3, stop=("END", "END2"))
    async with ollama(handler) as engine:
        await heard(engine, Request((Message("system", "短"), Message("user", "hello")), QWEN, warm))
        await heard(engine, ask())
        few = replace(PLAIN, min_p=0.1, presence_penalty=1.0, frequency_penalty=-1.0, schema='{"type": "object"}')
        await heard(engine, ask(sampling=few))
    messages = [{"role": "system", "content": "短"}, {"role": "user", "content": "hello"}]
    options = {"num_predict": 8, "temperature": 0.5, "top_p": 0.9, "repeat_penalty": 1.2}
    drawn = {"top_k": 40, "seed": 3, "stop": ["END", "END2"]}
    common = {"model": "qwen3:8b", "stream": True, "think": False, "truncate": False}
    assert seen == [
        ("/api/chat", common | {"messages": messages, "options": options | drawn}),
        # no top_k is Ollama's own; a penalty of 1 is said, for Ollama's own is another
        ("/api/chat", common | {"messages": messages[1:], "options": options | {"repeat_penalty": 1.0}}),
        (
            "/api/chat",
            common
            | {
                "messages": messages[1:],
                "options": options
                | {"repeat_penalty": 1.0, "min_p": 0.1, "presence_penalty": 1.0, "frequency_penalty": -1.0},
                "format": {"type": "object"},
            },
        ),
    ]


async def test_raw_text_goes_past_the_template_and_comes_back_from_generate() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, await request.json()))
        thought = b'{"model":"m","response":"","thinking":"hm","done":false}\n'
        said = b'{"model":"m","response":" flows","done":false}\n'
        return await says(thought, said, b'{"model":"m","response":"","done":true,"eval_count":2,"context":[1]}\n')(
            request
        )

    async with ollama(handler) as engine:
        events = await heard(engine, Request("the river", QWEN, PLAIN))
    ((path, body),) = seen
    assert path == "/api/generate"
    assert (body["prompt"], body["raw"], body["think"], body["stream"]) == ("the river", True, False, True)
    assert text_of(events) == " flows"


async def test_thinking_is_no_text_but_a_sign_of_life() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(line("", thinking="let me see"))
        await asyncio.sleep(0.8)  # longer than a first token may take
        await response.write(line("yes") + end(eval_count=4))
        return response

    async with ollama(handler, Terms(patience=Patience(first_s=0.5, idle_s=30))) as engine:
        *deltas, done = await heard(engine, ask())
    assert text_of(deltas) == "yes"
    assert isinstance(done, Done)
    assert done.first_token_s < 0.5 < done.seconds


async def test_a_stream_without_marker_of_its_end_is_cut_and_not_short() -> None:
    for pieces in ((line("a"),), (line("a"), b"\n"), ()):
        async with ollama(says(*pieces)) as engine:
            with pytest.raises(Unavailable) as broken:
                await heard(engine, ask())
        assert "中断" in broken.value.zh


async def test_a_line_without_line_break_at_the_end_counts() -> None:
    async with ollama(says(line("a"), end(eval_count=1).strip())) as engine:
        assert text_of(await heard(engine, ask())) == "a"


async def test_who_does_not_count_gets_its_pieces_counted() -> None:
    async with ollama(says(line("a"), line(), line("b"), end())) as engine:
        done = (await heard(engine, ask()))[-1]
    assert isinstance(done, Done)
    assert done.completion_tokens == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("an error was encountered while running the model: CUDA error", Unavailable),
        ("model 'qwen3:8b' not found", NotFound),
        ('model "qwen3:8b" not found, try pulling it first', NotFound),
        ("the input length exceeds the context length", Invalid),
        ("request (5139 tokens) exceeds the available context size (2048 tokens)", Invalid),
        ("unexpected\nEOF", Unavailable),
    ],
)
async def test_an_error_line_ends_the_answer_with_what_it_says(text: str, kind: type[Problem]) -> None:
    error = json.dumps({"error": text}).encode() + b"\n"
    for handler in (says(line("a"), error), says(error), answers(200, error)):
        async with ollama(handler) as engine:
            with pytest.raises(Problem) as refused:
                await heard(engine, ask())
        assert type(refused.value) is kind
        assert text.replace("\n", " ") in refused.value.en
        assert text.replace("\n", " ") in refused.value.zh


@pytest.mark.parametrize(
    "piece", [b"no json\n", b'{"done": 7}\n', b"\xff\xfe\n", b'{"message": {"content": "\xff"}}\n', b"[]\n"]
)
async def test_nonsense_in_a_stream_ends_it(piece: bytes) -> None:
    async with ollama(says(line("a"), piece, end())) as engine:
        with pytest.raises(Unavailable) as broken:
            await heard(engine, ask())
    assert "无法解析" in broken.value.zh


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unavailable),
        (403, Forbidden),
        (404, NotFound),
        (429, TooMany),
        (499, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_an_error_answer_becomes_the_problem_it_means(status: int, kind: type[Problem]) -> None:
    async with ollama(answers(status, b'{"error":"what went wrong"}')) as engine:
        with pytest.raises(Problem) as refused:
            await heard(engine, ask())
    assert type(refused.value) is kind
    assert ("what went wrong" in refused.value.en) == (status != 401)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Request((), QWEN, PLAIN), Invalid),  # Ollama would load the model and say nothing
        (Request("", QWEN, PLAIN), Invalid),
        (ask(sampling=replace(PLAIN, temperature=float("nan"))), Invalid),
        (ask("half \ud83d"), Invalid),
        (ask(model=Model("qwen3:8b", "adapters/mine")), NotFound),  # the base alone would pass for the tuned
    ],
)
async def test_what_ollama_would_misunderstand_is_refused_before_anything_is_sent(
    request_: Request, kind: type[Problem]
) -> None:
    asked = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await says(line("a"), end())(request)

    async with ollama(handler) as engine:
        with pytest.raises(kind):
            await heard(engine, ask(), request_)
    assert asked == 0


async def test_nothing_is_said_before_every_row_is_accepted() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if b"bad" in await request.read():
            await asyncio.sleep(0.05)
            return web.json_response({"error": "bad row"}, status=400)
        return await says(line("a"), end())(request)

    said = []
    async with ollama(handler) as engine:
        with pytest.raises(Invalid):
            async with aclosing(engine.generate([ask("good"), ask("bad"), ask("good")])) as events:
                async for event in events:
                    said.append(event)
    assert said == []


async def test_no_more_streams_are_open_than_allowed_and_all_rows_end() -> None:
    open_now, most = 0, 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.01)
        answer = await says(line("a"), end())(request)
        open_now -= 1
        return answer

    async with ollama(handler, at_once=3) as engine:
        events = await heard(engine, *(ask(str(n)) for n in range(10)))
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(10))
    assert most == 3


async def test_closing_the_generator_closes_every_stream_at_once() -> None:
    left = asyncio.Event()
    gone = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal gone
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(line("a"))
            await asyncio.sleep(600)
        finally:
            gone += 1
            if gone == 3:
                left.set()
        return response

    async with ollama(handler) as engine:
        events = engine.generate([ask(str(n)) for n in range(3)])
        await anext(events)
        assert engine.totals.in_flight == 3
        await events.aclose()
        async with asyncio.timeout(10):
            await left.wait()
        assert engine.totals == OllamaTotals(requests=3, canceled=3)


async def test_totals_count_how_each_answer_ended() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        text = (await request.json())["messages"][0]["content"]
        if text == "fail":
            return web.json_response({"error": "no"}, status=500)
        if text == "cut":
            return await says(line("a"))(request)
        counts = {"prompt_eval_count": 7, "eval_count": 20, "eval_duration": 2_000_000_000}
        return await says(line("a"), line("b"), end(**counts))(request)

    async with ollama(handler) as engine:
        assert engine.totals.tokens_per_second is None
        await heard(engine, ask(), ask())
        for wrong in ("fail", "cut"):
            with pytest.raises(Unavailable):
                await heard(engine, ask(wrong))
        async with aclosing(engine.generate([ask()])) as events:
            await anext(events)  # then nobody listens any more
        totals = engine.totals
    assert totals == OllamaTotals(5, 2, 1, 0, 14, 40, 4.0)
    assert totals.tokens_per_second == 10


async def test_ollama_cannot_score() -> None:
    async with ollama(answers(500, b"")) as engine:
        with pytest.raises(Unsupported):
            await engine.score([Reference((Message("user", "a"),), "b", QWEN)])


async def test_a_port_nobody_listens_on_is_unavailable_and_the_hint_names_ollama_host() -> None:
    engine = OllamaEngine.at("http://127.0.0.1:9", Terms())
    with pytest.raises(Unavailable) as refused:
        await heard(engine, ask())
    assert "OLLAMA_HOST" in refused.value.zh
    assert "OLLAMA_HOST" in refused.value.en
    assert "127.0.0.1" not in refused.value.en
    await engine.close()
    with pytest.raises(Unavailable):  # and after closing, too
        await heard(engine, ask())


@pytest.fixture(scope="module")
def wicked() -> Iterator[Upstream]:
    with misbehaving() as upstream:
        yield upstream


@asynccontextmanager
async def asking(upstream: Upstream, patience: Patience = Patience()) -> AsyncIterator[OllamaEngine]:  # noqa: B008
    engine = OllamaEngine.at(upstream.url, Terms(patience=patience))
    try:
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize("mode", ["slow-5-1", "text-3-80", "split-1-4", "refuse-once", "err-once-503"])
async def test_odd_but_whole_answers_arrive_whole(wicked: Upstream, mode: str) -> None:
    async with asking(wicked) as engine:
        events = await heard(engine, ask(model=Model(f"bad/{mode}")))
    assert text_of(events) == "".join(spoken(f"bad/{mode}"))
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize(
    "mode",
    [
        *("badutf8", "longline-20", "gzip-1", "gzip-text", "garbage-200", "garbage-502", "errorin200", "mid", "trunc"),
        *("shut", "drop", "redirect", "redirect-metadata", "err-500", "err-503"),
    ],
)
async def test_answers_that_go_wrong_are_never_taken_for_whole(wicked: Upstream, mode: str) -> None:
    said: list[Event] = []
    async with asking(wicked) as engine:
        with pytest.raises(Unavailable) as broken:
            async with aclosing(engine.generate([ask(model=Model(f"bad/{mode}"))])) as events:
                async for event in events:
                    said.append(event)
    assert not any(isinstance(event, Done) for event in said)
    assert broken.value.zh.startswith(("Ollama", "上游"))
    assert wicked.report()["visits"] == []


@pytest.mark.parametrize(
    ("mode", "waited_for"),
    [
        ("hang", "first token"),
        ("hangfirst", "first token"),
        ("drip", "first token"),
        ("stall", "idle"),
        ("slow-9999-20", "total"),
    ],
)
async def test_silence_is_waited_for_as_long_as_it_may_be(wicked: Upstream, mode: str, waited_for: str) -> None:
    patience = {
        "first token": Patience(first_s=0.4, idle_s=20),
        "idle": Patience(first_s=20, idle_s=0.3),
        "total": Patience(first_s=20, idle_s=20, total_s=0.5),
    }[waited_for]
    async with asking(wicked, patience) as engine:
        with pytest.raises(TimedOut) as late:
            await heard(engine, ask(model=Model(f"bad/{mode}")))
        assert late.value.details["waited_for"] == waited_for
        await asyncio.to_thread(wicked.until, lambda report: report["open"] == 0)
