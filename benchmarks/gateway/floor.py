"""The least this interpreter can do: a streaming proxy on bare ``asyncio.Protocol``, without any protection.

    python floor.py PORT UPSTREAM_PORT

Every event of the upstream is decoded (msgspec, typed) and encoded again as a frame of the chat document; what arrives
in one read leaves in one write. Nothing else is done: no routing, limits, time-outs, retries, records or back-pressure,
and of HTTP only what the two sides here speak. What a real gateway costs more than this is what its work costs.
"""

import asyncio
import sys

import msgspec

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


class _Message(msgspec.Struct):
    content: str


class _Frame(msgspec.Struct):
    message: _Message
    chunk: int
    done: bool = False


class _LastFrame(_Frame):
    fullResponse: str = ""  # the document's name


class _Question(msgspec.Struct):
    message: str
    model: str


_decode = msgspec.json.Decoder(_Chunk).decode
_question = msgspec.json.Decoder(_Question).decode
_encode = msgspec.json.Encoder().encode


def _frame(frame: _Frame) -> bytes:
    return b"data: %b\n\n" % _encode(frame)


class Upstream(asyncio.Protocol):
    """One connection to the upstream; goes back to ``idle`` after each answer."""

    def __init__(self, idle: list["Upstream"]) -> None:
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, reader: "Client") -> None:
        self._reader, self._rest, self._in_body = reader, b"", False
        self._texts: list[str] = []
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self._in_body:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            self._in_body = True
        # a line of an event never holds a line break, so the sizes of HTTP chunks are lines of their own to skip
        *lines, self._rest = data.split(b"\n")
        frames = [self._translated(line) for line in lines if line.startswith(b"data: {")]
        last = b"0\r" in lines and self._rest in (b"", b"\r")
        if last:
            frames.append(_frame(_LastFrame(_Message(""), len(self._texts) + 1, True, "".join(self._texts))))
        self._reader.say(b"".join(frames), last)
        if last:
            self._idle.append(self)

    def _translated(self, line: bytes) -> bytes:
        choices = _decode(line[6:]).choices
        text = choices[0].delta.content if choices else None
        if not text:
            return b""
        self._texts.append(text)
        return _frame(_Frame(_Message(text), len(self._texts)))

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)


class Client(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, port: int, idle: list[Upstream]) -> None:
        self._port, self._idle, self._request = port, idle, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, end, body = self._request.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if not end or len(body) < int(length or 0):
            return
        self._request = b""
        if head.startswith(b"GET "):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return
        question = _question(body)
        messages = [{"role": "user", "content": question.message}]
        asked = _encode({"model": question.model, "stream": True, "messages": messages})
        head = b"POST /api/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(asked)
        self._transport.write(_HEAD)
        if self._idle:
            self._idle.pop().ask(head + asked, self)
        else:
            self._dialling = asyncio.ensure_future(self._dial(head + asked))

    async def _dial(self, request: bytes) -> None:
        make = asyncio.get_running_loop().create_connection
        (await make(lambda: Upstream(self._idle), "127.0.0.1", self._port))[1].ask(request, self)

    def say(self, frames: bytes, last: bool) -> None:
        chunk = b"%x\r\n%b\r\n" % (len(frames), frames) if frames else b""
        self._transport.write(chunk + _END if last else chunk)


async def main(port: int, upstream: int) -> None:
    """Serve until killed."""
    idle: list[Upstream] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(upstream, idle), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
