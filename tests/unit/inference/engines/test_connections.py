"""Connections to an upstream that says exactly what it is told to, byte by byte, over real sockets."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.inference.engines.byte_server import Caller, Server, Talk, says, talking
from tests.unit.inference.engines.certificates import Authority
from tunesmith.inference.engines import connections as pool
from tunesmith.inference.engines.connections import Connections
from tunesmith.inference.engines.http1 import (
    MOST_UNREAD,
    Broken,
    ConnectionTimeout,
    Lost,
    NotConnected,
    NotHTTP,
    Reply,
    Unsendable,
)

KEY = "sk-or-v1-0123456789abcdef"
OK = b"HTTP/1.1 200 OK\r\n"
FRAMED = {
    "length": OK + b"Content-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "extensions": OK + b"Transfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n6;c\r\n world\r\n0;d=e\r\n\r\n",
    "trailers": OK + b"Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "nothing": OK + b"Content-Length: 0\r\n\r\n",
    "go on": b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n" + OK + b"Content-Length: 11\r\n\r\nhello world",
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + OK + b"Content-Length: 11\r\n\r\nhello world",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n",
    "old and kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 11\r\n\r\nhello world",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 11\r\n\r\nhello world",
}
LASTING = {
    "until the end": OK + b"Content-Type: text/plain\r\n\r\nhello world",
    "old": b"HTTP/1.0 200 OK\r\n\r\nhello world",
    "closing": OK + b"Connection: close\r\nContent-Length: 11\r\n\r\nhello world",
}
BODY = {"nothing": b"", "no content": b"", "not modified": b""}


@asynccontextmanager
async def connected(server: Server | str, **more: Any) -> AsyncIterator[Connections]:
    """Connections, of which nothing may be left open at the end."""
    url = server if isinstance(server, str) else server.url
    connections = Connections(url, **{"connect_s": 10.0, **more})
    before = asyncio.all_tasks()
    try:
        yield connections
    finally:
        connections.close()
        await asyncio.sleep(0.01)
        assert not connections._open
        assert not connections._connecting
        assert not [task for task in asyncio.all_tasks() - before if "Connections" in repr(task)]


async def asked(connections: Connections, path: str = "/", body: bytes | None = b"{}") -> Reply:
    connection = connections.waiting() or await connections.new()
    reply = connection.send(connections.request("POST", path, {}, body))
    try:
        await reply.head()
    except BaseException:
        reply.close()
        raise
    return reply


async def whole(reply: Reply) -> bytes:
    found = b""
    while piece := await reply.read():
        found += piece
    return found


async def ask(connections: Connections, path: str = "/") -> tuple[int, bytes]:
    async with asyncio.timeout(20):
        reply = await asked(connections, path)
        try:
            return reply.status, await whole(reply)
        finally:
            reply.close()


# How an answer may be framed


@pytest.mark.parametrize("name", FRAMED)
async def test_an_answer_is_read_whole_and_leaves_its_connection_to_the_next(name: str) -> None:
    async with talking(says(*[FRAMED[name]] * 3, keeps=True)) as server, connected(server) as connections:
        for _ in range(3):
            status, body = await ask(connections)
            assert body == BODY.get(name, b"hello world")
            assert status in (200, 204, 304)
        assert server.callers == 1


@pytest.mark.parametrize("name", LASTING)
async def test_an_answer_that_closes_is_read_whole_and_its_connection_not_used_again(name: str) -> None:
    async with talking(says(LASTING[name])) as server, connected(server) as connections:
        for _ in range(2):
            assert await ask(connections) == (200, b"hello world")
        assert server.callers == 2


@pytest.mark.parametrize("name", [*FRAMED, *LASTING])
async def test_an_answer_may_come_byte_by_byte(name: str) -> None:
    said = {**FRAMED, **LASTING}[name]
    pieces = [said[place : place + 1] for place in range(len(said))]
    async with talking(says(pieces)) as server, connected(server) as connections:
        assert (await ask(connections))[1] == BODY.get(name, b"hello world")


@pytest.mark.parametrize("name", FRAMED)
async def test_an_answer_may_be_cut_anywhere(name: str) -> None:
    said, places = FRAMED[name], range(1, len(FRAMED[name]))
    answers = [(said[:place], said[place:]) for place in places]
    async with talking(says(*answers, keeps=True)) as server, connected(server) as connections:
        for _ in places:
            assert (await ask(connections))[1] == BODY.get(name, b"hello world")
        assert server.callers == 1


@pytest.mark.parametrize("name", [name for name in FRAMED if name not in BODY])
async def test_an_answer_that_ends_too_soon_is_none(name: str) -> None:
    said = FRAMED[name]
    for place in range(len(said)):

        async def talk(caller: Caller, some: bytes = said[:place]) -> None:
            await caller.request()
            await caller.say(some)

        async with talking(talk) as server, connected(server) as connections:
            with pytest.raises(Lost) as lost:
                await ask(connections)
            assert lost.value.unanswered == (place == 0)
            assert not lost.value.stale


async def test_what_came_before_the_break_is_read_first() -> None:
    said = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense"
    for broken in (said, said[:-8]):
        async with talking(says(broken)) as server, connected(server) as connections:
            reply = await asked(connections)
            assert await reply.read() == b"hello"
            for _ in range(2):
                with pytest.raises(Broken):
                    await reply.read()


async def test_pieces_that_come_together_leave_together() -> None:
    said = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 50 + b"0\r\n\r\n"
    async with talking(says(said, keeps=True)) as server, connected(server) as connections:
        reply = await asked(connections)
        assert [await reply.read(), await reply.read()] == [b"hello" * 50, b""]
        assert reply.ended


async def test_headers_are_found_by_their_lower_names_and_the_first_counts() -> None:
    said = (
        OK
        + b"Content-TYPE: Text/Plain;a\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice: 2\r\nX-\xe9: a\r\nContent-Length: 0\r\n\r\n"
    )
    said = said.replace(b"X-\xe9: a\r\n", b"X-Odd: \xe9\r\n")
    async with talking(says(said)) as server, connected(server) as connections:
        assert (await asked(connections)).headers == {
            "content-type": "Text/Plain;a",
            "x-empty": "",
            "x-twice": "1",
            "x-odd": "é",
            "content-length": "0",
        }


# What is no answer


NO_ANSWERS = {
    "another protocol": b"SSH-2.0-" + KEY.encode() + b"\r\n\r\n",
    "a status below all": b"HTTP/1.1 099 A\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "a bad header": OK + b"X-Echo " + KEY.encode() + b"\r\n\r\n",
    "a bare line feed in a name": OK + b"X\nY: " + KEY.encode() + b"\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "a length below nothing": OK + b"Content-Length: -1\r\n\r\n",
    "a length beyond numbers": OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unfinished coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "two codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an upgrade to nothing": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "a chunk of no size": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk beyond numbers": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "a chunk longer than it says": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "a long line": OK + b"X-Long: " + b"a" * (70 << 10),
    "a long name": OK + b"a" * (70 << 10),
    "a long reason": b"HTTP/1.1 200 " + b"a" * (150 << 10),
    "a long head": OK + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(70)) + b"\r\n",
    "many headers": OK + b"".join(b"X-%d: a\r\n" % n for n in range(129)) + b"Content-Length: 0\r\n\r\n",
    "many trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
    "a long trailer": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"a" * (200 << 10),
    "a long extension": OK + b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"a" * (200 << 10),
    "hints for ever": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 4000,
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_is_refused_unquoted_and_its_connection_closed(name: str) -> None:
    async with (
        talking(says(NO_ANSWERS[name], keeps=True)) as server,
        connected(server) as connections,
    ):
        with pytest.raises(NotHTTP) as failed:
            await ask(connections)
        await server.until(lambda server: server.open == 0)
        told = repr(failed.value) + repr(failed.value.__cause__) + repr(failed.value.__context__)
        assert KEY not in told and "aaa" not in told


async def test_what_follows_an_answer_is_nobodys() -> None:
    for more in (b"garbage", FRAMED["length"], FRAMED["length"][:20], b"\0"):
        async with talking(says(FRAMED["length"] + more, keeps=True)) as server, connected(server) as connections:
            for _ in range(2):
                assert await ask(connections) == (200, b"hello world")
            assert server.callers == 2
            await server.until(lambda server: server.open == 0)


async def test_what_comes_while_nobody_asks_closes_the_connection() -> None:
    async def talk(caller: Caller) -> None:
        await caller.request()
        await caller.say(FRAMED["length"])
        await asyncio.sleep(0.03)
        await caller.say(FRAMED["chunked"])
        await caller.hang()

    async with talking(talk) as server, connected(server) as connections:
        assert await ask(connections) == (200, b"hello world")
        await server.until(lambda server: server.open == 0)
        assert connections.waiting() is None
        assert await ask(connections) == (200, b"hello world")


async def test_an_answer_to_half_a_request_does_not_leave_the_other_half_to_the_next() -> None:
    async def talk(caller: Caller) -> None:
        await caller.say(FRAMED["length"])
        await caller.hang()

    async with talking(talk) as server, connected(server) as connections:
        reply = await asked(connections, body=b"x" * (32 << 20))
        assert await whole(reply) == b"hello world"
        assert connections.waiting() is None


# Keeping connections


async def test_the_connection_used_last_is_used_first_and_each_by_one_at_a_time() -> None:
    async def talk(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.say(OK + b"Content-Length: 1\r\n\r\n%d" % caller.number)

    async with talking(talk) as server, connected(server) as connections:
        replies = [await asked(connections) for _ in range(1)]
        both = await asyncio.gather(asked(connections), asked(connections))
        assert {await whole(reply) for reply in [*replies, *both]} == {b"0", b"1"}
        last = await (await asked(connections)).read()
        for _ in range(3):
            assert (await ask(connections))[1] == last
        assert server.callers == 2


async def test_a_connection_is_free_though_its_answer_is_still_to_be_read() -> None:
    async with talking(says(*[FRAMED["chunked"]] * 2, keeps=True)) as server, connected(server) as connections:
        first, second = await asked(connections), await asked(connections)
        assert server.callers == 1
        first.close()
        assert await whole(second) == b"hello world"
        assert await whole(first) == b"hello world", "all of it had come"


async def test_idle_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_IDLE_S", 0.2)
    async with talking(says(*[FRAMED["length"]] * 9, keeps=True)) as server, connected(server) as connections:
        replies = [await asked(connections) for _ in range(1)]
        await asyncio.gather(ask(connections), ask(connections), ask(connections))
        assert server.open == 3
        await asyncio.sleep(0.1)
        assert await ask(connections) == (200, b"hello world")
        await server.until(lambda server: server.open == 1)
        await server.until(lambda server: server.open == 0)
        assert not connections._idle
        assert connections._sweeping is None
        assert await ask(connections) == (200, b"hello world")
        assert server.callers == 4
        assert await whole(replies[0]) == b"hello world"


async def test_a_connection_that_the_server_closes_is_forgotten() -> None:
    async with talking(says(FRAMED["length"])) as server, connected(server) as connections:
        for number in range(3):
            assert await ask(connections) == (200, b"hello world")
            assert server.callers == number + 1
            await server.until(lambda server: server.open == 0)
            await asyncio.sleep(0.01)
            assert not connections._open


async def test_a_kept_connection_that_dies_unanswered_is_told_from_one_that_breaks_off() -> None:
    async def talk(caller: Caller) -> None:
        await caller.request()
        await caller.say(FRAMED["length"])
        await caller.request()
        await caller.say(*([b"H"] if caller.number else []))

    async with talking(talk) as server, connected(server) as connections:
        for stale in (True, False):
            assert await ask(connections) == (200, b"hello world")
            with pytest.raises(Lost) as lost:
                await ask(connections)
            assert (lost.value.stale, lost.value.unanswered) == (stale, stale)
        assert len(server.requests) == 0


# Slow readers


async def test_a_slow_reader_is_waited_for() -> None:
    sent = 0

    async def talk(caller: Caller) -> None:
        nonlocal sent
        await caller.request()
        await caller.say(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(512):
            await caller.say(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            sent += 0x8000
        await caller.say(b"0\r\n\r\n")
        await caller.hang()

    async with talking(talk) as server, connected(server) as connections:
        reply = await asked(connections)
        await asyncio.sleep(0.3)
        before = sent
        await asyncio.sleep(0.2)
        assert sent == before < 512 * 0x8000
        assert reply._size <= 2 * MOST_UNREAD
        first = await reply.read()
        assert MOST_UNREAD < len(first) <= 2 * MOST_UNREAD
        assert len(first) + len(await whole(reply)) == 512 * 0x8000
        assert reply.ended
        assert connections.waiting() is not None


async def test_a_slow_reader_may_leave() -> None:
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    async def talk(caller: Caller) -> None:
        await caller.request()
        await caller.say(endless)
        while True:
            await caller.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    async with talking(talk) as server, connected(server) as connections:
        reply = await asked(connections)
        await asyncio.sleep(0.1)
        reply.close()
        await server.until(lambda server: server.open == 0)


# Leaving


@contextmanager
def full() -> Iterator[str]:
    """An address where connections are neither accepted nor refused: its queue is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def left(asking: "asyncio.Task[Any]") -> None:
    asking.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_who_leaves_while_connecting_leaves_no_socket() -> None:
    with full() as url:
        async with connected(url) as connections:
            asking = asyncio.create_task(ask(connections))
            await asyncio.sleep(0.05)
            await left(asking)
        gc.collect()  # a socket that is left would warn


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nX-", OK + b"Transfer-Encoding: chunked\r\n\r\n", FRAMED["chunked"][:-9], LASTING["old"]],
    ids=["before the answer", "in its head", "before its body", "in its body", "in a body without end"],
)
async def test_the_server_learns_at_once_that_its_caller_left(said: bytes) -> None:
    async def talk(caller: Caller) -> None:
        server.requests.append(await caller.request())
        await caller.say(said)
        await caller.hang()

    async with talking(talk) as server, connected(server) as connections:
        asking = asyncio.create_task(ask(connections))
        await server.until(lambda server: bool(server.requests))
        await asyncio.sleep(0.02)
        await left(asking)
        async with asyncio.timeout(0.5):
            await server.until(lambda server: server.open == 0)
        assert connections.waiting() is None


