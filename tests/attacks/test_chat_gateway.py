"""Clients of ``/api/chat`` that mean harm: to the stream, to the upstream, to other users."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.attacks.conftest import OPEN_LIMITS, PASSWORD, Attacker, token_of
from tests.server import Server, add_user, serving
from tests.upstreams.modes import spoken
from tests.upstreams.running import Upstream, misbehaving

KEY = "sk-or-v1-0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a6978"
SEND = "/api/chat/send"
CANARY = "the canary of alice"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with misbehaving() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a token, with two users and an admin."""
    home = tmp_path_factory.mktemp("guarded")
    for name in ("mallory", "alice"):
        add_user(home, name, PASSWORD)
    add_user(home, "root", PASSWORD, admin=True)
    variables = {"OPENROUTER_API_KEY": KEY, "OPENROUTER_BASE_URL": f"{upstream.url}/api/v1", **OPEN_LIMITS}
    with serving(home, variables, ("--require-token",)) as running:
        yield running


def user(server: Server, name: str) -> Attacker:
    return Attacker(server, {"Authorization": f"Bearer {token_of(server, name)}"})


@pytest.fixture(scope="module")
def mallory(server: Server) -> Attacker:
    return user(server, "mallory")


@pytest.fixture(scope="module")
def alice(server: Server) -> Attacker:
    return user(server, "alice")


@pytest.fixture(scope="module")
def root(server: Server) -> Attacker:
    return user(server, "root")


