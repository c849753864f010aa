"""A server behind us, and everything it can do to us: each from a real socket, most from a process of its own."""

import asyncio
import json
import socket
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.unit.inference.engines.byte_server import Caller, talking
from tests.unit.inference.engines.serving import Handler, answers, says, serving
from tests.upstreams import running
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.kernel.problems import Invalid, NotFound, Problem, TimedOut, TooMany, Unavailable

LABEL = Label("上游", "the upstream", "请检查", "look at it")
KEY = "sk-or-v1-0123456789abcdef"
PATH = "/v1/chat/completions"
SOON_S = 20.0
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[running.Upstream]:
    with running.misbehaving() as process:
        yield process


@pytest.fixture
def process(misbehaving: running.Upstream) -> running.Upstream:
    misbehaving.reset()
    return misbehaving


@asynccontextmanager
async def upstream(url: str, **terms: Any) -> AsyncIterator[Upstream]:
    """A client that sends a key; at the end nothing of it may be left open."""
    headers = {"Authorization": f"Bearer {KEY}", "X-Title": "Tunesmith"}
    client = Upstream(url, LABEL, partial(refusals.refused, LABEL), terms=Terms(**terms), headers=lambda: headers)
    try:
        yield client
        assert client.in_flight == 0
    finally:
        await client.close()


def body(model: str) -> bytes:
    return json.dumps({"model": model, "stream": True, "messages": []}).encode()


async def read(client: Upstream, model: str = "text") -> bytes:
    """The whole answer's lines."""
    found = b""
    async with client.stream(PATH, body(model)) as answer:
        while (lines := await answer.lines()) is not None:
            found += b"\n".join(lines)
    return found