async def test_who_leaves_during_the_handshake_leaves_no_socket(authority: Authority) -> None:
    async with talking(Caller.hang) as server:
        url = server.url.replace("http:", "https:")
        async with connected(url, tls=authority.believed()) as connections:
            asking = asyncio.create_task(ask(connections))
            await server.until(lambda server: server.open == 1)
            await asyncio.sleep(0.02)
            await left(asking)
            await server.until(lambda server: server.open == 0)


async def test_closing_ends_every_request_whatever_it_waits_for() -> None:
    async def talk(caller: Caller) -> None:
        await caller.request()
        await caller.say(*([FRAMED["chunked"][:-9]] if caller.number else []))
        await caller.hang()

    async with talking(talk) as server:
        connections = Connections(server.url, connect_s=10)
        waiting = asyncio.create_task(ask(connections))
        await server.until(lambda server: server.open == 1)
        reading = await asked(connections)
        connections.close()
        assert await reading.read() == b"hello wor"
        for ended in (waiting, asyncio.create_task(whole(reading))):
            async with asyncio.timeout(1):
                with pytest.raises(Lost):
                    await ended
        await server.until(lambda server: server.open == 0)
        with pytest.raises(Lost):
            await connections.new()
        await server.until(lambda server: server.open == 0)
    with full() as url:
        connections = Connections(url, connect_s=10)
        waiting = asyncio.create_task(ask(connections))
        await asyncio.sleep(0.02)
        connections.close()
        async with asyncio.timeout(1):
            with pytest.raises(Lost):
                await waiting


