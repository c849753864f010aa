"""The stream response over a real server and real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import requests
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Message

from tests.server import free_port, wait_until
from tunesmith.http import errors, sse
from tunesmith.http.sse import DONE, EventStream, frame, unless_left
from tunesmith.inference.engine import Delta, Event
from tunesmith.kernel.problems import NotFound, Problem, Unavailable


class PlainEncoder:
    def event(self, event: Event) -> bytes:
        return frame({"text": event.text}) if isinstance(event, Delta) else b""

    def end(self) -> bytes:
        return DONE

    def error(self, problem: Problem) -> bytes:
        return frame({"error": problem.en})


def paint(status: int, message: str, problem: Problem | None) -> dict[str, object]:
    return {"status": status, "message": message}


@dataclass
class Stage:
    """One server whose ``/stream`` plays whatever ``play`` is at the moment."""

    url: str = ""
    play: Callable[[], AsyncGenerator[Event, None]] | None = None
    closed: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    app = FastAPI()
    errors.install(app, errors.in_json(paint))

    async def watched() -> AsyncGenerator[Event, None]:
        assert stage.play is not None
        try:
            async for event in stage.play():
                yield event
        finally:
            stage.closed.set()

    @app.post("/stream")
    async def stream(request: Request, body: dict[str, int]) -> Response:
        return EventStream(request, watched(), PlainEncoder(), errors.in_json(paint))

    @app.post("/whole")
    async def whole(request: Request, body: dict[str, int]) -> object:
        async def work() -> str:
            return "".join([event.text async for event in watched() if isinstance(event, Delta)])

        return await unless_left(request, work())

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError

    port = free_port()
    stage.url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server did not start", 20)
    yield stage
    server.should_exit = True
    thread.join(20)


def hang_up_after(stage: Stage, path: str, wanted: bytes) -> None:
    """POST, read until ``wanted`` has come (nothing if empty), and drop the connection."""
    host, port = stage.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        client.sendall(head.encode())
        came = b""
        while wanted not in came:
            came += client.recv(4096)
        if not wanted:
            time.sleep(0.3)


async def words(*texts: str) -> AsyncGenerator[Event, None]:
    for text in texts:
        yield Delta(0, text)


async def endless() -> AsyncGenerator[Event, None]:
    while True:
        yield Delta(0, "x")
        await asyncio.sleep(0.01)


async def silent() -> AsyncGenerator[Event, None]:
    await asyncio.sleep(3600)
    yield Delta(0, "never")


async def broken_midway() -> AsyncGenerator[Event, None]:
    yield Delta(0, "begun")
    raise Unavailable("断了", "broken")


async def missing() -> AsyncGenerator[Event, None]:
    raise NotFound("没有", "none")
    yield Delta(0, "never")


async def faulty_midway() -> AsyncGenerator[Event, None]:
    yield Delta(0, "begun")
    raise ZeroDivisionError("secret detail")


def test_every_event_is_one_whole_frame_and_the_end_follows(stage: Stage) -> None:
    stage.play = lambda: words("你", "a\nb", '"')
    answer = requests.post(f"{stage.url}/stream", json={}, timeout=20)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = answer.content.split(b"\n\n")
    assert [json.loads(part[6:])["text"] for part in parts[:-2]] == ["你", "a\nb", '"']
    assert parts[-2:] == [b"data: [DONE]", b""]


def test_a_problem_before_the_first_frame_is_an_http_error_in_the_dialects_shape(stage: Stage) -> None:
    stage.play = missing
    answer = requests.post(f"{stage.url}/stream", json={}, timeout=20)
    assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": "没有"})


def test_a_problem_after_the_first_frame_is_an_error_frame_and_no_end_mark(stage: Stage) -> None:
    stage.play = broken_midway
    answer = requests.post(f"{stage.url}/stream", json={}, timeout=20)
    assert answer.status_code == 200
    assert answer.content == frame({"text": "begun"}) + frame({"error": "broken"})


def test_a_bug_in_a_stream_is_told_in_general_words(stage: Stage) -> None:
    stage.play = faulty_midway
    answer = requests.post(f"{stage.url}/stream", json={}, timeout=20)
    assert answer.content.endswith(frame({"error": "internal error"})) and b"secret" not in answer.content


@pytest.mark.parametrize(
    "path, play, wanted",
    [("/stream", endless, b'"x"'), ("/stream", silent, b""), ("/whole", silent, b""), ("/whole", endless, b"")],
)
def test_a_client_that_leaves_stops_the_engine(
    stage: Stage, path: str, play: Callable[[], AsyncGenerator[Event, None]], wanted: bytes
) -> None:
    stage.play = play
    hang_up_after(stage, path, wanted)
    assert stage.closed.wait(5)


def test_english_clients_get_english_messages(stage: Stage) -> None:
    stage.play = missing
    answer = requests.post(f"{stage.url}/stream", json={}, timeout=20, headers={"accept-language": "en-GB,en;q=0.9"})
    assert answer.json()["message"] == "none"


def test_unknown_paths_wrong_methods_bad_bodies_and_bugs_leave_in_the_dialects_shape(stage: Stage) -> None:
    answers = [
        requests.get(f"{stage.url}/nowhere", timeout=20),
        requests.get(f"{stage.url}/stream", timeout=20),
        requests.post(f"{stage.url}/stream", data="{", timeout=20),
        requests.post(f"{stage.url}/stream", json={"a": "b"}, timeout=20),
        requests.get(f"{stage.url}/bug", timeout=20),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 400, 500]
    assert all(set(answer.json()) == {"status", "message"} for answer in answers)
    assert "Zero" not in answers[-1].text


async def test_a_client_that_stops_reading_just_when_the_writer_falls_silent_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.04)
    monkeypatch.setattr(sse, "_STUCK_S", 0.1)
    closed, never = asyncio.Event(), asyncio.Event()

    async def once() -> AsyncGenerator[Event, None]:
        try:
            yield Delta(0, "begun")
            await never.wait()
        finally:
            closed.set()

    async def receive() -> Message:
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body") == b": keep-alive\n\n":
            await never.wait()

    scope = {"type": "http", "method": "POST", "path": "/stream", "headers": []}
    running = asyncio.create_task(
        EventStream(Request(scope), once(), PlainEncoder(), errors.in_json(paint))(scope, receive, send)
    )
    ended, _ = await asyncio.wait({running}, timeout=20)
    assert ended and closed.is_set()


async def test_who_leaves_ends_the_stream_once_and_what_it_held_is_let_go_of_in_peace() -> None:
    left, cleaned, sent = asyncio.Event(), asyncio.Event(), list[Message]()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("body"):
            left.set()

    async def once() -> AsyncGenerator[Event, None]:
        try:
            yield Delta(0, "begun")
            await asyncio.Event().wait()
        finally:
            async with asyncio.timeout(20):  # as an upstream's end is waited for
                await asyncio.sleep(0.02)
            cleaned.set()

    async def responding() -> int:
        scope = {"type": "http", "method": "POST", "path": "/stream", "headers": []}
        await EventStream(Request(scope), once(), PlainEncoder(), errors.in_json(paint))(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await asyncio.wait_for(asyncio.create_task(responding()), 20) == 0
    assert cleaned.is_set()
    assert b"".join(message.get("body", b"") for message in sent) == frame({"text": "begun"})


async def test_a_response_that_is_cancelled_says_so_and_ends_whole() -> None:
    """As a server does that stops, when it has waited long enough; and once more when its loop is closed."""
    began, never, sent = asyncio.Event(), asyncio.Event(), list[Message]()
    cleaning = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("body"):
            began.set()

    async def once() -> AsyncGenerator[Event, None]:
        try:
            yield Delta(0, "begun")
            await never.wait()
        finally:
            cleaning.set()
            await never.wait()

    scope = {"type": "http", "method": "POST", "path": "/stream", "headers": []}
    running = asyncio.create_task(
        EventStream(Request(scope), once(), PlainEncoder(), errors.in_json(paint))(scope, receive, send)
    )
    await began.wait()
    running.cancel()
    await cleaning.wait()
    running.cancel()
    await asyncio.wait_for(running, 20)
    said = b"".join(message.get("body", b"") for message in sent)
    assert said == frame({"text": "begun"}) + frame({"error": "the server is stopping; ask again later"})
    assert [bool(message.get("more_body")) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
