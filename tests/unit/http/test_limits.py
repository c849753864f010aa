import asyncio

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive

from tests.unit.http.asking import ask
from tunesmith.http import errors
from tunesmith.http.limits import BodyLimit
from tunesmith.kernel.problems import Problem

LIMIT = 100


def inner() -> FastAPI:
    inner = FastAPI()

    @inner.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    return inner


def app(patience: float = 30.0) -> BodyLimit:
    too_large, stalled = JSONResponse({"detail": "too large"}, 413), JSONResponse({"detail": "stalled"}, 400)
    return BodyLimit(inner(), LIMIT, too_large, stalled, patience)


async def post(size: int, announced: str | None) -> list[int]:
    """The status of a body of ``size`` bytes in pieces of ten."""
    headers = [("content-length", announced)] if announced is not None else []
    return [(await ask(app(), "POST", "/", headers, body=[b"x" * 10] * (size // 10) + [b""])).status]


@pytest.mark.parametrize(
    "size, announced, status",
    [
        (100, "100", 200),
        (100, None, 200),
        (110, "110", 413),
        (110, None, 413),
        (5000, None, 413),
        (5000, "10", 413),  # a lie
        (10, "ten", 413),
        (10, "-1", 413),
        (10, "9" * 5000, 413),  # more digits than Python makes a number of
        (10, "0" * 5000, 413),
        (10, "\u0661", 413),  # a digit elsewhere
    ],
)
async def test_bodies_over_the_limit_are_refused_announced_or_not(
    size: int, announced: str | None, status: int
) -> None:
    if announced == "\u0661":
        announced = announced.encode().decode("latin-1")
    assert await post(size, announced) == [status]


def paint(status: int, message: str, problem: Problem | None) -> dict[str, int]:
    return {"status": status}


async def test_each_path_may_have_a_limit_of_its_own() -> None:
    def max_body(method: str, path: str) -> int:
        return 1000 if (method, path) == ("POST", "/upload") else 10

    dialect = FastAPI()
    errors.install(dialect, errors.in_json(paint), max_body=max_body)

    async def length(request: Request) -> int:
        return len(await request.body())

    for path in ("/upload", "/other"):
        dialect.add_api_route(path, length, methods=["POST"])
    mounted = Starlette(routes=[Mount("/api/v1", dialect)])
    seen = [
        (await ask(mounted, "POST", f"/api/v1{path}", body=b"x" * size)).status
        for path, size in (("/upload", 1000), ("/upload", 1001), ("/other", 10), ("/other", 11), ("//upload", 11))
    ]
    assert seen == [200, 413, 200, 413, 404]


async def test_a_limit_of_sixteen_mebibytes_holds_when_none_is_given() -> None:
    dialect = FastAPI()
    errors.install(dialect, errors.in_json(paint))
    answer = await ask(dialect, "POST", "/", [("content-length", str((16 << 20) + 1))])
    assert (answer.status, answer.json()) == (413, {"status": 413})


async def stall(app: ASGIApp, came: bytes) -> list[int]:
    """Statuses of an answer to a client that sends ``came`` and then nothing."""
    waiting: list[Message] = [{"type": "http.request", "body": came, "more_body": True}]
    statuses: list[int] = []

    async def receive() -> Message:
        if not waiting:
            await asyncio.sleep(3600)
        return waiting.pop()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return statuses


@pytest.mark.parametrize("came", [b"", b"half"])
async def test_a_body_that_does_not_come_is_given_up(came: bytes) -> None:
    assert await stall(app(patience=0.05), came) == [400]


async def trickle(first: int, piece: int, pause: float, pieces: int, patience: float) -> list[int]:
    """Statuses of an answer to a client that sends ``first`` bytes at once, and then a piece after every pause."""
    sizes = [first, *[piece] * pieces]
    statuses: list[int] = []

    async def receive() -> Message:
        if len(sizes) <= pieces:
            await asyncio.sleep(pause)
        size = sizes.pop(0)
        return {"type": "http.request", "body": bytes(size), "more_body": bool(sizes)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "headers": [], "query_string": b""}
    too_large, stalled = JSONResponse(None, 413), JSONResponse(None, 400)
    await BodyLimit(inner(), 16 << 20, too_large, stalled, patience)(scope, receive, send)
    return statuses


@pytest.mark.parametrize(
    "piece, pause, pieces",
    [
        (1, 3600.0, 1),
        (1, 0.02, 100_000),
        (30, 0.02, 30_000),  # enough for a small body, far too little where megabytes are held meanwhile
    ],
)
async def test_what_was_sent_fast_buys_no_silence_after(piece: int, pause: float, pieces: int) -> None:
    async with asyncio.timeout(20):
        assert await trickle(15_000_000, piece, pause, pieces, patience=0.2) == [400]


async def test_a_slow_body_that_keeps_coming_may_take_longer_than_the_patience() -> None:
    assert await trickle(1000, piece=1000, pause=0.2, pieces=10, patience=1.0) == [200]


async def test_the_time_the_application_takes_is_not_the_clients() -> None:
    seen = []

    async def slow(scope: object, receive: Receive, send: object) -> None:
        for _ in range(3):
            await asyncio.sleep(0.1)
            seen.append((await receive())["type"])

    async def receive() -> Message:
        await asyncio.sleep(0)  # over a socket, a piece never is there at once
        return {"type": "http.request", "body": b"x", "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "headers": []}
    answers = JSONResponse(None, 413)

    async def send(message: Message) -> None:
        raise AssertionError("something was answered")

    await BodyLimit(slow, LIMIT, answers, patience=0.15)(scope, receive, send)
    assert seen == ["http.request"] * 3


async def test_a_stream_waiting_for_its_reader_to_leave_is_not_given_up() -> None:
    left = asyncio.Event()

    async def streams(scope: object, receive: object, send: object) -> None:
        assert (await receive())["more_body"] is False  # type: ignore[operator]
        assert (await receive())["type"] == "http.disconnect"  # type: ignore[operator]
        left.set()

    waiting: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await asyncio.sleep(0.2)  # longer than a body may take
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError("something was answered")

    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "headers": []}
    await BodyLimit(streams, LIMIT, JSONResponse(None, 413), patience=0.05)(scope, receive, send)
    assert left.is_set()