async def test_a_hundred_that_leave_at_odd_moments_leave_nothing() -> None:
    async def talk(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.say(*(bytes([byte]) for byte in FRAMED["chunked"]))

    async with talking(talk) as server, connected(server) as connections:
        asking = [asyncio.create_task(ask(connections)) for _ in range(200)]
        for turn, task in enumerate(asking[::2]):
            await asyncio.sleep(0.001 if turn % 3 else 0)
            task.cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) or each == (200, b"hello world") for each in done)
        assert done[1::2] == [(200, b"hello world")] * 100
        await server.until(lambda server: server.open == len(connections._idle))


# Where it connects to


async def test_a_name_is_looked_up_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def slow(host: str, *given: Any, **more: Any) -> Any:
        looked_up.append(host)
        return real(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with talking(says(FRAMED["length"])) as server:
        async with connected(server.url.replace("127.0.0.1", "localhost")) as connections:
            await asyncio.gather(*(ask(connections) for _ in range(20)))
            await ask(connections)
        assert looked_up == ["localhost"]


async def test_one_of_several_addresses_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(says(FRAMED["length"])) as server:
        port = int(server.url.rpartition(":")[2])
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: [six, four])
        async with connected(f"http://somewhere:{port}") as connections:
            assert await ask(connections) == (200, b"hello world")


