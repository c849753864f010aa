"""Who reads the streams, over real sockets: readers that stop reading, and crowds that leave at once."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.tiny_model import make_tiny_base
from tunesmith.inference.worker import outbox
from tunesmith.inference.worker.events import Ended, Failed, Mailbox, Text, collect_all
from tunesmith.inference.worker.server import Worker
from tunesmith.inference.worker.step import Predictions, Step
from tunesmith.kernel.problems import Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "t" * 60_000  # every frame says it, so two fill what the sockets hold, however fast the words come
LONG = {
    "model": NAME,
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0,
    "max_tokens": 400,
    "stream": True,
}


def slow_down(worker: Worker) -> None:
    """A row takes a second: it must not be over before anybody has noticed that its reader has stopped."""
    assert worker._core is not None
    model = worker._core.model
    forward = model.forward

    def slowly(step: Step) -> Predictions:
        time.sleep(0.003)
        return forward(step)

    model.forward = slowly  # type: ignore[method-assign]


@dataclass(frozen=True)
class Served:
    """A worker on a port of this machine that hardly buffers what it sends."""

    worker: Worker
    port: int
    session: aiohttp.ClientSession

    async def rows(self) -> dict[str, int]:
        async with self.session.get(f"http://127.0.0.1:{self.port}/health") as response:
            rows: dict[str, int] = (await response.json())["rows"]
            return rows

    async def until(self, **rows: int) -> None:
        async with asyncio.timeout(60):
            while not rows.items() <= (await self.rows()).items():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def open(self, body: dict[str, Any], buffer: int | None = None) -> socket.socket:
        """A connection that has asked and reads nothing."""
        client = socket.socket()
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.setblocking(False)
        loop, data = asyncio.get_running_loop(), json.dumps(body).encode()
        await loop.sock_connect(client, ("127.0.0.1", self.port))
        head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data)
        await loop.sock_sendall(client, head + data)
        return client

    async def text(self, client: socket.socket) -> str:
        """What the connection gets until it is closed; it must say that it is over."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = b""
        while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
            received += piece
        client.close()
        frames = received.partition(b"\r\n\r\n")[2].decode().split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        said = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[:-2]]
        assert said[-1]["finish_reason"] == "length"
        return "".join(choice["delta"].get("content", "") for choice in said)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "PACE_S", 0.0)  # a frame for every token, or there are too few to fill anything
        async for one in _served(tmp_path_factory):
            yield one


async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    base = make_tiny_base(tmp_path_factory.mktemp("worker") / "tiny", endless=True)
    worker = Worker(NAME, base, threads=1, max_rows=8)
    runner = web.AppRunner(worker.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    listening.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listening, backlog=512).start()
    async with aiohttp.ClientSession() as session:
        await worker.load()
        slow_down(worker)
        yield Served(worker, listening.getsockname()[1], session)
    worker.close()
    async with asyncio.timeout(60):
        while runner.server is not None and runner.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await runner.cleanup()


async def test_a_reader_that_stops_reading_holds_up_no_other_and_gets_all_when_it_goes_on(served: Served) -> None:
    slow = await served.open(LONG, buffer=4096)
    await served.until(running=0, waiting=1)  # it has been set aside, its text is not lost
    other = await served.text(await served.open(LONG))
    assert (await served.rows()) == {"running": 0, "waiting": 1}
    assert await served.text(slow) == other
    await served.until(running=0, waiting=0)


async def test_a_reader_that_has_stopped_reading_can_leave(served: Served) -> None:
    slow = await served.open(LONG, buffer=4096)
    await served.until(running=0, waiting=1)
    slow.close()
    await served.until(running=0, waiting=0)


async def test_200_streams_cut_at_once_leave_nothing_behind(served: Served) -> None:
    streams = [await served.open(LONG | {"user": str(n % 9)}) for n in range(200)]
    await served.until(running=8, waiting=192)
    for stream in streams:
        stream.close()
    await served.until(running=0, waiting=0)
    short = LONG | {"max_tokens": 5}
    assert len(await served.text(await served.open(short))) > 0
    assert served.worker._core is not None
    assert served.worker._core.model.cache.allocated == 0


async def test_a_mailbox_tells_when_its_reader_is_behind_and_when_not_any_more() -> None:
    told: list[bool] = []
    mailbox = Mailbox(told.append)
    for _ in range(255):
        mailbox.put([Text("a")])
    assert told == []
    for _ in range(10):
        mailbox.put([Text("a")])
    assert told == [True]
    assert len(await mailbox.take()) == 265
    assert told == [True, False]


async def test_a_reader_is_behind_by_tokens_in_however_few_pieces() -> None:
    told: list[bool] = []
    mailbox = Mailbox(told.append)
    for tokens, behind in ((200, []), (55, []), (1, [True])):
        mailbox.put([Text("a" * tokens, tokens=tokens)])
        assert told == behind
    assert len(await mailbox.take()) == 3
    mailbox.put([Text("a" * 255, tokens=255)])
    assert told == [True, False]


async def test_rows_that_are_collected_are_all_read_at_once() -> None:
    behind: list[bool] = []
    mail = [Mailbox(behind.append) for _ in range(3)]
    over = Ended("stop", 600, 0.1, 0.2)
    collecting = asyncio.create_task(collect_all(mail))
    for _ in range(600):
        await asyncio.sleep(0)
        for mailbox in mail[1:]:
            mailbox.put([Text("b")])
    assert not behind
    for mailbox in mail:
        mailbox.put([over])
    assert [text.text for text, _ in await collecting] == ["", "b" * 600, "b" * 600]


async def test_the_first_failure_of_rows_that_are_collected_ends_the_waiting() -> None:
    mail = [Mailbox() for _ in range(3)]
    mail[2].put([Failed(Unavailable("坏", "broken"))])
    with pytest.raises(Unavailable, match="broken"):
        await asyncio.wait_for(collect_all(mail), 10)
