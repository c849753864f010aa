import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse
from starlette.types import Message

from tunesmith.http.limits import BodyLimit

LIMIT = 100


def app() -> BodyLimit:
    inner = FastAPI()

    @inner.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    return BodyLimit(inner, LIMIT, JSONResponse({"detail": "too large"}, 413))


async def post(size: int, announced: str | None) -> list[Message]:
    """What the server would send for a body of ``size`` bytes in pieces of ten."""
    waiting = [{"type": "http.request", "body": b"x" * 10, "more_body": True} for _ in range(size // 10)]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", announced.encode())] if announced is not None else []
    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers}
    await app()(scope, receive, send)
    return sent


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
    ],
)
async def test_bodies_over_the_limit_are_refused_announced_or_not(
    size: int, announced: str | None, status: int
) -> None:
    sent = await post(size, announced)
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [status]