async def test_a_host_that_cannot_be_reached_is_named_and_its_reason_is_the_systems(tmp_path: Path) -> None:
    async with connected("http://127.0.0.1:9") as connections:
        with pytest.raises(NotConnected, match=r"^Cannot connect to host 127.0.0.1:9 \[") as failed:
            await ask(connections)
        assert not isinstance(failed.value, ConnectionTimeout)
    async with connected("http://nowhere.invalid") as connections:
        with pytest.raises(NotConnected, match=r"^Cannot connect to host nowhere.invalid:80 \["):
            await ask(connections)
    async with connected("http://engine", socket=tmp_path / "s") as connections:
        with pytest.raises(NotConnected, match=r"^Cannot connect to unix socket .*/s \[No such file or directory\]$"):
            await ask(connections)
    with full() as url:
        async with connected(url, connect_s=0.1) as connections:
            with pytest.raises(ConnectionTimeout):
                await ask(connections)


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a:99999", "a", "http://a..b", "http://[::1", f"http://{'a' * 70}.b"]
)
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(NotConnected):
        Connections(url, connect_s=1)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.com", b"example.com"),
        ("http://example.com:80", b"example.com"),
        ("https://example.com", b"example.com"),
        ("http://example.com:443/v1/", b"example.com:443"),
        ("http://[::1]:8000", b"[::1]:8000"),
        ("http://[::1]", b"[::1]"),
        ("http://\u4f8b\u5b50.example", b"xn--fsqu00a.example"),
    ],
)
async def test_the_host_is_named_as_it_should_be(url: str, host: bytes) -> None:
    request = Connections(url, connect_s=1).request("POST", "/a", {"X-B": "c"}, b"{}")
    lines = request.split(b"\r\n")
    assert lines[0] == (b"POST /v1/a HTTP/1.1" if "v1" in url else b"POST /a HTTP/1.1")
    assert lines[1] == b"Host: " + host
    assert {b"Accept-Encoding: identity", b"X-B: c", b"Content-Length: 2"} < set(lines)
    assert request.endswith(b"\r\n\r\n{}")


