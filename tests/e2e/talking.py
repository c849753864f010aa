"""A client of ``/api/chat/send`` on a plain socket: it sees every write of the server, and leaves when it likes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(slots=True)
class Talk:
    """One request on a socket of its own, and what came of it so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    texts: list[str] = field(default_factory=list)
    comments: int = 0

    @staticmethod
    async def begin(url: str, model: str, *, receive_buffer: int | None = None) -> "Talk":
        where = urlsplit(url)
        raw = socket.socket()
        raw.setblocking(False)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(raw, (where.hostname, where.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1 << 16)
        body = json.dumps({"message": "你好", "service": "openrouter", "model": model}).encode()
        head = "POST /api/chat/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return Talk(reader, writer)

    async def head(self) -> str:
        """Status line and headers."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def frames(self) -> AsyncIterator[dict[str, Any]]:
        """Each frame after the headers; every write of the server holds whole ones."""
        while True:
            size = int(await self.reader.readline(), 16)
            piece = (await self.reader.readexactly(size + 2))[:-2]
            if not size:
                return
            assert piece.endswith(b"\n\n"), piece
            for part in piece.split(b"\n\n")[:-1]:
                if part.startswith(b":"):
                    self.comments += 1
                    continue
                frame: dict[str, Any] = json.loads(part.removeprefix(b"data: "))
                if "message" in frame and not frame.get("error"):
                    self.texts.append(frame["message"]["content"])
                yield frame

    async def whole(self) -> dict[str, Any]:
        """Read headers and frames to the end; the last frame."""
        await self.head()
        return await self.rest()

    async def rest(self) -> dict[str, Any]:
        """Read the frames to the end; the last one. They are numbered without a gap."""
        last: dict[str, Any] = {}
        number = 0
        async for frame in self.frames():
            number += 1
            assert frame.get("error") or frame["chunk"] == number, frame
            last = frame
        return last

    async def leave(self, *, rudely: bool = True) -> None:
        """Hang up; rudely without sending what was still to be sent."""
        if rudely:
            self.writer.transport.abort()
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
