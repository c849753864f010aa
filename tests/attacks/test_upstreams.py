"""Upstreams that mean harm: what they send, never send, or send back of what they were told."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.server import Server, serving, wait_until
from tests.upstreams.modes import spoken
from tests.upstreams.running import Upstream, misbehaving

KEY = "sk-or-v1-0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a6978"
SHORT_LIMITS = {
    "TUNESMITH_UPSTREAM_CONNECT_SECONDS": "2",
    "TUNESMITH_UPSTREAM_FIRST_TOKEN_SECONDS": "2",
    "TUNESMITH_UPSTREAM_IDLE_SECONDS": "1",
    "TUNESMITH_UPSTREAM_TOTAL_SECONDS": "6",
}
MEMORY = 128 << 20  # bytes: the longest line and the longest answer, with what Python makes of them
EVIL = "x\r\nX-Injected: 1/evil"


@dataclass(frozen=True, slots=True)
class Said:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    frames: list[dict[str, Any]]

    @property
    def text(self) -> str:
        return "".join(frame["message"]["content"] for frame in self.frames if "error" not in frame)

    @property
    def code(self) -> int | None:
        """The code of the error it ended with; None where it ended well."""
        last = self.frames[-1]
        if "error" in last:
            assert set(last) == {"error", "code", "message", "details"} and last["error"] is True
        else:
            assert last["done"] is True
        assert not [frame for frame in self.frames[:-1] if "error" in frame or frame["done"]]
        return last.get("code")


def environ(url: str) -> dict[str, str]:
    return {
        "OPENROUTER_API_KEY": KEY,
        "OPENROUTER_BASE_URL": f"{url}/api/v1",
        "TUNESMITH_ENV": "dev",
        **SHORT_LIMITS,
    }


def ask(server: Server, model: str, **fields: Any) -> Said:
    """One answer, read to its end; every frame is whole JSON on one line."""
    body = {"message": "hi", "service": "openrouter", "model": model, **fields}
    answer = requests.post(f"{server.url}/api/chat/send", json=body, timeout=60)
    parts = answer.content.split(b"\n\n")
    assert parts.pop() == b"" and all(part.startswith(b"data: {") for part in parts), answer.content[-500:]
    frames = [json.loads(part.removeprefix(b"data: ")) for part in parts]
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Said(answer.status_code, headers, answer.content, frames)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with misbehaving(models=[EVIL, "a/both", "b/both"]) as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shows what lies behind errors, to whoever asks."""
    with serving(tmp_path_factory.mktemp("hostile"), environ(upstream.url)) as running:
        assert ask(running, "x/text").code is None
        yield running


ENDS: dict[str, tuple[int | None, str]] = {
    "hang": (504, ""),
    "hangfirst": (504, ""),
    "drip": (504, ""),
    "stall-5": (504, "".join(spoken("stall-5"))),
    "split": (None, "".join(spoken("split"))),
    "badutf8": (503, "before "),
    "longline": (503, ""),
    "gzip": (503, ""),
    "gzip-text": (503, ""),
    "garbage": (503, ""),
    "garbage-502": (503, ""),
    "redirect": (503, ""),
    "redirect-307": (503, ""),
    "redirect-metadata": (503, ""),
    "errorin200": (503, ""),
    "mid": (503, "".join(spoken("mid"))),
    "mid-429": (429, "".join(spoken("mid"))),
    "mid-500": (500, "".join(spoken("mid"))),
    "mid-401": (503, "".join(spoken("mid"))),
    "trunc": (503, "".join(spoken("trunc"))),
    "shut": (503, "".join(spoken("shut"))),
    "drop": (503, "".join(spoken("drop"))),
    **{
        f"err-{status}": (code, "")
        for code, statuses in {
            400: (400, 403, 404, 413, 418, 422),
            429: (429,),
            500: (500, 501),
            503: (401, 402, 502, 503, 529),
            504: (408, 504, 524),
        }.items()
        for status in statuses
    },
}