async def test_a_unix_socket_is_another_way_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with talking(says(*[FRAMED["chunked"]] * 2, keeps=True), path=path) as server:
        async with connected("http://engine", socket=path) as connections:
            for _ in range(2):
                assert await ask(connections) == (200, b"hello world")
        assert server.callers == 1


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with talking(says(FRAMED["length"])) as server, connected(server) as connections:
        assert await ask(connections) == (200, b"hello world")


# What is sent


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nX-Evil: 1", "\x7f", "\x1b", "\u4f60", "\ud800"])
async def test_a_request_cannot_be_made_two(bad: str) -> None:
    connections = Connections("http://127.0.0.1:9", connect_s=1)
    for method, path, headers in (
        ("PO" + bad, "/", {}),
        ("POST", "/a" + bad, {}),
        ("POST", "/", {"X" + bad: "a"}),
        ("POST", "/", {"Authorization": f"Bearer {KEY}{bad}"}),
        ("POST", "/", {"Authorization": f"{bad}{KEY}"}),
    ):
        with pytest.raises(Unsendable) as refused:
            connections.request(method, path, headers, b"")
        assert KEY not in repr(refused.value)


@pytest.mark.parametrize(
    ("method", "path", "name"), [("HEAD", "/", "A"), ("CONNECT", "/", "A"), ("GET", "a", "A"), ("GET", "/ b", "A"),
                                 ("GET", "", "A"), ("", "/", "A"), ("GET", "/", ""), ("GET", "/", "a:b"), ("GET", "/", "a b")]
)  # fmt: skip
async def test_what_is_no_request_is_not_sent(method: str, path: str, name: str) -> None:
    with pytest.raises(Unsendable):
        Connections("http://127.0.0.1:9", connect_s=1).request(method, path, {name: "a"}, None)


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def talks_twice() -> Talk:
    return says(*[FRAMED["chunked"]] * 2, keeps=True)


