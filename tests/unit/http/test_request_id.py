import json
import re

import pytest
import structlog
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import LogCapture

from tests.unit.http.asking import ask
from tunesmith.http import errors, request_id
from tunesmith.http.request_id import RequestId
from tunesmith.kernel.logs import with_request_id
from tunesmith.kernel.problems import Problem


def paint(status: int, message: str, problem: Problem | None) -> dict[str, object]:
    return {"message": message, "request_id": request_id.current()}


def app() -> RequestId:
    inner = FastAPI()
    errors.install(inner, errors.in_json(paint))

    @inner.get("/id")
    def on_a_thread() -> str:
        return request_id.current()

    @inner.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("detail")

    return RequestId(inner)


@pytest.mark.parametrize("given", ["a", "req-12345678", "A.b_c-9", "x" * 128])
async def test_a_harmless_id_of_the_client_is_kept(given: str) -> None:
    answer = await ask(app(), path="/id", headers=[("X-Request-ID", given)])
    assert (answer["x-request-id"], answer.json()) == (given, given)


@pytest.mark.parametrize(
    "given", [[], [""], ["x" * 129], ["a b"], ["a\u00e9"], ["a;b"], ["a", "b"], ["a\n"], ["\x1b[31m"], ["a/../b"]]
)
async def test_any_other_id_is_replaced(given: list[str]) -> None:
    answer = await ask(app(), path="/id", headers=[("X-Request-ID", each) for each in given])
    assert re.fullmatch(r"req-[0-9a-f]{16}", answer["x-request-id"])
    assert answer.json() == answer["x-request-id"]


async def test_two_requests_have_two_ids_and_nothing_is_left_behind() -> None:
    one, other = [await ask(app(), path="/id") for _ in range(2)]
    assert one["x-request-id"] != other["x-request-id"]
    assert request_id.current() == ""


async def test_failures_and_bugs_carry_it_in_header_and_body() -> None:
    for path, status in (("/nowhere", 404), ("/bug", 500)):
        answer = await ask(app(), path=path, headers=[("X-Request-ID", "mine")])
        assert (answer.status, answer["x-request-id"], answer.json()["request_id"]) == (status, "mine", "mine")


async def test_it_stands_in_every_line_of_the_log_also_a_bugs() -> None:
    lines = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[with_request_id, lines])
    try:
        answer = await ask(app(), path="/bug", headers=[("X-Request-ID", "mine")])
    finally:
        structlog.configure(**before)
    [line] = lines.entries
    assert (line["event"], line["request_id"], line["path"]) == ("bug", "mine", "/bug")
    assert isinstance(line["exc_info"], ZeroDivisionError) and b"detail" not in answer.body


async def test_a_list_of_headers_that_is_sent_twice_does_not_grow() -> None:
    shared = [(b"content-type", b"text/event-stream")]

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": shared})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": json.dumps(request_id.current()).encode()})

    for _ in range(2):
        answer = await ask(RequestId(streams), headers=[("X-Request-ID", "mine")])
        assert answer.body == b'data: 1\n\n"mine"' and answer["x-request-id"] == "mine"
    assert shared == [(b"content-type", b"text/event-stream")]


async def test_the_lifespan_passes_untouched() -> None:
    seen: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def never() -> Message:
        raise AssertionError

    async def nothing(message: Message) -> None:
        raise AssertionError

    await RequestId(inner)({"type": "lifespan"}, never, nothing)
    assert seen == [{"type": "lifespan"}]
