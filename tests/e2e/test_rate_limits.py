"""Limits and the door over real sockets: one server, two servers on one Redis, and a Redis that goes away."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Mount
from starlette.types import ASGIApp

from tests.server import free_port, wait_until
from tunesmith.http import errors
from tunesmith.http.door import Door, caller_of
from tunesmith.http.rates import Kind, Rates
from tunesmith.http.request_id import RequestId
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.logs import log_to_stderr
from tunesmith.kernel.problems import Problem, Unauthenticated
from tunesmith.settings import Settings

CLIENTS = 50
PAGE = "https://app.example.com"


def application() -> ASGIApp:
    """What the servers here serve: a small dialect behind a door."""

    def paint(status: int, message: str, problem: Problem | None) -> dict[str, object]:
        return {"status": status, "message": message}

    async def identify(token: str) -> Caller:
        if not token.endswith("-token"):
            raise Unauthenticated("令牌无效", "the token is not valid")
        return Caller(token.removesuffix("-token"))

    def kind_of(method: str, path: str) -> Kind:
        return "training" if path == "/train" else "inference" if path == "/generate" else "other"

    log_to_stderr("info")
    settings = Settings.read(os.environ)
    open_routes = {("POST", "/login"), ("GET", "/up")}
    rates = Rates.of(settings)
    app = FastAPI()
    door = Door.of(settings, identify=identify, open_routes=open_routes, rates=rates, kind_of=kind_of)
    errors.install(app, errors.in_json(paint), door=door)

    async def who(request: Request) -> str:
        return caller_of(request).name

    async def login() -> str:
        return "in"

    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "data: 1\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    for path in ("/who", "/train", "/generate"):
        app.add_api_route(path, who, methods=["GET", "POST"])
    app.add_api_route("/login", login, methods=["POST"])
    app.add_api_route("/up", login, methods=["GET"])
    app.add_api_route("/stream", stream, methods=["GET"], response_model=None)
    return RequestId(Starlette(routes=[Mount("/api/v1", app)]))


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves ``application``."""

    port: int
    logged: Path

    def ask(self, method: str, path: str, token: str | None = None, **headers: str) -> requests.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given |= {"authorization": f"Bearer {token}"} if token else {}
        return requests.request(method, f"http://127.0.0.1:{self.port}/api/v1{path}", headers=given, timeout=60)

    def raw(self, *lines: str) -> int:
        """The status of a request written by hand."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
            client.sendall(("\r\n".join(lines) + "\r\nconnection: close\r\n\r\n").encode())
            return int(client.recv(4096).split(b" ", 2)[1])

    def log(self) -> str:
        return self.logged.read_text()


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    server = Server(port, folder / f"{port}.log")
    command = ["-m", "uvicorn", f"{__name__}:application", "--factory", "--port", str(port), "--log-level", "warning"]
    with server.logged.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--no-proxy-headers"],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TUNESMITH_HOME": str(folder), **settings},
        )

    def answers() -> bool:
        assert process.poll() is None, server.log()
        try:
            return server.ask("GET", "/up").ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, "the server did not start", 60)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    limits = {"TUNESMITH_RATE_TRAINING": "37", "TUNESMITH_RATE_INFERENCE": "3"}
    with served(tmp_path, TUNESMITH_CORS_ORIGINS=PAGE, **limits) as server:
        yield server


def at_once(asks: Sequence[Callable[[], requests.Response]]) -> list[requests.Response]:
    """The answers to requests that are made by as many clients at the same moment."""
    answers: list[requests.Response] = []
    gate = threading.Barrier(len(asks))

    def client(ask: Callable[[], requests.Response]) -> None:
        gate.wait()
        for _ in range(3):
            answers.append(ask())

    threads = [threading.Thread(target=client, args=[ask]) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3 * len(asks)
    return answers


def statuses(answers: Sequence[requests.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def test_fifty_parallel_clients_get_exactly_the_limit(server: Server) -> None:
    answers = at_once([lambda: server.ask("POST", "/train", "anna-token") for _ in range(CLIENTS)])
    assert statuses(answers) == {200: 37, 429: 3 * CLIENTS - 37}
    passed = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers if answer.ok]
    assert sorted(passed) == list(range(37))  # each place is given once
    for answer in answers:
        if not answer.ok:
            assert answer.headers["x-ratelimit-remaining"] == "0"
            assert 1 <= int(answer.headers["retry-after"]) <= 3600


def test_the_headers_are_right_up_to_the_edge_and_over_it(server: Server) -> None:
    began = int(time.time())
    seen = [server.ask("POST", "/generate", "anna-token") for _ in range(4)]
    assert [answer.status_code for answer in seen] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in seen] == ["2", "1", "0", "0"]
    resets = {int(answer.headers["x-ratelimit-reset"]) for answer in seen}
    # one moment, told in whole seconds by a clock that may be set meanwhile
    assert {answer.headers["x-ratelimit-limit"] for answer in seen} == {"3"} and max(resets) - min(resets) <= 1
    assert min(resets) >= began + 60
    assert ["retry-after" in answer.headers for answer in seen] == [False] * 3 + [True]
    assert server.ask("POST", "/generate", "bert-token").status_code == 200
    assert server.ask("GET", "/stream", "anna-token").headers["x-ratelimit-remaining"] == "119"


def test_a_forwarded_address_dodges_nothing(server: Server) -> None:
    def guess(number: int) -> int:
        spoofed = dict.fromkeys(("x_forwarded_for", "x_real_ip", "client_ip"), f"198.51.100.{number}")
        headers = {**spoofed, "forwarded": f"for=198.51.100.{number}"}
        return server.ask("POST", "/train", f"guess-{number}", **headers).status_code

    counted = 120 - int(server.ask("GET", "/up").headers["x-ratelimit-remaining"])  # asked while it started
    seen = [guess(number) for number in range(130)]
    assert Counter(seen) == {401: 120 - counted, 429: 10 + counted}
    assert server.ask("POST", "/login").status_code == 429
    assert server.ask("POST", "/train", "anna-token").status_code == 200


def test_attacks_on_the_way_in_are_refused_over_a_real_socket(server: Server) -> None:
    post, host, token = "POST /api/v1/who HTTP/1.1", "host: localhost", "authorization: Bearer anna-token"
    assert server.raw(post, host, token) == 200
    tried = {
        "a host that spells an open path": ([post, "host: x/api/v1/login?"], 400),
        "a host that was rebound": ([post, "host: evil.example", token], 400),
        "no host": (["POST /api/v1/who HTTP/1.0", token], 400),
        "two hosts": ([post, host, "host: evil.example", token], 400),
        "two tokens": ([post, host, token, "authorization: Bearer bert-token"], 401),
        "the same token twice": ([post, host, token, token], 401),
        "a token in the query": (["POST /api/v1/who?access_token=anna-token HTTP/1.1", host], 401),
        "a slash behind": (["POST /api/v1/login/ HTTP/1.1", host], 401),
        "two slashes": (["POST /api/v1//login HTTP/1.1", host], 401),
        "an encoded slash": (["POST /api/v1/%2flogin HTTP/1.1", host], 401),
        "another case": (["POST /api/v1/LOGIN HTTP/1.1", host], 401),
        "another method": (["GET /api/v1/login HTTP/1.1", host], 401),
        "HEAD": (["HEAD /api/v1/who HTTP/1.1", host], 401),
        "OPTIONS": (["OPTIONS /api/v1/who HTTP/1.1", host], 401),
        "an unknown path": (["GET /api/v1/nowhere HTTP/1.1", host], 401),
        "a rewritten path": ([post, host, "x-original-url: /api/v1/login", "x-rewrite-url: /api/v1/login"], 401),
        "a page elsewhere": ([post, host, token, "origin: https://evil.example"], 403),
        "a page from a file": ([post, host, token, "origin: null"], 403),
        "a form elsewhere": ([post, host, token, "sec-fetch-site: cross-site"], 403),
        "a header in the request id": ([post, host, token, "x-request-id: a\tb"], 200),
    }
    assert {what: server.raw(*lines) for what, (lines, _) in tried.items()} == {
        what: status for what, (_, status) in tried.items()
    }
    # percent-encoding of plain letters is undone before routing (RFC 3986, 6.2.2.2): both see /login
    assert server.raw("POST /api/v1/%6cogin HTTP/1.1", host) == 200


def test_origins_are_echoed_only_when_listed(server: Server) -> None:
    for method, path in (("GET", "/who"), ("POST", "/who"), ("OPTIONS", "/who"), ("GET", "/nowhere")):
        listed = server.ask(method, path, "anna-token", origin=PAGE)
        assert listed.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in listed.headers
        other = server.ask(method, path, "anna-token", origin="https://evil.example")
        assert not [name for name in other.headers if name.lower().startswith("access-control")]
    preflight = {"access_control_request_method": "POST"}
    assert server.ask("OPTIONS", "/who", origin=PAGE, **preflight).status_code == 204
    assert server.ask("OPTIONS", "/who", origin="https://evil.example", **preflight).status_code == 403


def test_the_request_id_comes_back_on_every_answer(server: Server) -> None:
    asked = [("GET", "/who", 200), ("GET", "/stream", 200), ("GET", "/nowhere", 404), ("PUT", "/who", 405)]
    for method, path, status in asked:
        answer = server.ask(method, path, "anna-token", x_request_id="mine-1")
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine-1")


# --- Redis


@dataclass
class Redis:
    """A Redis of this test, which can be killed and started again on its port."""

    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([program, *options, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)
        wait_until(self._accepts, "Redis did not start", 30)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@pytest.fixture
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(free_port(), Path(folder))
        redis.start()
        yield redis
        redis.kill()


@pytest.mark.redis
def test_two_servers_on_one_redis_let_exactly_the_limit_through_together(tmp_path: Path, redis: Redis) -> None:
    settings = {"TUNESMITH_REDIS_URL": redis.url, "TUNESMITH_RATE_TRAINING": "37"}
    with served(tmp_path, **settings) as one, served(tmp_path, **settings) as other:

        def ask(server: Server) -> Callable[[], requests.Response]:
            return lambda: server.ask("POST", "/train", "anna-token")

        answers = at_once([ask((one, other)[number % 2]) for number in range(CLIENTS)])
        assert statuses(answers) == {200: 37, 429: 3 * CLIENTS - 37}
        for server in (one, other):
            last = server.ask("POST", "/train", "anna-token")
            assert (last.status_code, last.headers["x-ratelimit-remaining"]) == (429, "0")
            assert "Redis" not in server.log()


@pytest.mark.redis
def test_two_servers_say_the_same_of_one_caller(tmp_path: Path, redis: Redis) -> None:
    settings = {"TUNESMITH_REDIS_URL": redis.url, "TUNESMITH_RATE_TRAINING": "4"}
    with served(tmp_path, **settings) as one, served(tmp_path, **settings) as other:
        seen = [server.ask("POST", "/train", "anna-token") for server in (one, other, one, other, one, other)]
        assert [answer.status_code for answer in seen] == [200] * 4 + [429] * 2
        assert [answer.headers["x-ratelimit-remaining"] for answer in seen] == ["3", "2", "1", "0", "0", "0"]
        resets = [int(answer.headers["x-ratelimit-reset"]) for answer in seen]
        assert max(resets) - min(resets) <= 1
        bert = other.ask("POST", "/train", "bert-token")
        assert (bert.status_code, bert.headers["x-ratelimit-remaining"]) == (200, "3")


@pytest.mark.redis
def test_a_redis_that_is_killed_does_not_take_the_service_down(tmp_path: Path, redis: Redis) -> None:
    settings = {"TUNESMITH_REDIS_URL": redis.url, "TUNESMITH_RATE_TRAINING": "4"}
    with served(tmp_path, **settings) as server:

        def ask(token: str) -> int:
            return server.ask("POST", "/train", token).status_code

        assert [ask("anna-token") for _ in range(5)] == [200] * 4 + [429]
        redis.kill()
        assert [ask("bert-token") for _ in range(6)] == [200] * 4 + [429] * 2  # in memory
        assert server.log().count("Redis does not answer") == 1

        redis.start()

        def is_back() -> bool:
            server.ask("POST", "/who", host="evil.example")  # asks where it stands, and counts nothing
            return "Redis answers again" in server.log()

        wait_until(is_back, "Redis was not asked again", 30)
        assert [ask("cora-token") for _ in range(5)] == [200] * 4 + [429]
        assert server.log().count("Redis does not answer") == 1
        assert "Traceback" not in server.log()


@pytest.mark.redis
def test_a_redis_that_hangs_does_not_take_the_service_down(tmp_path: Path, redis: Redis) -> None:
    assert redis.process is not None
    with served(tmp_path, TUNESMITH_REDIS_URL=redis.url, TUNESMITH_RATE_TRAINING="4") as server:
        redis.process.send_signal(signal.SIGSTOP)
        try:
            seen = [server.ask("POST", "/train", "anna-token").status_code for _ in range(6)]
        finally:
            redis.process.send_signal(signal.SIGCONT)
        assert seen == [200] * 4 + [429] * 2
        assert server.log().count("Redis does not answer") == 1