async def test_a_certificate_is_believed_if_its_authority_is(authority: Authority) -> None:
    async with talking(talks_twice(), tls=authority.serving("127.0.0.1")) as server:
        async with connected(server, tls=authority.believed()) as connections:
            for _ in range(2):
                assert await ask(connections) == (200, b"hello world")
        assert server.callers == 1
        await server.until(lambda server: server.open == 0)


async def test_a_certificate_of_nobodys_or_of_another_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    for serving, believed in (
        (authority.serving("127.0.0.1"), None),
        (authority.serving("127.0.0.1"), other.believed()),
        (authority.serving("example.com"), authority.believed()),
    ):
        async with talking(talks_twice(), tls=serving) as server, connected(server, tls=believed) as connections:
            with pytest.raises(NotConnected, match="certificate"):
                await ask(connections)
            await server.until(lambda server: server.open == 0)


async def test_the_server_is_told_which_name_is_wanted(authority: Authority) -> None:
    names: list[str | None] = []
    context = authority.serving("localhost")
    context.sni_callback = lambda wrapped, name, context: names.append(name)
    async with talking(talks_twice(), tls=context) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with connected(url, tls=authority.believed()) as connections:
            assert await ask(connections) == (200, b"hello world")
    assert names == ["localhost"]


async def test_a_server_that_speaks_no_tls_is_no_server(authority: Authority) -> None:
    async def talk(caller: Caller) -> None:
        await caller.say(b"HTTP/1.1 400 " + KEY.encode() + b"\r\n\r\n")
        await caller.hang()

    async with talking(talk) as server:
        url = server.url.replace("http:", "https:")
        async with connected(url, tls=authority.believed()) as connections:
            with pytest.raises(NotConnected) as failed:
                await ask(connections)
    assert KEY not in repr(failed.value)


async def test_a_body_until_the_end_needs_an_end_under_tls_too(authority: Authority) -> None:
    for clean in (True, False):

        async def talk(caller: Caller, clean: bool = clean) -> None:
            await caller.request()
            await caller.say(LASTING["until the end"])
            await asyncio.sleep(0.02)
            if not clean:  # anybody between could have cut it here
                caller._writer.transport._ssl_protocol._transport.abort()  # type: ignore[attr-defined]

        async with (
            talking(talk, tls=authority.serving("127.0.0.1")) as server,
            connected(server, tls=authority.believed()) as connections,
        ):
            if clean:
                assert await ask(connections) == (200, b"hello world")
            else:
                with pytest.raises(Lost):
                    await ask(connections)


async def test_a_slow_reader_is_waited_for_under_tls(authority: Authority) -> None:
    said = OK + b"Content-Length: 8388608\r\n\r\n" + b"x" * (8 << 20)
    async with (
        talking(says(said, keeps=True), tls=authority.serving("127.0.0.1")) as server,
        connected(server, tls=authority.believed()) as connections,
    ):
        reply = await asked(connections)
        await asyncio.sleep(0.2)
        assert reply._size <= 4 * MOST_UNREAD
        assert len(await whole(reply)) == 8 << 20
        assert connections.waiting() is not None


def test_the_system_says_which_certificates_are_believed() -> None:
    context = pool._system_tls()
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