@pytest.fixture(scope="module")
def answers(server: Server) -> dict[str, Said]:
    """Of every upstream that goes wrong, all at once."""
    with ThreadPoolExecutor(len(ENDS)) as pool:
        return dict(zip(ENDS, pool.map(lambda mode: ask(server, f"x/{mode}"), ENDS), strict=True))


@pytest.mark.parametrize("mode", ENDS)
def test_a_hostile_upstream_gets_its_code_and_the_stream_its_end(answers: dict[str, Said], mode: str) -> None:
    said = answers[mode]
    assert said.status == 200 and said.headers["content-type"].startswith("text/event-stream")
    assert (said.code, said.text) == ENDS[mode]
    assert KEY.encode() not in said.body and "Traceback" not in said.body.decode()


def test_an_answer_without_end_is_ended(server: Server, upstream: Upstream) -> None:
    began = time.monotonic()
    said = ask(server, "x/endless")
    assert said.code == 504 and len(said.text) > 1000
    assert time.monotonic() - began < 30
    upstream.until(lambda report: report["open"] == 0)


def test_redirects_are_not_followed(server: Server, answers: dict[str, Said], upstream: Upstream) -> None:
    """The trap is an address of this machine; the other is where data centres tell machines their secrets."""
    assert all(answers[mode].code == 503 for mode in ("redirect", "redirect-307", "redirect-metadata"))
    upstream.tell("/behave", {"path": "/api/v1/models", "model": "redirect"})
    server.get("/api/chat/models")
    assert upstream.report()["visits"] == []


