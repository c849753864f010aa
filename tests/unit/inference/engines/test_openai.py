"""The client against upstreams that behave in every way upstreams do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.engines.sse import data_lines
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, TooMany, Unavailable, Unsupported
from tunesmith.models.model import Model

PLAIN = Sampling(max_new_tokens=8, temperature=0.5, top_p=0.9, top_k=0, repetition_penalty=1.0)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def upstream(handler: Handler, **options: Any) -> AsyncIterator[OpenAIEngine]:
    """An engine whose server answers everything with ``handler``."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    engine = OpenAIEngine(f"http://127.0.0.1:{port}/", **options)
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()


def ask(text: str = "hello", sampling: Sampling = PLAIN, model: Model = Model("m")) -> Request:  # noqa: B008
    return Request((Message("user", text),), model, sampling)


async def heard(engine: OpenAIEngine, *requests: Request) -> list[Event]:
    async with aclosing(engine.generate(requests)) as events:
        return [event async for event in events]


def says(*pieces: bytes) -> Handler:
    """Streams ``pieces`` as they stand, one write each."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    return handler


def answers(status: int, body: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return handler


def frame(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": text} if text is not None else {}
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **more}).encode() + b"\n\n"


async def test_pieces_that_break_anywhere_give_the_same_events() -> None:
    stream = b": ping\r\n\r\n" + frame("你") + frame("", None) + frame("好\n") + frame(None, "stop")
    stream += b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    for size in (1, 2, 7, 64, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        async with upstream(says(*pieces)) as engine:
            *deltas, done = await heard(engine, ask())
        assert deltas == [Delta(0, "你"), Delta(0, "好\n")]
        assert isinstance(done, Done)
        assert (done.finish, done.prompt_tokens, done.completion_tokens) == ("stop", 3, 2)
        assert 0 < done.first_token_s <= done.seconds


async def test_the_engines_own_timings_are_kept() -> None:
    last = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1},"timings":{"first_token_s":0.25,"seconds":0.5}}\n\n'
    async with upstream(says(frame("a", "length"), last, b"data: [DONE]\n\n")) as engine:
        done = (await heard(engine, ask()))[-1]
    assert done == Done(0, "length", 1, 1, 0.25, 0.5)


async def test_a_stream_without_marker_of_its_end_is_cut_and_not_short() -> None:
    for pieces in ((frame("a"),), (frame("a"), b"data: [DONE]\n\n"), ()):
        async with upstream(says(*pieces)) as engine:
            with pytest.raises(Unavailable):
                await heard(engine, ask())


async def test_a_connection_cut_midway_is_unavailable() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(frame("a"))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with upstream(handler) as engine:
        with pytest.raises(Unavailable):
            await heard(engine, ask())


async def test_a_port_nobody_listens_on_is_unavailable() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9")
    with pytest.raises(Unavailable) as refused:
        await heard(engine, ask())
    assert "没有应答" in refused.value.zh
    await engine.close()
    with pytest.raises(Unavailable):  # and after closing, too
        await heard(engine, ask())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unavailable),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (429, TooMany),
        (500, Unavailable),
        (501, Unsupported),
        (503, Unavailable),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"what went wrong","type":"x"}}',
        b'{"error":"what went wrong"}',
        b'{"detail":"what went wrong"}',
        b'{"message":"what went wrong"}',
        b"what went wrong",
    ],
)
async def test_an_error_answer_becomes_the_problem_it_means(status: int, kind: type[Problem], body: bytes) -> None:
    async with upstream(answers(status, body)) as engine:
        with pytest.raises(kind) as refused:
            await heard(engine, ask())
    assert type(refused.value) is kind
    assert "what went wrong" in refused.value.en


@pytest.mark.parametrize(
    "piece",
    [
        b'data: {"error":{"message":"out of memory","code":500}}\n\n',
        b'data: {"error":{"message":"out of memory","message_zh":"\xe5\x86\x85\xe5\xad\x98","type":"Unavailable"}}\n\n',
        b"data: not json out of memory\n\n",
        b'data: {"choices": 7}\n\n',
        b"data: \xff\xfe\n\n",
    ],
)
async def test_an_error_or_nonsense_in_a_stream_ends_it(piece: bytes) -> None:
    async with upstream(says(frame("a"), piece, frame("b", "stop"), b"data: [DONE]\n\n")) as engine:
        with pytest.raises(Unavailable):
            await heard(engine, ask())


async def test_a_line_without_end_is_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"data: " + b"x" * (1 << 16)

    with pytest.raises(Unavailable):
        async for _ in data_lines(endless()):
            pass


async def test_nothing_is_said_before_every_row_is_accepted() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if b"bad" in await request.read():
            await asyncio.sleep(0.05)
            return web.Response(status=400, body=b'{"error":{"message":"bad row"}}')
        return await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    said = []
    async with upstream(handler) as engine:
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
        answer = await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)
        open_now -= 1
        return answer

    async with upstream(handler, in_flight=3) as engine:
        events = await heard(engine, *(ask(str(n)) for n in range(10)))
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(10))
    assert most == 3


async def test_closing_the_generator_closes_every_upstream_stream_at_once() -> None:
    left = asyncio.Event()
    gone = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal gone
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(frame("a"))
            await asyncio.sleep(600)
        finally:
            gone += 1
            if gone == 3:
                left.set()
        return response

    async with upstream(handler) as engine:
        events = engine.generate([ask(str(n)) for n in range(3)])
        await anext(events)
        await events.aclose()
        async with asyncio.timeout(10):
            await left.wait()


async def test_neutral_settings_stay_unsaid_to_foreign_engines_and_the_key_is_sent() -> None:
    seen: list[tuple[str, dict[str, Any], str | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, await request.json(), request.headers.get("Authorization")))
        return await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    warm = Sampling(8, 0.5, 0.9, 40, 1.2, seed=3, stop=("END",))
    async with upstream(handler, api_key="secret") as engine:
        await heard(engine, ask(model=Model("m", "adapters/a")), Request("raw", Model("m"), warm))
    plain, full = sorted(seen, key=lambda one: one[0])
    assert plain[0] == "/v1/chat/completions"
    assert not {"top_k", "repetition_penalty", "seed", "stop", "user"} & set(plain[1])
    assert plain[1]["model"] == "adapters/a"
    assert full[0] == "/v1/completions"
    assert {key: full[1][key] for key in ("top_k", "repetition_penalty", "seed", "stop", "prompt")} == {
        "top_k": 40,
        "repetition_penalty": 1.2,
        "seed": 3,
        "stop": ["END"],
        "prompt": "raw",
    }
    assert {authorization for _, _, authorization in seen} == {"Bearer secret"}


async def test_text_that_is_no_unicode_is_refused_before_it_is_sent() -> None:
    async with upstream(answers(500, b"")) as engine:
        with pytest.raises(Invalid):
            await heard(engine, ask("half \ud83d"))


async def test_an_engine_without_prompt_logprobs_cannot_score() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/tokenize":
            return web.json_response({"tokens": [1, 2, 3], "max_model_len": 99})
        return web.json_response({"choices": [{"index": 0, "text": ""}]})

    async with upstream(handler) as engine:
        with pytest.raises(Unsupported):
            await engine.score([Reference((Message("user", "a"),), "b", Model("m"))])


async def test_a_score_covers_the_completion_and_its_end_token_only() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if request.path == "/tokenize":
            # the prompt is 1 2 3; the answer 4 5, its end token 9, and a line break that belongs to nobody
            tokens = [1, 2, 3] if body["add_generation_prompt"] else [1, 2, 3, 4, 5, 9, 8]
            return web.json_response({"tokens": tokens, "max_model_len": 99, "end_tokens": [9]})
        shares = [[None, *({str(t): {"logprob": -t / 10}} for t in prompt[1:])] for prompt in body["prompt"]]
        choices = [{"index": i, "prompt_logprobs": one} for i, one in enumerate(shares)]
        return web.json_response({"choices": choices[::-1]})

    async with upstream(handler, builtin=True) as engine:
        scores = await engine.score([Reference((Message("user", "a"),), "b", Model("m"))] * 40)
    assert len(scores) == 40
    assert {score.tokens for score in scores} == {3}
    assert all(score.logprob == pytest.approx(-1.8) for score in scores)


async def test_a_socket_whose_queue_was_full_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", says(frame("a", "stop"), b"data: [DONE]\n\n"))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1)
        engine = OpenAIEngine(socket=tmp_path / "s", builtin=True)
        rows = asyncio.create_task(heard(engine, *(ask(str(n)) for n in range(40))))
        await asyncio.sleep(0.05)  # nobody accepts yet: all but two were turned away
        listening.listen(128)
        await web.SockSite(runner, listening).start()
        events = await rows
        await engine.close()
        await runner.cleanup()
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(40))
