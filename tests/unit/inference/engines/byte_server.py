"""A server that says exactly the bytes it is told to, and knows who hung up."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

Talk = Callable[["Caller"], Awaitable[None]]


class Caller:
    """One connection, as the server sees it.

    Attributes:
        number: of connections before it.
    """

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self._reader, self._writer = number, reader, writer

    async def request(self) -> bytes:
        """The next request, whole."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        return head + await self._reader.readexactly(int(length or 0))

    async def say(self, *pieces: bytes) -> None:
        """One write each, as far as the system lets them leave apart."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def hang(self) -> None:
        """Wait until the caller leaves."""
        while await self._reader.read(1 << 16):
            pass


class Server:
    """What was seen.

    Attributes:
        requests: whole, in the order they came.
        callers: connections so far.
        open: connections now.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[bytes] = []
        self.callers = self.open = 0

    async def until(self, true: Callable[["Server"], bool]) -> None:
        """Wait for something to be so."""
        async with asyncio.timeout(20):
            while not true(self):  # noqa: ASYNC110 - what is asked for may be anything
                await asyncio.sleep(0.002)


@asynccontextmanager
async def talking(talk: Talk, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> AsyncIterator[Server]:
    """A server whose every connection does as ``talk`` says, and is closed at its end."""
    server = Server("http://engine")
    tasks = set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        caller = Caller(server.callers, reader, writer)
        server.callers += 1
        server.open += 1
        try:
            await talk(caller)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it has left, or the test is over
        finally:
            server.open -= 1
            writer.close()
            tasks.discard(task)

    if path is not None:
        listening = await asyncio.start_unix_server(connected, path)
    else:
        listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        scheme = "https" if tls else "http"
        server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*answers: Iterable[bytes] | bytes, keeps: bool = False) -> Talk:
    """Answers the first request of each connection with the first, and so on; then closes, or waits for the caller to."""

    async def talk(caller: Caller) -> None:
        for answer in answers:
            await caller.request()
            await caller.say(*((answer,) if isinstance(answer, bytes) else answer))
        if keeps:
            await caller.hang()

    return talk