@contextmanager
def most_memory(server: Server) -> Iterator[list[int]]:
    """Afterwards one number: bytes the server's memory grew by at most."""
    process, over, seen = psutil.Process(server.process.pid), threading.Event(), [0]
    before = process.memory_info().rss

    def look() -> None:
        while not over.wait(0.005):
            seen[0] = max(seen[0], process.memory_info().rss - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("mode", ["longline-300", "gzip-1000000", "big-50000"])
def test_memory_is_bounded_whatever_an_upstream_sends(server: Server, upstream: Upstream, mode: str) -> None:
    """A line of 300 MB, a terabyte packed, an answer of 400 MB."""
    with most_memory(server) as grown:
        assert ask(server, f"x/{mode}").code == 503
    assert grown[0] < MEMORY
    upstream.until(lambda report: report["open"] == 0)


@pytest.mark.parametrize("mode", ["garbage", "redirect", "longline", "gzip", "err-500", "drop"])
def test_a_hostile_list_of_models_is_a_reason_and_no_more(server: Server, upstream: Upstream, mode: str) -> None:
    upstream.tell("/behave", {"path": "/api/v1/models", "model": mode})
    with most_memory(server) as grown:
        answer = server.get("/api/chat/models")
    assert answer.status_code == 200 and KEY not in answer.text and grown[0] < MEMORY
    [offer] = [each for each in answer.json()["services"] if each["service"] == "openrouter"]
    assert offer["available"] is False and offer["reason"] and offer["models"] == []
    assert ask(server, "x/text").code is None
    assert upstream.report()["visits"] == []


def test_a_listed_name_with_a_line_break_begins_no_header(server: Server, upstream: Upstream) -> None:
    upstream.reset()
    assert EVIL in [each["id"] for each in server.get("/api/chat/models").json()["services"][-1]["models"]]
    said = ask(server, "evil")
    assert (said.status, said.code) == (200, 400)
    assert said.headers["x-model-resolved"] == r"x\r\nX-Injected: 1/evil"
    assert "x-injected" not in said.headers
    assert ask(server, "both").headers["x-model-candidates"] == "a/both, b/both"


def test_nothing_is_left_of_hostile_upstreams(server: Server, upstream: Upstream, answers: dict[str, Said]) -> None:
    upstream.until(lambda report: report["open"] == 0)
    own = server.url.rpartition(":")[2]

    def held() -> list[Any]:
        found = psutil.Process(server.process.pid).net_connections("tcp")
        return [each for each in found if each.status != "LISTEN" and str(each.laddr.port) == own]

    wait_until(lambda: not held(), "connections of clients are left", 30)
    assert "Traceback" not in server.log()
    shown = [server.get(f"/api/chat/{path}").text for path in ("models", "usage", "conversations", "keys", "export")]
    assert KEY not in server.log() + "".join(shown)


class Echo(BaseHTTPRequestHandler):
    """Says the key it was sent, in every place an answer has for words; the model's name says where."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self._answer(401, json.dumps({"error": {"code": 401, "message": f"no model for {self._key()}"}}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        place, key = body["model"].partition("/")[2], self._key()
        error = {"code": 400, "message": f"bad: {key}", "metadata": {"raw": key, "error_type": key}}
        if place.startswith("status"):
            self._answer(int(place[6:]), json.dumps({"error": error}))
        elif place == "text":
            self._answer(400, f"Authorization: Bearer {key} is wrong")
        elif place == "string":
            self._answer(422, json.dumps({"error": f"{{'authorization': 'Bearer {key}'}}"}))
        elif place == "cut":
            self._answer(400, json.dumps({"error": {"message": "y" * 480 + " " + key}}))
        elif place == "reason":
            self._answer(400, "{}", reason=f"Bad {key}")
        elif place == "headers":
            self._answer(429, "{}", {"Retry-After": key, "X-RateLimit-Reset": key, "WWW-Authenticate": key})
        elif place == "location":
            self._answer(302, "", {"Location": f"http://127.0.0.1:1/{key}"})
        elif place == "packed":
            self._answer(200, "x", {"Content-Encoding": key})
        elif place == "length":
            self._answer(200, "x", {"Content-Length": key})
        elif place == "frames":
            self._stream({"error": {**error, "message": 'x\n\ndata: {"done":true}\n\n: \r\n\u2028' + key}})
        elif place == "garbage":
            self._stream({"choices": key})
        elif place == "inside":
            self._answer(200, json.dumps({"error": error}), {"Content-Type": "application/json"})

    def _key(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")

    def _answer(self, status: int, body: str, headers: dict[str, str] | None = None, reason: str | None = None) -> None:
        self.send_response(status, reason)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def _stream(self, last: dict[str, Any]) -> None:
        said = {"choices": [{"delta": {"content": "well "}}]}
        frames = "".join(f"data: {json.dumps(each)}\n\n" for each in (said, last))
        self._answer(200, frames, {"Content-Type": "text/event-stream"})

    def log_message(self, format: str, *args: Any) -> None:
        pass


PLACES = {
    **{f"status{status}": "" for status in (400, 401, 402, 403, 404, 408, 429, 500, 502)},
    **dict.fromkeys(("text", "string", "cut", "reason", "headers", "location", "packed", "length", "inside"), ""),
    **dict.fromkeys(("frames", "garbage"), "well "),
}


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as listener:
        threading.Thread(target=listener.serve_forever).start()
        try:
            home = tmp_path_factory.mktemp("echoing")
            with serving(home, environ(f"http://127.0.0.1:{listener.server_port}")) as running:
                yield running
        finally:
            listener.shutdown()


@pytest.mark.parametrize("place", PLACES)
def test_an_upstream_that_quotes_our_key_is_not_quoted(echoing: Server, place: str) -> None:
    said = ask(echoing, f"echo/{place}")
    assert said.code in (400, 429, 500, 503, 504) and said.text == PLACES[place]
    held = said.body.decode() + str(said.headers) + echoing.log() + echoing.get("/api/chat/models").text
    for length in (len(KEY), 16):
        assert KEY[:length] not in held and KEY[-length:] not in held


def test_a_kept_conversation_holds_no_key_either(echoing: Server) -> None:
    ask(echoing, "echo/frames", conversation_id="c1")
    [turn] = echoing.get("/api/chat/conversations/c1").json()["messages"]
    assert (turn["state"], turn["response"]) == ("failed", "well ")
    assert KEY not in echoing.get("/api/chat/conversations/c1").text
    assert not [path for path in files(echoing.home) if KEY.encode() in path.read_bytes()]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
