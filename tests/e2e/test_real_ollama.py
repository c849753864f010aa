"""The gateway over a real Ollama, where OLLAMA_HOST names one: its smallest model is asked, and pulled again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.server import Server, serving
from tests.upstreams.real_ollama import RealOllama, real_ollama

pytestmark = pytest.mark.ollama


@pytest.fixture(scope="module")
def ollama() -> RealOllama:
    return real_ollama()


@pytest.fixture(scope="module")
def server(ollama: RealOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {"OLLAMA_HOST": ollama.url, "TUNESMITH_OLLAMA_MODEL": ollama.model}
    with serving(tmp_path_factory.mktemp("home"), environ) as running:
        yield running


def test_it_is_asked_through_both_documents(server: Server, ollama: RealOllama) -> None:
    body = {"prompt": "Say hello.", "use_ollama": True, "model_name": ollama.model, "max_tokens": 16}
    told = server.post("/generate", body).json()
    assert told["text"] and 0 < told["tokens_generated"] <= 16
    answer = server.post("/api/chat/send", {"message": "Say hello.", "service": "local", "max_tokens": 16})
    last = json.loads(answer.text.strip().rpartition("data: ")[2])
    assert last["done"] is True and last["fullResponse"] and last["model"] == ollama.model


def test_a_client_that_leaves_stops_it(server: Server, ollama: RealOllama) -> None:
    body = {"message": "Count to a thousand, slowly.", "service": "local", "max_tokens": 4096}
    with requests.post(server.url + "/api/chat/send", json=body, stream=True, timeout=300) as answer:
        next(answer.iter_content(1))
    time.sleep(2)
    assert server.get("/ollama/stats").json()["requests"]["in_flight"] == 0


def test_its_models_statistics_and_pulls_are_understood(server: Server, ollama: RealOllama, tmp_path: Path) -> None:
    assert ollama.model in [each["name"] for each in server.get("/ollama/models").json()["models"]]
    assert server.get("/ollama/stats").json()["version"]
    answer = server.post(f"/ollama/pull?model_name={ollama.model}", headers={"Accept": "text/event-stream"})
    last = json.loads(answer.text.strip().split("\n\n")[-2].removeprefix("data: "))
    assert last["status"] == "success"
    assert server.post("/ollama/pull?model_name=no-such-model-at-all").status_code == 404
