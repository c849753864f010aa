"""The Ollama-compatible fake satisfies Ollama's own client, over a real llama.cpp and over canned text."""

from collections.abc import Iterator
from typing import Any

import ollama
import pytest
import requests

from tests.unit.upstreams.speaking import frames, said, speaking
from tests.upstreams.ollama_store import LAYER
from tests.upstreams.running import Upstream, ollama_skin
from tests.upstreams.texts import text

QUESTION = [{"role": "user", "content": "你好 hello"}]
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module", params=["llama", "canned"])
def running(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    url = request.getfixturevalue("llama").url if request.param == "llama" else None
    with ollama_skin(llama_url=url, models=["cloud-big"]) as upstream:
        yield upstream


@pytest.fixture
def skin(running: Upstream) -> Upstream:
    running.reset()
    return running


@pytest.fixture
def client(skin: Upstream) -> Iterator[ollama.Client]:
    made = ollama.Client(host=skin.url, timeout=30)
    yield made
    made._client.close()


def post(skin: Upstream, path: str, **body: Any) -> requests.Response:
    return requests.post(skin.url + path, json=body, timeout=30)


def test_the_official_client_chats_in_pieces_and_whole(client: ollama.Client) -> None:
    pieces = list(client.chat("tiny", QUESTION, stream=True, options=GREEDY))
    assert all(not piece.done for piece in pieces[:-1])
    last = pieces[-1]
    assert (last.done, last.done_reason, last.eval_count, last.message.content) == (True, "length", 12, "")
    assert last.total_duration and last.eval_duration and last.prompt_eval_count
    spoken = "".join(piece.message.content or "" for piece in pieces)
    whole = client.chat("tiny", QUESTION, options=GREEDY)
    assert whole.message.content == spoken != ""


def test_the_official_client_generates_in_pieces_and_whole(client: ollama.Client) -> None:
    pieces = list(client.generate("tiny", "你好 hello", stream=True, options=GREEDY))
    assert pieces[-1].done and pieces[-1].context
    assert client.generate("tiny", "你好 hello", options=GREEDY).response == "".join(
        piece.response or "" for piece in pieces
    )


def test_streaming_is_what_happens_unless_refused(skin: Upstream) -> None:
    answer = post(skin, "/api/chat", model="tiny", messages=QUESTION)
    assert answer.headers["Content-Type"] == "application/x-ndjson" and len(frames("ollama", answer.content)) > 3
    answer = post(skin, "/api/chat", model="tiny", messages=QUESTION, stream=False)
    assert answer.headers["Content-Type"].startswith("application/json") and len(frames("ollama", answer.content)) == 1


def test_the_official_client_lists_shows_and_deletes(client: ollama.Client) -> None:
    client.pull("short-lived")
    listed = {model.model: model for model in client.list().models}
    assert {"tiny:latest", "short-lived:latest"} <= set(listed)
    assert listed["tiny:latest"].size and listed["tiny:latest"].details and listed["tiny:latest"].modified_at
    assert client.show("tiny").capabilities == ["completion"]
    assert client.show("think:latest").capabilities == ["completion", "thinking"]
    assert client.delete("short-lived").status == "success"
    assert "short-lived:latest" not in [model.model for model in client.list().models]
    for gone in (client.delete, client.show, lambda name: client.chat(name, QUESTION)):
        with pytest.raises(ollama.ResponseError, match="model 'short-lived' not found") as refused:
            gone("short-lived")
        assert refused.value.status_code == 404


def test_the_official_client_pulls_and_sees_how_far_it_is(client: ollama.Client) -> None:
    lines = list(client.pull("fresh", stream=True))
    assert [lines[0].status, *(line.status for line in lines[-3:])] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    parts = [line for line in lines if line.digest]
    done = [line.completed or 0 for line in parts]
    assert parts[0].completed is None and done == sorted(done) and done[-1] == LAYER == parts[0].total
    assert parts[0].status == f"pulling {str(parts[0].digest).removeprefix('sha256:')[:12]}" and len(parts) > 5
    assert client.pull("fresh").status == "success"
    client.delete("fresh")


def test_pulls_that_fail_say_so_in_a_line_or_as_500(client: ollama.Client, skin: Upstream) -> None:
    with pytest.raises(ollama.ResponseError, match="file does not exist") as refused:
        client.pull("missing")
    assert refused.value.status_code == 500
    answer = post(skin, "/api/pull", model="missing")
    assert answer.status_code == 200
    assert frames("ollama", answer.content) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    with pytest.raises(ollama.ResponseError, match="unexpected EOF") as broken:
        list(client.pull("broken", stream=True))
    assert broken.value.status_code == -1
    lines = list(client.pull("nosuccess", stream=True))
    assert lines[-1].status == "verifying sha256 digest"
    assert not {"missing:latest", "broken:latest", "nosuccess:latest"} & {model.model for model in client.list().models}
    for name in ("../../etc/passwd", "a b", "", "x/../y"):
        assert post(skin, "/api/pull", model=name).status_code == 400


def test_parts_of_a_pull_stay_when_the_caller_hangs_up_and_the_next_goes_on_from_there(skin: Upstream) -> None:
    def pulled_until(wanted: int) -> list[int]:
        with speaking(skin.url) as peer:
            peer.ask("/api/pull", {"model": "slow-one"})
            peer.until(b"\r\n\r\n")
            peer.bytes = peer.bytes.partition(b"\r\n\r\n")[2]
            done: list[int] = []
            for chunk in peer.chunks():
                done += [frame["completed"] for frame in frames("ollama", chunk) if "completed" in frame]
                if done and done[-1] >= wanted:
                    break
        skin.until(lambda report: report["open"] == 0)
        return done

    first = pulled_until(LAYER // 200)
    assert first[0] < first[-1]
    assert skin.report()["gone_count"]["all"] == 1
    assert pulled_until(1)[0] >= first[-1]
    requests.delete(skin.url + "/api/delete", json={"model": "slow-one"}, timeout=30)


def test_loaded_models_are_seen_until_they_are_unloaded(client: ollama.Client) -> None:
    def loaded() -> dict[str, Any]:
        return {str(model.model): model for model in client.ps().models}

    assert client.chat("tiny", [], keep_alive="10m").done_reason == "load"
    short = loaded()["tiny:latest"].expires_at
    client.chat("tiny", QUESTION, keep_alive=-1)
    long = loaded()["tiny:latest"].expires_at
    assert long > short and loaded()["tiny:latest"].size_vram and loaded()["tiny:latest"].context_length
    assert client.generate("tiny", keep_alive=0).done_reason == "unload"
    assert "tiny:latest" not in loaded()
    client.chat("tiny", QUESTION, keep_alive=0)
    assert "tiny:latest" not in loaded()


def test_thinking_is_apart_from_the_answer_and_not_for_every_model(client: ollama.Client) -> None:
    pieces = list(client.chat("think", QUESTION, stream=True, options=GREEDY))
    thoughts = [bool(piece.message.thinking) for piece in pieces]
    assert thoughts[0] and not pieces[0].message.content and thoughts == sorted(thoughts, reverse=True)
    whole = client.chat("think", QUESTION, think=True, options=GREEDY)
    assert whole.message.thinking and whole.message.content == "".join(piece.message.content or "" for piece in pieces)
    assert client.chat("think", QUESTION, think=False).message.thinking is None
    assert client.generate("think", "hello", think=True).thinking
    with pytest.raises(ollama.ResponseError, match='"tiny" does not support thinking') as refused:
        client.chat("tiny", QUESTION, think=True)
    assert refused.value.status_code == 400


def test_errors_before_the_first_line_and_in_the_middle(client: ollama.Client, skin: Upstream) -> None:
    with pytest.raises(ollama.ResponseError, match="server busy") as busy:
        client.chat("busy", QUESTION, stream=False)
    assert busy.value.status_code == 503
    with pytest.raises(ollama.ResponseError, match="terminated") as broken:
        list(client.chat("mid", QUESTION, stream=True))
    assert broken.value.status_code == -1
    assert said("ollama", post(skin, "/api/chat", model="mid", messages=QUESTION).content)
    assert post(skin, "/api/chat", model="mid", messages=QUESTION, stream=False).status_code == 500
    assert requests.post(skin.url + "/api/chat", timeout=30).json() == {"error": "missing request body"}
    assert requests.post(skin.url + "/api/chat", data="{", timeout=30).status_code == 400
    assert post(skin, "/api/chat").json() == {"error": "model is required"}
    assert requests.get(skin.url + "/api/chat", timeout=30).status_code == 405


def test_small_things_are_there(skin: Upstream) -> None:
    assert requests.get(skin.url, timeout=30).text == "Ollama is running"
    assert requests.get(skin.url + "/api/version", timeout=30).json() == {"version": "0.0.0-fake"}
    assert all(
        requests.head(skin.url + path, timeout=30).status_code == 200 for path in ("/", "/api/version", "/api/tags")
    )
    models = requests.get(skin.url + "/api/tags", timeout=30).json()["models"]
    assert [model["name"] for model in models if "remote_host" in model] == ["cloud-big:latest"]


def test_it_tells_what_it_was_asked_and_fails_when_told_to(client: ollama.Client, skin: Upstream) -> None:
    client.chat("tiny", QUESTION, options=GREEDY)
    [request] = skin.report()["requests"]
    assert (request["path"], request["body"]["options"], "authorization" in request["headers"]) == (
        "/api/chat",
        GREEDY,
        False,
    )
    skin.tell("/fail", {"path": "/api/tags", "status": 500, "times": 2})
    assert [requests.get(skin.url + "/api/tags", timeout=30).status_code for _ in range(3)] == [500, 500, 200]


def test_a_hang_up_is_noticed(skin: Upstream) -> None:
    with speaking(skin.url) as peer:
        peer.ask("/api/pull", {"model": "stall-here"})
        peer.until(b'"completed"')
        skin.until(lambda report: report["open"] == 1)
    skin.until(lambda report: report["open"] == 0 and report["gone_count"]["all"] == 1)


def test_canned_text_is_known_beforehand() -> None:
    with ollama_skin() as skin:
        assert said("ollama", post(skin, "/api/chat", model="tiny", messages=QUESTION).content) == text(0, 16)
