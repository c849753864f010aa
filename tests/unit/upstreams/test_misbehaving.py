"""The misbehaving upstream does to a plain socket what each mode says, and tells when the socket is closed."""

import gzip
import resource
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.unit.upstreams.speaking import frames, said, speaking
from tests.upstreams.modes import BAD_UTF8, METADATA_SERVICE, SPOKEN, spoken
from tests.upstreams.running import ROOT, Upstream, misbehaving

PATHS = {"openai": "/api/v1/chat/completions", "ollama": "/api/chat"}
WIRES = pytest.mark.parametrize("wire", list(PATHS))


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with misbehaving(models=["more/of-it"]) as upstream:
        yield upstream


@pytest.fixture
def upstream(running: Upstream) -> Upstream:
    running.until(lambda report: report["connections"] == 0 and report["open"] == 0)
    running.reset()
    return running


def order(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "你好"}], **more}


def heard(upstream: Upstream, wire: str, model: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    with speaking(upstream.url) as client:
        client.ask(PATHS[wire], order(model, **more))
        return client.whole()


def terminal(wire: str, body: bytes) -> bool:
    return body.endswith(b"data: [DONE]\n\n") if wire == "openai" else b'"done": true' in body.split(b"\n")[-2]


@WIRES
@pytest.mark.parametrize(
    "model", ["slow-5-1", "text-3-200", "split", "big-20", "bad/text-1-5", "text-1-5:latest", "text-0-0"]
)
def test_good_answers_carry_their_whole_text_and_an_end(upstream: Upstream, wire: str, model: str) -> None:
    status, headers, body = heard(upstream, wire, model)
    assert status == 200
    assert headers["content-type"] == {"openai": "text/event-stream", "ollama": "application/x-ndjson"}[wire]
    assert said(wire, body) == "".join(spoken(model))
    assert terminal(wire, body)
    assert upstream.report()["done"] == 1


def test_the_same_numbers_give_the_same_awkward_text_and_others_another() -> None:
    text = "".join(spoken("text-1-300"))
    assert text == "".join(spoken("x/text-1-300:latest"))
    assert text != "".join(spoken("text-2-300"))
    for piece in ("你好", "🌍", "hello", "\n\ndata: ", "\u2028", '"', "\\"):
        assert piece in text


@WIRES
def test_a_whole_answer_is_one_json_body(upstream: Upstream, wire: str) -> None:
    _, headers, body = heard(upstream, wire, "text-1-9", stream=False)
    assert headers["content-type"] == "application/json"
    [frame] = frames(wire, body)
    message = frame["message"] if wire == "ollama" else frame["choices"][0]["message"]
    assert message["content"] == "".join(spoken("text-1-9"))


def test_usage_comes_once_in_a_chunk_of_its_own_just_before_the_end(upstream: Upstream) -> None:
    _, _, body = heard(upstream, "openai", "text-1-9")
    *others, last = frames("openai", body)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 9 and last["usage"]["cost"] > 0
    assert not any("usage" in frame for frame in others)


@WIRES
def test_split_writes_every_byte_by_itself(upstream: Upstream, wire: str) -> None:
    with speaking(upstream.url) as client:
        client.ask(PATHS[wire], order("split"))
        client.until(b"\r\n\r\n")
        client.bytes = client.bytes.partition(b"\r\n\r\n")[2]
        chunks = list(client.chunks())
    assert {len(chunk) for chunk in chunks} == {1}
    assert "🌍".encode() in b"".join(chunks)


@WIRES
@pytest.mark.parametrize("model", ["trunc", "mid", "mid-429"])
def test_streams_that_end_without_an_end(upstream: Upstream, wire: str, model: str) -> None:
    _, _, body = heard(upstream, wire, model)
    assert said(wire, body) == "".join(spoken(model)) != ""
    assert not terminal(wire, body)
    last = frames(wire, body)[-1]
    assert ("error" in last) == model.startswith("mid")
    if wire == "openai" and model.startswith("mid"):
        assert last["error"]["code"] == (429 if model == "mid-429" else 502)
        assert last["choices"][0]["finish_reason"] == "error"


@WIRES
def test_drop_is_a_reset_and_shut_an_end_in_the_middle(upstream: Upstream, wire: str) -> None:
    with speaking(upstream.url) as client:
        client.ask(PATHS[wire], order("drop"))
        with pytest.raises(ConnectionResetError):
            client.until(b"never sent")
        assert b"\xe4" in client.bytes or b"content" in client.bytes
    with pytest.raises(AssertionError, match="ended before"):
        heard(upstream, wire, "shut")
    report = upstream.report()
    assert (report["cut"], report["done"], report["gone_count"]["all"]) == (2, 0, 0)


@WIRES
def test_refuse_once_resets_the_first_and_answers_the_second(upstream: Upstream, wire: str) -> None:
    model = f"refuse-once-{wire}"
    with speaking(upstream.url) as client:
        client.ask(PATHS[wire], order(model))
        with pytest.raises(ConnectionResetError):
            client.until(b"HTTP")
        assert client.bytes == b""
    assert said(wire, heard(upstream, wire, model)[2]) == "".join(spoken(model))
    assert heard(upstream, wire, f"err-once-503-{wire}")[0] == 503
    assert terminal(wire, heard(upstream, wire, f"err-once-503-{wire}")[2])


@WIRES
@pytest.mark.parametrize(
    ("model", "status", "after"), [("err-429", 429, "7"), ("err-503-2", 503, "2"), ("err-400", 400, None)]
)
def test_refusals(upstream: Upstream, wire: str, model: str, status: int, after: str | None) -> None:
    got, headers, body = heard(upstream, wire, model)
    assert (got, headers.get("retry-after")) == (status, after)
    [frame] = frames(wire, body)
    assert frame["error"] if wire == "ollama" else frame["error"]["code"] == status


@WIRES
def test_an_unknown_mode_is_no_model(upstream: Upstream, wire: str) -> None:
    assert heard(upstream, wire, "nobody")[0] == 400


@WIRES
def test_bodies_that_are_no_stream(upstream: Upstream, wire: str) -> None:
    status, headers, body = heard(upstream, wire, "garbage")
    assert (status, headers["content-type"][:9]) == (200, "text/html") and body.startswith(b"<html>")
    assert heard(upstream, wire, "garbage-502")[0] == 502
    status, headers, body = heard(upstream, wire, "errorin200")
    assert (status, headers["content-type"]) == (200, "application/json") and frames(wire, body)[0]["error"]


@WIRES
def test_bytes_that_are_no_text(upstream: Upstream, wire: str) -> None:
    _, _, body = heard(upstream, wire, "badutf8")
    assert BAD_UTF8 in body and terminal(wire, body)
    with pytest.raises(UnicodeDecodeError):
        body.decode()
    assert said(wire, body.replace(BAD_UTF8, b"|")) == "before | after"


@WIRES
def test_a_long_line_has_no_end(upstream: Upstream, wire: str) -> None:
    _, _, body = heard(upstream, wire, "longline-2")
    assert len(body) > 2 << 20 and b"\n" not in body


@WIRES
def test_a_gzip_bomb_is_a_thousand_times_its_size(upstream: Upstream, wire: str) -> None:
    _, headers, body = heard(upstream, wire, "gzip-100")
    assert headers["content-encoding"] == "gzip"
    inflated = zlib.decompressobj(31).decompress(body)
    assert len(inflated) > 100 << 20 and len(inflated) > 500 * len(body)
    assert b"content" in inflated[:200] and b"\n" not in inflated
    _, _, body = heard(upstream, wire, "gzip-text")
    assert said(wire, gzip.decompress(body)) == "".join(spoken("gzip-text"))


@WIRES
def test_redirects_lead_to_the_trap_or_to_the_metadata_service(upstream: Upstream, wire: str) -> None:
    status, headers, _ = heard(upstream, wire, "redirect")
    assert (status, headers["location"]) == (302, upstream.facts["trap"] + "/trap")
    assert heard(upstream, wire, "redirect-307")[0] == 307
    assert heard(upstream, wire, "redirect-metadata")[1]["location"] == METADATA_SERVICE
    assert upstream.report()["visits"] == []
    with speaking(upstream.facts["trap"]) as client:
        client.ask("/trap", {"secret": 1})
        client.whole()
    [visit] = upstream.report()["visits"]
    assert (visit["path"], visit["body"], visit["headers"]["authorization"]) == ("/trap", {"secret": 1}, "Bearer k")


@WIRES
@pytest.mark.parametrize(
    ("model", "seen", "phase"),
    [
        ("hang", b"", "before headers"),
        ("hangfirst", b"\r\n\r\n", "before first token"),
        ("drip-5", b"\r\n\r\n", "before first token"),
        ("stall", b'"content"', "mid-stream"),
        ("slow-1000-20", b'"content"', "mid-stream"),
        ("endless", b'"content"', "mid-stream"),
        ("big", b"xxxx", "mid-stream"),
        ("longline", b"xxxx", "mid-stream"),
        ("gzip", b"\x1f\x8b", "mid-stream"),
    ],
)
def test_hang_ups_are_told_in_each_phase(upstream: Upstream, wire: str, model: str, seen: bytes, phase: str) -> None:
    with speaking(upstream.url) as client:
        client.ask(PATHS[wire], order(model))
        client.until(seen)
        upstream.until(lambda report: report["open"] == 1 and report["connections"] == 1)
        assert upstream.report()["gone_count"]["all"] == 0
    report = upstream.until(lambda report: report["gone_count"]["all"] == 1 and report["connections"] == 0)
    assert (report["open"], report["done"]) == (0, 0)
    assert report["gone_count"][phase] == 1
    [gone] = report["gone"]
    assert (gone["model"], gone["phase"]) == (model, phase)
    assert 0 <= gone["after_write_s"] <= gone["after_start_s"] < 20


def test_connections_are_kept_for_the_next_request(upstream: Upstream) -> None:
    with speaking(upstream.url) as client:
        for seed in range(3):
            client.ask(PATHS["ollama"], order(f"text-{seed}-4"))
            assert said("ollama", client.whole()[2]) == "".join(spoken(f"text-{seed}-4"))
        report = upstream.report()
        assert (report["accepted"], report["connections"], report["done"]) == (1, 1, 3)
    upstream.until(lambda report: report["connections"] == 0)
    assert upstream.report()["gone_count"]["all"] == 0


def test_it_records_what_it_was_asked_and_forgets_on_demand(upstream: Upstream) -> None:
    heard(upstream, "openai", "text-1-1", temperature=0.5)
    [request] = upstream.report()["requests"]
    assert (request["method"], request["path"], request["mode"]) == ("POST", PATHS["openai"], "text")
    assert request["body"]["temperature"] == 0.5 and request["headers"]["authorization"] == "Bearer k"
    upstream.reset()
    assert upstream.report()["requests"] == []


def test_lists_are_decent_until_they_are_told_to_behave_otherwise(upstream: Upstream) -> None:
    def asked(path: str) -> tuple[int, Any]:
        with speaking(upstream.url) as client:
            client.ask(path, {}, method="GET")
            status, _, body = client.whole()
            return status, frames("ollama", body)[0]

    assert "more/of-it" in [model["id"] for model in asked("/api/v1/models")[1]["data"]]
    assert "bad/hang" in [model["name"] for model in asked("/api/tags")[1]["models"]]
    upstream.tell("/behave", {"path": "/api/tags", "model": "err-500"})
    assert asked("/api/tags")[0] == 500
    upstream.reset()
    assert asked("/api/tags")[0] == 200


def test_a_thousand_streams_at_once_are_answered_and_a_thousand_hang_ups_counted(upstream: Upstream) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    address = upstream.url.removeprefix("http://").split(":")
    peers = [socket.create_connection((address[0], int(address[1])), timeout=60) for _ in range(1000)]
    body = b'{"model": "slow-100000-100", "messages": []}'
    for peer in peers:
        peer.sendall(b"POST /api/chat HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    for peer in peers:
        assert peer.recv(12) == b"HTTP/1.1 200"
    upstream.until(lambda report: report["open"] == 1000, 60)
    for peer in peers:
        peer.close()
    report = upstream.until(lambda report: report["gone_count"]["all"] == 1000 and report["connections"] == 0, 60)
    assert (report["open"], len(report["requests"])) == (0, 1000)


def test_streams_at_once_do_not_mix(upstream: Upstream) -> None:
    models = [f"text-{seed}-100" for seed in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda model: heard(upstream, "ollama", model)[2], models))
    assert [said("ollama", answer) for answer in answers] == ["".join(spoken(model)) for model in models]


def test_every_mode_with_a_text_says_it() -> None:
    assert all("".join(spoken(mode)) for mode in SPOKEN)


def test_it_ends_with_whoever_started_it() -> None:
    script = (
        "import time\n"
        "from tests.upstreams.running import misbehaving\n"
        "with misbehaving() as upstream:\n"
        "    print(upstream.process.pid, flush=True)\n"
        "    time.sleep(99)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    ended = threading.Event()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=20, callback=lambda _: ended.set())
    assert ended.is_set()
