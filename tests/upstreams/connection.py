"""One HTTP/1.1 connection with every byte under control: what is written, when, and when the peer left."""

import asyncio
import socket
import struct
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

Phase = Literal["before headers", "before first token", "mid-stream"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """Reads requests one after another and hands each to ``answer``, which is cancelled when the peer leaves."""

    def __init__(
        self, answer: "Answer", on_open: "Callable[[Connection], None]", on_close: "Callable[[Connection], None]"
    ) -> None:
        self._answer = answer
        self._on_open = on_open
        self._on_close = on_close
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self.phase: Phase = "before headers"
        self.ended_by_us = False
        self.written = 0
        self.began = self.last_write = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._on_open(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def eof_received(self) -> None:
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def start(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send the status line and headers of a chunked answer."""
        self.phase = "before first token"
        await self._send(_head(status, {**(headers or {}), "Transfer-Encoding": "chunked"}))

    async def write(self, data: bytes, *, token: bool = False) -> None:
        """Send ``data`` as one chunk in one write; a ``token`` moves the phase."""
        if token:
            self.phase = "mid-stream"
        await self._send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End a chunked answer cleanly."""
        await self._send(b"0\r\n\r\n")

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer whose length is known."""
        await self._send(_head(status, {**headers, "Content-Length": str(len(body))}) + body)

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        self.ended_by_us = True
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def close(self) -> None:
        """End the connection in the ordinary way, whatever was promised."""
        self.ended_by_us = True
        self.transport.close()

    async def _send(self, data: bytes) -> None:
        self.last_write = time.monotonic()
        self.transport.write(data)
        self.written += len(data)
        # also without back-pressure the loop must come round, or no hang-up is ever noticed
        if self._writable.is_set():
            await asyncio.sleep(0)
        else:
            await self._writable.wait()

    async def _serve(self) -> None:
        try:
            while not self.transport.is_closing():
                asked = await self._read()
                self.phase, self.written = "before headers", 0
                self.began = self.last_write = time.monotonic()
                await self._answer(self, asked)
        except Exception:
            # a stand-in that fails by mistake must not look like one that hangs on purpose
            traceback.print_exc()
            self.transport.abort()

    async def _read(self) -> Asked:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, path, _ = lines[0].split(" ", 2)
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            await self._more()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return Asked(method, path, headers, body)

    async def _more(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _stop(self) -> None:
        # what we did ourselves is no hang-up
        if self._task is not None and not self.ended_by_us:
            self._task.cancel()


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
Answer = Callable[[Connection, Asked], Awaitable[Any]]


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unassigned')}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