def frames(answer: requests.Response) -> list[dict[str, Any]]:
    """The frames of a stream; each is one line of JSON."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    parts = answer.content.split(b"\n\n")
    assert parts.pop() == b"" and all(part.startswith(b"data: {") for part in parts), answer.content[-500:]
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def ask(who: Attacker, **fields: Any) -> list[dict[str, Any]]:
    body = {"message": "hi", "service": "openrouter", "model": "x/text", **fields}
    answer = who.send("POST", SEND, json=body)
    assert answer.status_code == 200
    return frames(answer)


def asked(upstream: Upstream) -> list[dict[str, Any]]:
    """What the upstream was asked to answer."""
    return [each for each in upstream.report()["requests"] if each["method"] == "POST"]


BAD_BODIES: dict[str, bytes | dict[str, Any]] = {
    "model with NUL": {"model": "x/te\0xt"},
    "model with a line break": {"model": "x/te\nxt"},
    "model with a header": {"model": "x/text\r\nX-Injected: 1"},
    "model with an event": {"model": 'x/text\n\ndata: {"done":true}\n\n'},
    "model with an override": {"model": "x/\u202etext"},
    "model with a line separator": {"model": "x/te\u2028xt"},
    "model with an escape": {"model": "x/\x1b[2Jtext"},
    "model of 10 kB": {"model": "x/" + "a" * 10_000},
    "model with half a character": b'{"message":"hi","service":"openrouter","model":"x/\\ud800"}',
    "message with half a character": b'{"message":"\\ud800","service":"openrouter","model":"x/text"}',
    "context with half a character": b'{"message":"a","context":"\\udfff","service":"openrouter","model":"x/text"}',
    "stop with half a character": b'{"message":"a","stop":["\\udfff"],"service":"openrouter","model":"x/text"}',
    "conversation with an event": {"conversation_id": "c\n\ndata: {}"},
    "conversation a path": {"conversation_id": "../../etc/passwd"},
    "conversation of 10 kB": {"conversation_id": "a" * 10_000},
    "conversation empty": {"conversation_id": ""},
    "kept message with NUL": {"message": "a\0b", "conversation_id": "c1"},
    "message empty": {"message": ""},
    "message blank": {"message": " \n\t"},
    "message a number": {"message": 5},
    "message null": {"message": None},
    "message a list": {"message": ["hi"]},
    "model a number": {"model": 1},
    "model an object": {"model": {"$ne": None}},
    "service unknown": {"service": "evil"},
    "service a host": {"service": "http://127.0.0.1:1"},
    "service ollama": {"service": "ollama"},
    "service in capitals": {"service": "OpenRouter"},
    "service empty": {"service": ""},
    "max_tokens negative": {"max_tokens": -1},
    "max_tokens zero": {"max_tokens": 0},
    "max_tokens huge": {"max_tokens": 10**12},
    "max_tokens beyond 64 bits": {"max_tokens": 10**30},
    "max_tokens a float": {"max_tokens": 1.5},
    "max_tokens a boolean": {"max_tokens": True},
    "max_tokens a string": {"max_tokens": "5"},
    "max_tokens NaN": b'{"message":"hi","service":"openrouter","model":"x/text","max_tokens":NaN}',
    "temperature NaN": b'{"message":"hi","service":"openrouter","model":"x/text","temperature":NaN}',
    "temperature infinite": b'{"message":"hi","service":"openrouter","model":"x/text","temperature":1e400}',
    "temperature negative": {"temperature": -0.1},
    "top_p zero": {"top_p": 0},
    "top_p over one": {"top_p": 1.01},
    "seed a float": {"seed": 0.5},
    "seed beyond 64 bits": {"seed": 10**30},
    "stop too many": {"stop": ["a"] * 17},
    "stop too long": {"stop": ["a" * 257]},
    "stop empty": {"stop": [""]},
    "stop a string": {"stop": "a"},
    "deep": b"[" * 100_000,
    "deep inside": b'{"message":' + b'{"a":' * 50_000,
    "a list": b"[]",
    "a number of 5,000 digits": b'{"message":"hi","seed":' + b"9" * 5000 + b"}",
    "two documents": b'{"message":"hi"}{"message":"hi"}',
    "nothing": b"",
    "no JSON": b"message=hi",
    "not UTF-8": b'{"message":"\xff\xfe"}',
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("label", BAD_BODIES)
def test_a_body_that_is_none_is_one_error_frame_and_nothing_is_asked(
    mallory: Attacker, upstream: Upstream, label: str
) -> None:
    upstream.reset()
    given = BAD_BODIES[label]
    if isinstance(given, dict):
        given = json.dumps({"message": "hi", "service": "openrouter", "model": "x/text", **given}).encode()
    answer = mallory.send("POST", SEND, data=given, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    [frame] = frames(answer)
    assert (frame["error"], frame["code"]) == (True, 400) and set(frame) == {"error", "code", "message"}
    assert "X-Injected" not in answer.headers and "Traceback" not in answer.text and len(answer.content) < 2000
    assert asked(upstream) == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Server, mallory: Attacker) -> None:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        head = f"POST {SEND} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        token = f"Authorization: {mallory.headers['Authorization']}\r\n"
        connection.sendall(f"{head}{token}Content-Length: {17 << 20}\r\n\r\n".encode() + b'{"message":"')
        answer = b""
        while b'"code"' not in answer and (piece := connection.recv(65536)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"error":true,"code":400' in answer


def test_bodies_of_another_kind_are_no_json(mallory: Attacker, upstream: Upstream) -> None:
    """A form of a page elsewhere could send these without asking first."""
    upstream.reset()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        body = json.dumps({"message": "hi", "service": "openrouter", "model": "x/text"})
        [frame] = frames(mallory.send("POST", SEND, data=body, headers={"Content-Type": kind}))
        assert frame["code"] == 400
    assert asked(upstream) == []


def test_a_page_elsewhere_cannot_ask(mallory: Attacker, upstream: Upstream) -> None:
    upstream.reset()
    answer = mallory.send("POST", SEND, json={"message": "hi"}, headers={"Origin": "http://evil.example"})
    [frame] = frames(answer)
    assert (answer.status_code, frame["code"]) == (403, 403)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert asked(upstream) == []


def test_text_that_looks_like_frames_stays_text(mallory: Attacker, upstream: Upstream) -> None:
    """What the upstream says is full of it, and what it is asked comes to it as it was written."""
    upstream.reset()
    forged = 'x\n\ndata: {"message":{"content":"forged"},"chunk":1,"done":true}\n\n: \r\n\u2028'
    found = ask(mallory, message=forged, context=forged, model="x/text-7-400")
    expected = spoken("x/text-7-400")
    assert "\n\ndata: " in expected
    assert [frame["chunk"] for frame in found] == list(range(1, len(found) + 1))
    assert "".join(frame["message"]["content"] for frame in found) == found[-1]["fullResponse"] == "".join(expected)
    [request] = asked(upstream)
    assert [each["content"] for each in request["body"]["messages"]] == [forged, forged]


def test_a_name_that_no_header_can_carry_is_written_in_escapes(mallory: Attacker) -> None:
    answer = mallory.send("POST", SEND, json={"message": "hi", "service": "openrouter", "model": "甲/é\\x"})
    assert answer.headers["X-Model-Resolved"] == r"\u7532/\xe9\\x"
    [frame] = frames(answer)
    assert frame["code"] == 400


def test_a_client_cannot_say_whom_we_ask_or_with_what_key(mallory: Attacker, upstream: Upstream) -> None:
    upstream.reset()
    trap = upstream.facts["trap"]
    fields = ("url", "base_url", "api_base", "endpoint", "host", "proxy", "ollama_url", "key", "api_key", "headers")
    named = {field: {"Authorization": trap} if field == "headers" else trap for field in fields}
    headers = {"X-OpenRouter-Base": trap, "X-Forwarded-Host": "evil.example", "OpenAI-Base-Url": trap}
    body = {"message": "hi", "service": "openrouter", "model": "x/text", **named}
    assert frames(mallory.send("POST", SEND, json=body, headers=headers))[-1]["done"] is True
    for name in (f"{trap}/x", "//evil.example/x", "../../trap", "file:///etc/passwd", "http://169.254.169.254/x"):
        assert ask(mallory, model=name)[-1]["code"] == 400
    found = asked(upstream)
    assert len(found) == 6 and upstream.report()["visits"] == []
    for each in found:
        assert each["path"] == "/api/v1/chat/completions" and trap not in str(each["headers"])
        assert each["headers"]["authorization"] == f"Bearer {KEY}"
        assert set(each["body"]) <= {
            "model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p",
        }  # fmt: skip


def test_who_has_no_token_is_told_so_in_a_frame_too(server: Server, upstream: Upstream) -> None:
    upstream.reset()
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {KEY}"}):
        answer = requests.post(f"{server.url}{SEND}", json={"message": "hi"}, headers=headers, timeout=60)
        [frame] = frames(answer)
        assert (answer.status_code, frame["error"], frame["code"]) == (401, True, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert asked(upstream) == []


def test_every_route_of_the_gateway_wants_a_token(server: Server, mallory: Attacker) -> None:
    paths = mallory.send("GET", "/api/chat/openapi.json").json()["paths"]
    found = [(method, path) for path, methods in paths.items() for method in methods]
    assert len(found) >= 9
    for method, path in [*found, ("get", "/openapi.json"), ("get", "/nowhere"), ("put", "/send")]:
        answer = requests.request(method, f"{server.url}/api/chat{path}", timeout=60)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["content-type"].startswith("text/event-stream") is ((method, path) == ("post", "/send"))


def test_another_users_conversations_do_not_exist(mallory: Attacker, alice: Attacker, upstream: Upstream) -> None:
    assert ask(alice, message=CANARY, conversation_id="shared-name")[-1]["done"]
    where = "/api/chat/conversations/shared-name"
    missing = mallory.send("GET", "/api/chat/conversations/never-was")
    for method, path in (("GET", where), ("DELETE", where), ("GET", "/api/chat/export?conversation_id=shared-name")):
        answer = mallory.send(method, path)
        assert answer.status_code == 404
        assert answer.json() == json.loads(missing.text.replace("never-was", "shared-name"))
    assert mallory.send("GET", "/api/chat/conversations").json() == {"conversations": []}
    assert mallory.send("GET", "/api/chat/export").content == b""

    upstream.reset()
    assert ask(mallory, message="go on", conversation_id="shared-name")[-1]["done"]
    [request] = asked(upstream)
    assert [each["content"] for each in request["body"]["messages"]] == ["go on"]
    assert mallory.send("DELETE", where).status_code == 200
    [turn] = alice.send("GET", where).json()["messages"]
    assert (turn["message"], turn["state"]) == (CANARY, "completed")


@pytest.mark.parametrize("id", ["..%2f..%2fetc", "%00", "a%0ab", "%ed%a0%80", "' OR 1=1 --", "*", "%25", "a" * 5000])
def test_ids_of_conversations_that_are_none(mallory: Attacker, id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = mallory.send(method, f"/api/chat/conversations/{id}")
        assert answer.status_code in (400, 404) and CANARY not in answer.text


def test_what_others_spend_is_theirs_and_an_admins_to_see(mallory: Attacker, alice: Attacker, root: Attacker) -> None:
    ask(alice, model="x/text-11-5")

    def seen(who: Attacker) -> set[str]:
        return {each["model"] for each in who.send("GET", "/api/chat/usage").json()["models"]}

    assert "x/text-11-5" in seen(alice) & seen(root)
    assert "x/text-11-5" not in seen(mallory)


def test_keys_of_providers_are_an_admins_and_never_shown(server: Server, mallory: Attacker, root: Attacker) -> None:
    other = "sk-or-v1-" + "c" * 40
    for method, path in (("GET", "/keys"), ("PUT", "/keys/openrouter"), ("DELETE", "/keys/openrouter")):
        assert mallory.send(method, f"/api/chat{path}", json={"key": other}).status_code == 403
    stored = root.send("PUT", "/api/chat/keys/openrouter", json={"key": other})
    assert stored.status_code == 200 and {each["source"] for each in stored.json()["keys"]} == {"environment", "stored"}
    bad = [
        root.send("PUT", "/api/chat/keys/openrouter", json={"key": value})
        for value in (f"{other}\r\nX: 1", f"{other} ", "é" * 20, "", 5, None, [other], "x" * 10_000)
    ]
    bad += [root.send("PUT", f"/api/chat/keys/{name}", json={"key": other}) for name in ("evil", "..%2fopenrouter")]
    assert {each.status_code for each in bad} <= {400, 404}
    listed = root.send("GET", "/api/chat/keys")
    shown = "".join(each.text for each in (stored, listed, *bad)) + server.log()
    assert other not in shown and KEY not in shown and "x" * 100 not in shown
    assert root.send("DELETE", "/api/chat/keys/openrouter").json()["deleted"] is True
    raw = b"".join(path.read_bytes() for path in server.home.rglob("*") if path.is_file())
    assert other.encode() not in raw and KEY.encode() not in raw


def test_nothing_of_the_gateway_changes_by_get(mallory: Attacker, upstream: Upstream) -> None:
    upstream.reset()
    assert mallory.send("GET", f"{SEND}?message=hi&service=openrouter&model=x/text").status_code == 405
    assert mallory.send("GET", "/api/chat/keys/openrouter?key=sk-or-v1-cccccccc").status_code == 405
    assert asked(upstream) == []