async def until(process: running.Upstream, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return await asyncio.to_thread(process.until, true)


async def failing(client: Upstream, model: str = "text") -> Problem:
    with pytest.raises(Problem) as failed:
        await read(client, model)
    return failed.value


@contextmanager
def full() -> Iterator[str]:
    """An address where connections are neither accepted nor refused: its queue is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


# What is waited for, and how long


async def test_a_connection_that_does_not_come_about_is_a_timeout() -> None:
    with full() as url:
        async with upstream(url, connect_s=0.2) as client:
            problem = await failing(client)
    assert isinstance(problem, TimedOut)
    assert problem.details == {"waited_for": "connect"}


@pytest.mark.parametrize(
    ("model", "patience", "which"),
    [
        ("hang", Patience(first_s=0.3, idle_s=9, total_s=9), "first token"),
        ("hangfirst", Patience(first_s=0.3, idle_s=9, total_s=9), "first token"),
        ("drip-20", Patience(first_s=0.4, idle_s=9, total_s=9), "first token"),
        ("hang", Patience(first_s=9, idle_s=9, total_s=0.3), "total"),
        ("drip-20", Patience(first_s=9, idle_s=9, total_s=0.4), "total"),
    ],
)
async def test_an_upstream_that_says_nothing_is_left(
    process: running.Upstream, model: str, patience: Patience, which: str
) -> None:
    async with upstream(process.url, patience=patience) as client:
        problem = await failing(client, model)
        assert isinstance(problem, TimedOut)
        assert problem.details == {"waited_for": which}
        report = await until(process, lambda report: report["gone_count"]["all"] == 1)
        assert report["open"] == 0
        assert not client.resting


async def heard(client: Upstream, model: str, pause_s: float = 0.0) -> list[bytes]:
    """The lines of an answer whose every read is a token; the reader takes its time."""
    found: list[bytes] = []
    async with client.stream(PATH, body(model)) as answer:
        while (lines := await answer.lines()) is not None:
            found += [line for line in lines if line]
            answer.heard()
            await asyncio.sleep(pause_s)
    return found


async def test_silence_after_a_token_is_too_long_and_a_total_ends_what_never_does(process: running.Upstream) -> None:
    for model, patience, which in (
        ("stall-3", Patience(first_s=60, idle_s=0.3, total_s=60), "idle"),
        ("slow-100000-10", Patience(first_s=60, idle_s=60, total_s=0.5), "total"),
    ):
        async with upstream(process.url, patience=patience) as client:
            with pytest.raises(TimedOut) as late:
                await heard(client, model)
        assert late.value.details == {"waited_for": which}
        await until(process, lambda report: report["open"] == 0)


async def test_a_slow_reader_is_not_the_upstreams_silence() -> None:
    async with (
        serving(says(*(b"data: %d\n" % n for n in range(100)))) as url,
        upstream(url, patience=Patience(first_s=20, idle_s=0.4, total_s=60)) as client,
    ):
        assert len(await heard(client, "any", pause_s=1.0)) == 100


async def test_a_limit_that_ends_while_nobody_reads_is_seen_at_the_next_read(process: running.Upstream) -> None:
    async with upstream(process.url, patience=Patience(first_s=20, idle_s=20, total_s=0.5)) as client:
        async with client.stream(PATH, body("stall-3")) as answer:
            await answer.lines()
            answer.heard()
            await asyncio.sleep(0.8)
            with pytest.raises(TimedOut) as late:
                await answer.lines()
        assert late.value.details == {"waited_for": "total"}


async def test_any_task_may_read_and_leave(process: running.Upstream) -> None:
    async def rows(client: Upstream) -> AsyncGenerator[bytes, None]:
        async with client.stream(PATH, body("slow-5-20")) as answer:
            while (lines := await answer.lines()) is not None:
                answer.heard()
                yield b"".join(lines)

    async def one(events: AsyncGenerator[bytes, None]) -> bytes | None:
        return await anext(events, None)

    async with upstream(process.url, patience=Patience(20, 20, 60)) as client:
        events = rows(client)
        said = [await asyncio.create_task(one(events))]
        while said[-1] is not None:
            said.append(await asyncio.create_task(one(events)))
        assert b"[DONE]" in b"".join(piece for piece in said if piece)
        events = rows(client)
        await asyncio.create_task(one(events))
        await asyncio.create_task(events.aclose())
        await until(process, lambda report: report["open"] == 0)


# Asking again


@asynccontextmanager
async def counted(*answering: Handler) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers the first request with the first handler, and so on; the last goes on."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await answering[min(len(asked), len(answering)) - 1](request)

    async with serving(handler) as url:
        yield url, asked


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("status", [502, 503, 529])
async def test_a_busy_upstream_is_asked_once_more(status: int) -> None:
    async with counted(answers(status, b""), says(b"data: a\n")) as (url, asked):
        async with upstream(url) as client:
            assert await read(client) == b"data: a"
        assert len(asked) == 2


async def test_a_connection_that_breaks_before_an_answer_is_tried_once_more() -> None:
    async with counted(cut, says(b"data: a\n")) as (url, asked):
        async with upstream(url) as client:
            assert await read(client) == b"data: a"
        assert len(asked) == 2


async def test_a_kept_connection_that_was_closed_meanwhile_costs_neither_a_wait_nor_trust() -> None:
    asked: list[int] = []
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ndata: a\n"

    async def talk(caller: Caller) -> None:
        while True:
            await caller.request()
            asked.append(caller.number)
            if len(asked) % 2 == 0:  # the second on a connection: closed without a word
                return
            await caller.say(said)

    for foreign in (True, False):
        asked.clear()
        async with talking(talk) as server, upstream(server.url, foreign=foreign) as client:
            for _ in range(8):
                assert await read(client) == b"data: a"
            assert asked == [0, 0, *(number for number in range(1, 7) for _ in range(2)), 7]
            assert client._breaker._failed == 0


async def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_tell_it() -> None:
    async with talking(Caller.hang) as server:
        client = Upstream(
            server.url,
            LABEL,
            partial(refusals.refused, LABEL),
            headers=lambda: {"Authorization": f"Bearer {KEY}\r\nX-Evil: 1"},
        )
        for asking in (read(client), client.ask("POST", "/", b"{}", dict)):
            with pytest.raises(Unavailable) as refused:
                await asking
            assert refused.value.zh == "无法向上游发送请求：密钥或请求头中含有不能发送的字符，请检查服务配置"
            assert KEY not in "".join(traceback.format_exception(refused.value)) + told(refused.value)
        assert (server.callers, client.in_flight) == (0, 0)
        await client.close()


async def test_it_is_asked_twice_and_not_more() -> None:
    for answering in (answers(503, b'{"error":"busy"}'), cut):
        async with counted(answering) as (url, asked):
            async with upstream(url) as client:
                assert isinstance(await failing(client), Unavailable)
            assert len(asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 501, 504, 524])
async def test_no_other_status_is_asked_again(status: int) -> None:
    async with counted(answers(status, b"{}")) as (url, asked):
        async with upstream(url) as client:
            assert (await failing(client)).details["upstream_status"] == status
        assert len(asked) == 1


async def test_after_a_first_byte_nothing_is_asked_again(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        for model in ("drop", "shut"):
            problem = await failing(client, model)
            assert problem.zh == "上游的应答中断，请重试"
        assert (await read(client, "trunc")).count(b"data:") == 3, "a clean end is for the wire to judge"
        assert len(process.report()["requests"]) == 3
        assert not client.resting


async def test_who_waits_before_asking_again_waits_a_different_time_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def seen(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("tunesmith.inference.engines.upstream.asyncio.sleep", seen)
    async with upstream(CLOSED) as client:
        for _ in range(8):
            await failing(client)
    tried = [pause for pause in pauses if pause]
    assert len(set(tried)) == 8
    assert all(0.05 < pause < 0.5 for pause in tried)


# Leaving it alone


async def test_five_connections_that_fail_leave_it_alone_for_a_moment() -> None:
    async with upstream(CLOSED) as client:
        for _ in range(2):
            client.admit()
            await failing(client)
        client.admit()
        assert not client.resting
        await failing(client)
        assert client.resting
        with pytest.raises(Unavailable) as refused:
            client.admit()
        assert 0 < refused.value.details["retry_after"] <= 5
        assert "请检查" in refused.value.zh


async def test_bad_answers_are_no_failed_connections(process: running.Upstream) -> None:
    async with upstream(process.url, patience=Patience(first_s=0.2)) as client:
        for model in ("err-500", "err-503", "mid", "trunc", "drop", "shut", "garbage", "hang", "err-429", "gzip-text"):
            for _ in range(2):
                with suppress(Problem):
                    await read(client, model)
                client.admit()
        assert not client.resting


async def test_more_answers_than_allowed_are_refused_at_once(process: running.Upstream) -> None:
    async with upstream(process.url, in_flight=2) as client:
        async with client.stream(PATH, body("stall")), client.stream(PATH, body("stall")):
            with pytest.raises(Unavailable) as refused:
                client.admit()
            assert refused.value.details == {"busy": True}
        client.admit()


async def test_our_own_process_is_never_left_alone() -> None:
    async with upstream(CLOSED, foreign=False) as client:
        for _ in range(10):
            client.admit()
            problem = await failing(client)
            assert problem.zh.startswith("上游没有应答，请检查（Cannot connect to host")
        async with counted(answers(503, b'{"error":"busy"}')) as (url, asked):
            async with upstream(url, foreign=False) as asking:
                await failing(asking)
            assert len(asked) == 1


# However it ends, nothing stays open


async def test_leaving_before_a_connection_stands_gives_its_place_back() -> None:
    with full() as url:
        async with upstream(url) as client:
            asking = asyncio.create_task(read(client))
            await asyncio.sleep(0.1)
            assert client.in_flight == 1
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert client.in_flight == 0


@pytest.mark.parametrize(
    ("model", "phase"),
    [("hang", "before headers"), ("hangfirst", "before first token"), ("stall", "mid-stream")],
)
async def test_the_upstream_learns_at_once_that_its_caller_left(
    process: running.Upstream, model: str, phase: str
) -> None:
    async with upstream(process.url, patience=Patience(60, 60, 60)) as client:
        asking = asyncio.create_task(read(client, model))
        await until(process, lambda report: report["open"] == 1)
        await asyncio.sleep(0.1)
        assert client.in_flight == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert client.in_flight == 0
        report = await until(process, lambda report: report["open"] == 0 and report["connections"] == 0)
        assert report["gone_count"][phase] == 1


async def test_a_generator_that_is_closed_or_a_reader_that_fails_closes_the_connection(
    process: running.Upstream,
) -> None:
    async with upstream(process.url) as client:
        for failure in (GeneratorExit, RuntimeError, asyncio.CancelledError):
            with pytest.raises(failure):
                async with client.stream(PATH, body("stall")) as answer:
                    await answer.lines()
                    raise failure
            assert client.in_flight == 0
        await until(process, lambda report: report["gone_count"]["mid-stream"] == 3 and report["connections"] == 0)


async def test_an_error_gives_its_place_back_and_leaves_no_answer_open(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        for model in ("err-500", "err-429", "garbage-502", "redirect"):
            await failing(client, model)
            assert client.in_flight == 0
        await until(process, lambda report: report["open"] == 0 and report["connections"] <= 1)


async def test_an_answer_that_ended_leaves_its_connection_to_the_next(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        for _ in range(5):
            async with client.stream(PATH, body("text-0-5")) as answer:
                while (lines := await answer.lines()) is not None and b"data: [DONE]" not in lines:
                    pass
                answer.ended = True  # by its own word; the end of the body may come later
        for _ in range(3):
            assert b"[DONE]" in await read(client, "text-0-5")
        report = process.report()
        assert (report["done"], report["connections"]) == (8, 1)


async def test_an_end_that_comes_a_moment_after_the_last_word_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.inference.engines.answer._END_S", SOON_S)
    callers = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        callers.add(request.transport)
        response = await says(b"data: [DONE]\n\n")(request)
        await asyncio.sleep(0.05)
        return response

    async with serving(handler) as url, upstream(url) as client:
        for _ in range(3):
            async with client.stream("/", b"{}") as answer:
                await answer.lines()
                answer.ended = True
    assert len(callers) == 1


async def test_what_goes_on_after_its_end_is_closed(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        for model in ("endless", "stall"):
            async with client.stream(PATH, body(model)) as answer:
                await answer.lines()
                answer.ended = True
        await until(process, lambda report: report["open"] == 0 and report["connections"] == 0)


async def test_closing_breaks_the_streams_that_are_open(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        reading = asyncio.create_task(failing(client, "stall"))
        waiting = asyncio.create_task(failing(client, "hang"))
        await until(process, lambda report: report["open"] == 2)
        async with client.stream(PATH, body("stall")) as answer:
            await answer.lines()
            await client.close()
            with pytest.raises(Unavailable):
                await answer.lines()
        async with asyncio.timeout(SOON_S):
            assert (await reading).zh == (await waiting).zh == "上游已关闭"
        assert (await failing(client)).zh == "上游已关闭"


# What an upstream may not do


@pytest.mark.parametrize("model", ["redirect", "redirect-301", "redirect-307", "redirect-308", "redirect-metadata"])
async def test_a_redirect_is_an_error_and_is_never_followed(process: running.Upstream, model: str) -> None:
    async with upstream(process.url) as client:
        problem = await failing(client, model)
    assert problem.details["upstream_status"] in (301, 302, 307, 308)
    report = process.report()
    assert (report["visits"], len(report["requests"])) == ([], 1)


@pytest.mark.parametrize("model", ["gzip-1000", "gzip-text"])
async def test_what_is_packed_is_not_unpacked(process: running.Upstream, model: str) -> None:
    async with upstream(process.url) as client:
        problem = await failing(client, model)
        assert problem.zh == "上游的应答无法解析"
        report = await until(process, lambda report: report["open"] == 0)
        assert sum(gone["written"] for gone in report["gone"]) < 8 << 20
    assert process.report()["requests"][0]["headers"]["accept-encoding"] == "identity"


async def test_a_line_of_twenty_megabytes_is_given_up_and_the_connection_closed(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        assert "过长" in (await failing(client, "longline-20")).zh
        await until(process, lambda report: report["open"] == 0 and report["connections"] == 0)


async def test_an_answer_that_must_end_is_not_endless(
    process: running.Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.inference.engines.answer.LONGEST_ANSWER", 1 << 20)
    async with upstream(process.url, patience=Patience(total_s=60)) as client:
        assert (await failing(client, "endless")).zh == "上游的应答无法解析"
        await until(process, lambda report: report["open"] == 0)
    async with upstream(process.url) as client:  # a pull may say as much as it likes
        assert len(await read(client, "big-200")) > 1 << 20


async def test_a_body_that_is_no_stream_is_limited_too() -> None:
    async with (
        serving(answers(200, b" " * (17 << 20), "application/json")) as url,
        upstream(url) as client,
        client.stream("/", b"{}") as answer,
    ):
        assert answer.plain_json
        with pytest.raises(Unavailable):
            await answer.whole()


async def test_no_cookie_is_kept() -> None:
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    async with serving(handler) as url, upstream(url) as client:
        for _ in range(2):
            await read(client)
    assert seen == [None, None]


async def test_bytes_that_are_no_http_are_an_upstream_that_does_not_answer() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-" + KEY.encode() + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        problem = await failing(client)
    assert isinstance(problem, Unavailable)
    assert KEY not in told(problem)


# What it refuses, and what it must not make us tell


def told(problem: Problem) -> str:
    """Everything anybody may be told of it."""
    return "".join((problem.zh, problem.en, str(problem), repr(problem), json.dumps(problem.details)))


def echo(request: web.Request) -> Mapping[str, Any]:
    sent = request.headers["Authorization"]
    return {"error": {"message": f"{sent} may not, {KEY!r}", "code": 400, "key": sent}}


async def test_our_key_is_never_told_though_the_upstream_quotes_it() -> None:
    async def before(request: web.Request) -> web.StreamResponse:
        sent = request.headers["Authorization"]
        return web.json_response(
            echo(request), status=429, headers={"X-Echo": sent, "Retry-After": sent}, reason=f"No {sent}"
        )

    async def dropped(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(f"HTTP/1.1 200 {KEY}\r\nX-Echo: {KEY}\r\n".encode())
        request.transport.close()
        return web.Response()

    for handler in (before, dropped):
        async with serving(handler) as url, upstream(url) as client:
            for asking in (read(client), client.ask("POST", "/", b"{}", dict)):
                with pytest.raises(Problem) as failed:
                    await asking
                assert KEY not in told(failed.value)
                assert KEY[:12] not in told(failed.value)

    async with serving(says(b"data: x\n")) as url, upstream(url) as client:
        with pytest.raises(Invalid) as refused:
            async with client.stream("/", b"{}"):
                raise refusals.stated(LABEL, {"message": f"Bearer {KEY} may not", "code": 400})
    assert refused.value.en == str(refused.value) == "the upstream refused the request: 400 Bearer *** may not"


async def test_a_traceback_of_a_failure_tells_no_key() -> None:
    async def quote(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nX-Echo: {KEY}\r\nbad header {KEY}\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(quote, "127.0.0.1", 0)
    async with server:
        for url in (CLOSED, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"):
            async with upstream(url) as client:
                problem = await failing(client)
            assert isinstance(problem, Unavailable)
            assert KEY not in "".join(traceback.format_exception(problem))


async def test_an_address_is_no_part_of_the_message() -> None:
    async with upstream(CLOSED) as client:
        problem = await failing(client)
    assert problem.zh == "上游没有应答：请检查"
    assert "127.0.0.1" not in problem.en
    assert "Cannot connect" in problem.details["reason"]


async def test_an_error_in_two_pieces_is_read_whole_and_one_that_never_ends_is_not_waited_for() -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=404, headers={"Retry-After": "7"})
        await response.prepare(request)
        await response.write(b'{"error":{"message":"there ')
        await asyncio.sleep(0.1)
        await response.write(b'is none"}}')
        if request.path == "/hang":
            await asyncio.sleep(600)
        return response

    async with serving(pieces) as url, upstream(url) as client:
        for path in ("/", "/hang"):
            with pytest.raises(NotFound) as refused:
                async with client.stream(path, b"{}"):
                    pass
            assert refused.value.en == "the upstream refused the request: 404 there is none"
            assert refused.value.details == {"upstream_status": 404, "retry_after": 7.0}


async def test_when_to_ask_again_is_told(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        problem = await failing(client, "err-429")
    assert isinstance(problem, TooMany)
    assert problem.details == {"upstream_status": 429, "retry_after": 7.0}


# Calls that are not streamed


class Tags(msgspec.Struct):
    models: list[dict[str, Any]]


async def test_a_plain_call_gives_what_was_asked_for(process: running.Upstream) -> None:
    async with upstream(process.url) as client:
        for _ in range(2):
            assert (await client.ask("GET", "/api/tags", None, Tags)).models
        assert process.report()["connections"] == 1
        with pytest.raises(NotFound):
            await client.ask("GET", "/nothing", None, Tags)
        with pytest.raises(Unavailable) as refused:
            await client.ask("GET", "/api/version", None, Tags)
        assert refused.value.zh == "上游的应答无法解析"


async def test_a_plain_call_is_waited_for_so_long(process: running.Upstream) -> None:
    process.tell("/behave", {"path": "/api/tags", "model": "hang"})
    async with upstream(process.url) as client:
        with pytest.raises(TimedOut) as late:
            await client.ask("GET", "/api/tags", None, Tags, within_s=0.2)
        assert late.value.details == {"waited_for": "total"}
        await until(process, lambda report: report["open"] == 0)


async def test_a_plain_call_has_a_limit_of_bytes(process: running.Upstream) -> None:
    process.tell("/behave", {"path": "/api/tags", "model": "endless"})
    async with upstream(process.url) as client:
        with pytest.raises(Unavailable):
            await client.fetch("GET", "/api/tags", None, most=1 << 20)
        await until(process, lambda report: report["open"] == 0)
