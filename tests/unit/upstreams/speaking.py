"""A client that sees every byte: one request on a plain socket."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

BEARER = {"Authorization": "Bearer k"}


class Speaking:
    """One connection; ``ask`` on it, then ``read`` what comes."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=20)
        self.bytes = b""

    def ask(self, path: str, body: object, *, method: str = "POST", headers: Mapping[str, str] = BEARER) -> None:
        raw = json.dumps(body).encode()
        named = {"Host": "x", "Content-Length": str(len(raw)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)

    def until(self, wanted: bytes) -> bytes:
        """Read until ``wanted`` was seen, or the connection ended; gives everything read so far."""
        while wanted not in self.bytes and (piece := self.socket.recv(65536)):
            self.bytes += piece
        return self.bytes

    def whole(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer to its end: status, headers in lower case, body without its chunk sizes.

        Raises:
            AssertionError: the connection ended before the answer did.
            ConnectionResetError: it was reset.
        """
        self.until(b"\r\n\r\n")
        head, _, self.bytes = self.bytes.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length")
        body = b"".join(self.chunks()) if length is None else self._take(int(length))
        return int(first.split()[1]), headers, body

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body, as they were written."""
        while True:
            self.until(b"\r\n")
            size, _, self.bytes = self.bytes.partition(b"\r\n")
            assert size, "the connection ended before the answer did"
            chunk = self._take(int(size, 16) + 2)[:-2]
            if not chunk:
                return
            yield chunk

    def _take(self, length: int) -> bytes:
        while len(self.bytes) < length:
            piece = self.socket.recv(1 << 20)
            assert piece, "the connection ended before the answer did"
            self.bytes += piece
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken


@contextmanager
def speaking(url: str) -> Iterator[Speaking]:
    connection = Speaking(url)
    try:
        yield connection
    finally:
        connection.socket.close()


def frames(wire: str, body: bytes) -> list[Any]:
    """The JSON of each event or line of ``body``, but for ``[DONE]``, comments and blank lines."""
    lines = [line for line in body.split(b"\n") if line and not line.startswith(b":") and line != b"data: [DONE]"]
    return [json.loads(line.removeprefix(b"data: ") if wire == "openai" else line) for line in lines]


def said(wire: str, body: bytes) -> str:
    """The text of a stream."""
    if wire == "ollama":
        return "".join(frame["message"]["content"] for frame in frames(wire, body) if "message" in frame)
    return "".join(frame["choices"][0]["delta"]["content"] for frame in frames(wire, body) if frame["choices"])
