"""Ollama through ``gpt-service``, over an Ollama-compatible fake in front of a real llama.cpp server."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server, add_user, serving, wait_until
from tests.upstreams.running import Upstream, llama, ollama_skin

ASK = {"model_name": "tiny", "use_ollama": True, "max_tokens": 12, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with llama(tmp_path_factory.mktemp("llama")) as real, ollama_skin(llama_url=real.url) as skin:
        yield skin


@pytest.fixture(scope="module")
def server(ollama: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), {"OLLAMA_HOST": ollama.url}) as running:
        yield running


def frames(text: str) -> list[dict[str, Any]]:
    """Every frame of an event stream but ``[DONE]``, which has to end it."""
    found = [each.removeprefix("data: ") for each in text.split("\n\n") if each.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(each) for each in found]


def test_the_service_says_that_it_reaches_ollama(server: Server) -> None:
    assert server.get("/health").json()["ollama_proxy"] is True


def test_generate_chat_and_batch_are_answered_by_ollama(server: Server) -> None:
    told = server.post("/generate", {**ASK, "prompt": "hello"}).json()
    assert told["text"] and told["model_name"] == "tiny:latest" and told["tokens_generated"] == 12
    messages = [{"role": "user", "content": "hello"}]
    talked = server.post("/chat", {**ASK, "messages": messages}).json()
    assert talked["message"] == {"role": "assistant", "content": told["text"]}
    batch = server.post("/batch", {**ASK, "prompts": ["hello", "你好", "hello"]}).json()
    assert [each["prompt"] for each in batch["results"]] == ["hello", "你好", "hello"]
    assert batch["results"][0]["text"] == batch["results"][2]["text"] == told["text"] and batch["total_count"] == 3


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/generate/stream", {"prompt": "hello"}),
        ("/chat", {"messages": [{"role": "user", "content": "hello"}], "stream": True}),
    ],
)
def test_streams_say_what_a_whole_answer_says(server: Server, path: str, asked: dict[str, Any]) -> None:
    *texts, last = frames(server.post(path, {**ASK, **asked}).text)
    whole = server.post("/generate", {**ASK, "prompt": "hello"}).json()
    assert "".join(each["text"] for each in texts) == whole["text"]
    assert last["done"] is True and last["model_name"] == "tiny:latest" and last["tokens_generated"] == 12


def test_what_ollama_is_told_is_what_the_caller_said(server: Server, ollama: Upstream) -> None:
    ollama.reset()
    server.post("/generate", {**ASK, "prompt": "你好", "top_p": 0.5, "repetition_penalty": 1.2, "stop": ["。"]})
    [asked] = [each["body"] for each in ollama.report()["requests"] if each["path"] == "/api/chat"]
    assert asked["messages"] == [{"role": "user", "content": "你好"}] and asked["think"] is False
    wanted = {"num_predict": 12, "temperature": 0, "top_p": 0.5, "repeat_penalty": 1.2, "seed": 1, "stop": ["。"]}
    assert wanted.items() <= asked["options"].items()


def test_a_model_ollama_lacks_is_404_and_never_asked_for(server: Server, ollama: Upstream) -> None:
    ollama.reset()
    answer = server.post("/generate", {**ASK, "model_name": "absent", "prompt": "hello"})
    assert answer.status_code == 404 and "absent" in answer.json()["detail"]
    assert not [each for each in ollama.report()["requests"] if each["method"] == "POST"]
    hostile = server.post("/generate", {**ASK, "model_name": "evil.example/x/y", "prompt": "hello"})
    assert hostile.status_code == 400


def test_what_goes_wrong_at_ollama_has_the_documents_shape(server: Server) -> None:
    busy = server.post("/generate", {**ASK, "model_name": "busy", "prompt": "hello"})
    assert busy.status_code == 503 and set(busy.json()) == {"detail"} and "server busy" in busy.json()["detail"]
    *texts, last = frames(server.post("/generate/stream", {**ASK, "model_name": "mid", "prompt": "hello"}).text)
    assert any(each.get("text") for each in texts) and last["done"] is True and "signal: killed" in last["error"]


def test_its_models_and_its_statistics_are_shown(server: Server) -> None:
    server.post("/generate", {**ASK, "prompt": "hello"})
    found = server.get("/ollama/models").json()
    assert found["total_count"] == len(found["models"]) >= 1
    [tiny] = [each for each in found["models"] if each["name"] == "tiny:latest"]
    assert tiny["size"] > 0 and tiny["loaded"] is True
    stats = server.get("/ollama/stats").json()
    assert stats["version"] and stats["model_count"] == found["total_count"]
    assert "tiny:latest" in [each["name"] for each in stats["running_models"]]
    assert stats["requests"]["total"] >= 1 and stats["requests"]["in_flight"] == 0
    assert stats["tokens"]["generated"] >= 12 and stats["tokens_per_second"] > 0


def test_a_pull_ends_with_success_and_the_model_can_be_asked_at_once(server: Server) -> None:
    begun = server.post("/ollama/pull?model_name=fresh").json()
    assert begun["model_name"] == "fresh" and begun["status"] in ("pulling", "success") and begun["total"] > 0
    path = f"/ollama/pulls/{begun['pull_id']}"
    wait_until(lambda: server.get(path).json()["status"] == "success", "the pull did not end", 20)
    ended = server.get(path).json()
    assert ended["progress"] == 100.0 and ended["completed"] == ended["total"]
    assert server.post("/generate", {**ASK, "model_name": "fresh", "prompt": "hello"}).json()["text"]
    assert ended in server.get("/ollama/pulls").json()["pulls"]


def test_a_pull_can_be_followed_as_a_stream(server: Server) -> None:
    answer = server.post("/ollama/pull?model_name=followed", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *before, last = frames(answer.text)
    assert last["status"] == "success" and last["done"] is True
    assert before and all(each["status"] == "pulling" and each["done"] is False for each in before)
    done = [each["completed"] for each in [*before, last]]
    assert done == sorted(done)


@pytest.mark.parametrize(("name", "status"), [("missing", 404), ("", 400), ("evil.example/x/y", 400), ("a b", 400)])
def test_a_pull_that_fails_is_an_error_though_ollama_answers_200(server: Server, name: str, status: int) -> None:
    answer = server.post(f"/ollama/pull?model_name={name}")
    assert answer.status_code == status and answer.json()["detail"], answer.text


def test_a_pull_that_breaks_later_is_failed_and_says_why(server: Server) -> None:
    path = f"/ollama/pulls/{server.post('/ollama/pull?model_name=broken').json()['pull_id']}"
    wait_until(lambda: server.get(path).json()["status"] == "failed", "the pull did not fail", 20)
    assert "unexpected EOF" in server.get(path).json()["detail"]


def test_a_pull_that_ends_without_success_is_none(server: Server) -> None:
    path = f"/ollama/pulls/{server.post('/ollama/pull?model_name=nosuccess').json()['pull_id']}"
    wait_until(lambda: server.get(path).json()["completed"] == 10_000_000, "nothing came", 20)
    time.sleep(0.5)
    assert server.get(path).json()["status"] == "pulling" and server.get(path).json()["progress"] < 100
    server.delete(path)


def test_a_failed_pull_ends_its_stream_with_the_error(server: Server) -> None:
    answer = server.post("/ollama/pull?model_name=missing-too", headers={"Accept": "text/event-stream"})
    last = frames(answer.text)[-1]
    assert last["done"] is True and "file does not exist" in last["error"]


def test_a_pull_goes_on_when_the_server_was_killed(ollama: Upstream, tmp_path: Path) -> None:
    environ = {"OLLAMA_HOST": ollama.url}
    with serving(tmp_path, environ) as first:
        begun = first.post("/ollama/pull?model_name=slow-one").json()
        assert begun["status"] == "pulling"
        first.process.kill()
        first.process.wait()
    with serving(tmp_path, environ) as second:
        path = f"/ollama/pulls/{begun['pull_id']}"
        before = second.get(path).json()
        assert before["status"] == "pulling"
        again = second.post("/ollama/pull?model_name=slow-one").json()
        assert again["pull_id"] == begun["pull_id"]  # one job a model
        wait_until(lambda: second.get(path).json()["completed"] > before["completed"], "the pull did not go on", 20)
        second.delete(path)


def test_a_canceled_pull_is_hung_up(server: Server, ollama: Upstream) -> None:
    begun = server.post("/ollama/pull?model_name=slow-two").json()
    ended = server.delete(f"/ollama/pulls/{begun['pull_id']}").json()
    assert ended["status"] == "canceled"
    ollama.until(lambda report: report["open"] == 0)
    assert server.get(f"/ollama/pulls/{begun['pull_id']}").json()["status"] == "canceled"


def test_only_admins_have_models_fetched(ollama: Upstream, tmp_path: Path) -> None:
    add_user(tmp_path, "boss", "a long password", admin=True)
    add_user(tmp_path, "amy", "a long password")
    with serving(tmp_path, {"OLLAMA_HOST": ollama.url}, ["--require-token"]) as server:

        def pull(name: str) -> int:
            token = server.post("/api/v1/login", {"username": name, "password": "a long password"}).json()["token"]
            bearer = {"Authorization": f"Bearer {token}"}
            return server.post("/ollama/pull?model_name=fresh-again", headers=bearer).status_code

        assert (pull("amy"), pull("boss")) == (403, 200)


def test_ollama_that_comes_later_or_goes_is_noticed(tmp_path: Path) -> None:
    with ollama_skin() as skin:
        port = skin.url.rpartition(":")[2]
        with serving(tmp_path, {"OLLAMA_HOST": f"127.0.0.1:{port}"}) as server:
            assert server.get("/ollama/models").status_code == 200
            skin.process.kill()
            skin.process.wait()
            began = time.monotonic()
            answer = server.get("/ollama/models")
            assert answer.status_code == 503 and "OLLAMA_HOST" in answer.json()["detail"]
            assert time.monotonic() - began < 10
            assert server.post("/generate", {"prompt": "你好", "max_tokens": 4}).status_code == 200


def test_without_a_configured_ollama_every_path_says_what_to_set(tmp_path: Path) -> None:
    with serving(tmp_path, {"OLLAMA_HOST": ""}) as server:
        assert server.get("/health").json()["ollama_proxy"] is False
        answers = [
            server.get("/ollama/models"),
            server.get("/ollama/stats"),
            server.post("/ollama/pull?model_name=x"),
            server.post("/generate", {"prompt": "hello", "use_ollama": True}),
            server.post("/generate/stream", {"prompt": "hello", "use_ollama": True}),
            server.post("/batch", {"prompts": ["hello"], "use_ollama": True}),
        ]
    assert [answer.status_code for answer in answers] == [503] * 6
    assert all("OLLAMA_HOST" in answer.json()["detail"] for answer in answers)
