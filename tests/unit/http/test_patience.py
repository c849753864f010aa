"""Clients that do not ask, over real sockets."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.server import free_port, wait_until
from tunesmith.http.patience import PatientProtocol


class Impatient(PatientProtocol):
    first_patience_s = patience_s = 0.2


class Hasty(PatientProtocol):
    first_patience_s, patience_s = 0.2, 3600.0


class Crowded(PatientProtocol):
    most_per_client = 3
    counts_loopback = True


class CrowdedElsewhere(PatientProtocol):
    most_per_client = 3


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

    def connect(self, first: bytes = b"", client_host: str = "127.0.0.1") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(client_host, 0))
        client.sendall(first)
        return client


@contextmanager
def served(protocol: type[PatientProtocol]) -> Iterator[Stage]:
    stage = Stage()
    options = {
        "http": protocol,
        "interface": "asgi3",
        "timeout_keep_alive": 1,
        "lifespan": "off",
        "log_level": "critical",
    }
    server = uvicorn.Server(uvicorn.Config(stage.app, port=stage.port, **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server did not start", 20)
    try:
        yield stage
    finally:
        stage.told.set()
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with served(Impatient) as stage:
        yield stage


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


def test_a_first_request_is_waited_for_less_long_than_a_later_one() -> None:
    with served(Hasty) as stage:
        assert until_closed(stage.connect(b"GET / HT")) == b""


def answered(client: socket.socket) -> bool:
    """Whether a request on that connection is answered; the connection stays open."""
    came = b""
    with suppress(ConnectionError):
        client.sendall(request("/"))
        while not came.endswith(b"ok"):
            part = client.recv(4096)
            if not part:
                break
            came += part
    return came.endswith(b"ok")


def test_a_client_with_too_many_connections_gets_no_more_and_others_do() -> None:
    with served(Crowded) as stage:
        held = [stage.connect() for _ in range(3)]
        one_more = stage.connect()
        assert not answered(one_more)
        one_more.close()
        with stage.connect(client_host="127.0.0.2") as other:
            assert answered(other)
        assert [answered(client) for client in held] == [True] * 3
        held.pop().close()

        def let_in() -> bool:
            with stage.connect() as again:
                return answered(again)

        wait_until(let_in, "a connection that was closed is still counted", 20)
        for client in held:
            client.close()


def test_clients_of_this_machine_may_have_any_number() -> None:
    with served(CrowdedElsewhere) as stage:
        held = [stage.connect() for _ in range(10)]
        assert [answered(client) for client in held] == [True] * 10
        for client in held:
            client.close()


def test_the_bounds_are_those_a_server_has() -> None:
    assert (PatientProtocol.first_patience_s, PatientProtocol.most_per_client) == (10.0, 256)
