"""Clients that do not ask, over real sockets."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.server import free_port, wait_until
from tunesmith.http.patience import PatientProtocol


class Impatient(PatientProtocol):
    patience_s = 0.2


@dataclass
class Stage:
    """A server that waits idle connections for a second; ``/slow`` answers when ``told``."""

    port: int = field(default_factory=free_port)
    told: threading.Event = field(default_factory=threading.Event)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        while scope["path"] == "/slow" and not self.told.is_set():  # noqa: ASYNC110 - told from another thread
            await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def connect(self, first: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        client.sendall(first)
        return client


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    options = {
        "http": Impatient,
        "interface": "asgi3",
        "timeout_keep_alive": 1,
        "lifespan": "off",
        "log_level": "critical",
    }
    server = uvicorn.Server(uvicorn.Config(stage.app, port=stage.port, **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server did not start", 20)
    yield stage
    stage.told.set()
    server.should_exit = True
    thread.join(20)


def until_closed(client: socket.socket) -> bytes:
    """Everything that comes; a server that never closes is a timeout, and an error."""
    came = b""
    with client:
        while part := client.recv(4096):
            came += part
    return came


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


@pytest.mark.parametrize("first", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n", b"\r\n\r\n"])
def test_a_connection_that_never_asks_is_closed(stage: Stage, first: bytes) -> None:
    assert until_closed(stage.connect(first)) == b""


@pytest.mark.parametrize("then", [b"", b"GET /", b"GET / HTTP/1.1\r\nhost", b"\r\n"])
def test_one_that_asks_again_but_not_wholly_is_closed(stage: Stage, then: bytes) -> None:
    client = stage.connect(request("/"))
    came = b""
    while not came.endswith(b"ok"):
        came += client.recv(4096)
    client.sendall(then)
    assert until_closed(client) == b""


@pytest.mark.parametrize("first", [[], ["/"], ["/", "/"]])
def test_an_answer_that_takes_long_is_not_cut_also_after_others(stage: Stage, first: list[str]) -> None:
    asked = [*first, "/slow"]
    client = stage.connect(b"".join(request(path) for path in asked))
    client.settimeout(2)  # longer than a connection may wait
    came = b""
    with pytest.raises(TimeoutError):
        while True:
            part = client.recv(4096)
            assert part, "the connection was closed"
            came += part
    stage.told.set()
    client.settimeout(20)
    assert (came + until_closed(client)).count(b"\r\n\r\nok") == len(asked)
