"""The server from outside: quick to start, light, and many streams at once that never mix."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.server import Server, serving, wait_until
from tests.tiny_model import make_tiny_adapter, make_tiny_base

CLIENTS = 32
MODELS = ("tiny", "adapters/one", "adapters/two")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    base = make_tiny_base(home / "models" / "tiny")
    for seed, name in enumerate(("one", "two", "three"), start=1):
        folder = make_tiny_adapter(base, home / "adapters" / name, seed=seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiny"}))
    (home / "data").mkdir()
    (home / "data" / "rows.jsonl").write_text('{"input": "a", "expected": "b"}\n')
    os.mkfifo(home / "data" / "pipe.jsonl")
    (home / "data" / "link.jsonl").symlink_to(home / "data" / "rows.jsonl")
    with serving(home) as running:
        yield running


def ask(server: Server, client: int) -> str:
    """One greedy stream; its length and prompt differ by client, so rows join and leave at all times."""
    body: dict[str, Any] = {
        "prompt": f"client {client} asks {client * 7} things " * (1 + client % 5),
        "model_name": MODELS[client % len(MODELS)],
        "max_tokens": 20 + client * 3,
        "temperature": 0,
        "repetition_penalty": 1.0,
    }
    answer = requests.post(f"{server.url}/generate/stream", json=body, timeout=100)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", lines[-1]
    frames = [json.loads(line) for line in lines[:-1]]
    assert "error" not in frames[-1], frames[-1]
    return "".join(frame["text"] for frame in frames)


def engine_of(server: Server) -> psutil.Process:
    [engine] = [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if "tunesmith.inference.worker" in " ".join(process.cmdline())
    ]
    return engine


def test_32_streams_of_base_and_two_adapters_equal_their_solo_runs_while_a_third_comes_and_goes(server: Server) -> None:
    alone = [ask(server, client) for client in range(CLIENTS)]
    assert len(set(alone)) > CLIENTS // 2
    engine = engine_of(server)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda client: ask(server, client), range(CLIENTS)))  # the allocator's high-water mark
    before = engine.memory_info().rss
    over = threading.Event()

    def come_and_go() -> int:
        rounds = 0
        body = {"model_name": "third", "model_path": "tiny", "lora_adapter": "adapters/three"}
        while not over.is_set():
            assert server.post("/models/load", body).status_code == 200
            assert server.post("/generate", {"prompt": "hi", "model_name": "third", "max_tokens": 3}).status_code == 200
            assert server.post("/models/unload?model_name=third").status_code in (200, 409)
            rounds += 1
        return rounds

    # the base stays loaded under another name, so unloading the third takes only its adapter
    assert server.post("/models/load", {"model_name": "stay", "model_path": "tiny"}).status_code == 200
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        visitor = pool.submit(come_and_go)
        together = list(pool.map(lambda client: ask(server, client), range(CLIENTS)))
        over.set()
        assert visitor.result(timeout=60) >= 1
    assert together == alone
    wait_until(lambda: engine.memory_info().rss < before + 30e6, f"memory stayed up from {before}", 20)


def test_the_server_process_holds_no_torch(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps")
    loaded = maps.read_text() if maps.exists() else ""
    assert "libtorch" not in loaded
    assert psutil.Process(server.process.pid).memory_info().rss < 250e6


def test_a_client_that_leaves_frees_its_row(server: Server) -> None:
    body = {"prompt": "go on and on", "model_name": "tiny", "max_tokens": 900, "temperature": 1.0}
    with requests.post(f"{server.url}/generate/stream", json=body, stream=True, timeout=60) as answer:
        next(answer.iter_lines())
    wait_until(lambda: server.post("/models/load", {"model_name": "leaver", "model_path": "tiny"}).ok, "no load", 10)
    started = time.monotonic()
    assert server.post("/models/unload?model_name=leaver").status_code == 200
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/models/load", {"model_name": "x", "model_path": "no/such/model"}, 404),
        ("/models/load", {"model_name": "x", "model_path": "../../etc"}, 400),
        ("/models/load", {"model_name": "x", "model_path": "tiny", "lora_adapter": "/etc"}, 400),
        ("/models/load", {"model_name": "x", "model_path": "tiny", "lora_adapter": "adapters/none"}, 404),
        ("/models/load", {"model_name": "x", "model_path": "tunesmith-small", "lora_adapter": "adapters/one"}, 409),
        ("/generate", {"prompt": "x", "model_name": "nobody"}, 404),
        ("/generate", {"prompt": ""}, 400),
        ("/generate", {"prompt": "x", "max_tokens": 0}, 400),
        ("/generate", {"prompt": "x", "temperature": -1}, 400),
        ("/generate", {"prompt": "word " * 5000, "model_name": "tiny"}, 400),
        ("/chat", {"messages": []}, 400),
        ("/chat", {"messages": [{"role": "assistant", "content": "hi"}]}, 400),
        ("/batch", {"prompts": []}, 400),
        ("/train", {"base_model": "no/such", "dataset_path": "data/x.json"}, 404),
        ("/train", {"base_model": "tiny", "dataset_path": "data/none.json"}, 404),
        ("/train", {"base_model": "tiny", "dataset_path": "/etc/passwd"}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "adapters"}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "output_dir": "../x"}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "output_dir": "adapters/one"}, 409),
        (
            "/train",
            {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "output_dir": "tunesmith.db-journal"},
            400,
        ),
        ("/train", {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "epochs": 5}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "data/pipe.jsonl"}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "data/link.jsonl"}, 403),
        ("/train", {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "num_epochs": -1}, 400),
        ("/train", {"base_model": "tiny", "dataset_path": "data/rows.jsonl", "learning_rate": 1e308}, 400),
        ("/evaluate", {"model_name": "tiny", "test_data": []}, 400),
        (
            "/evaluate",
            {"model_name": "tiny", "test_data": [{"input": "a", "expected": "b"}], "metrics": ["magic"]},
            400,
        ),
        ("/evaluate", {"model_name": "nobody", "test_data": [{"input": "a", "expected": "b"}]}, 404),
    ],
)
def test_bad_input_gets_one_clear_error_and_the_server_lives(
    server: Server, path: str, body: dict[str, Any], status: int
) -> None:
    answer = server.post(path, body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"} and len(answer.json()["detail"]) > 4
    assert server.get("/health").status_code == 200


def test_a_broken_adapter_is_refused_when_it_is_loaded(server: Server) -> None:
    broken = server.home / "adapters" / "broken"
    shutil.copytree(server.home / "adapters" / "one", broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    body = {"model_name": "broken", "model_path": "tiny", "lora_adapter": "adapters/broken"}
    answer = server.post("/models/load", body)
    assert answer.status_code == 400 and "adapters/broken" in answer.json()["detail"]
    assert "broken" not in [model["name"] for model in server.get("/models").json()["models"]]
    shutil.rmtree(broken)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_are_none_are_refused(server: Server, number: str) -> None:
    data = f'{{"prompt": "x", "temperature": {number}}}'
    answer = server.post("/generate", data=data, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "temperature" in answer.json()["detail"]


def test_a_host_header_never_comes_back_in_a_redirect(server: Server) -> None:
    for path in ("/health/", "/models/", "/chat/"):
        answer = server.get(path, headers={"Host": "evil.example"}, allow_redirects=False)
        assert answer.status_code in (400, 404, 405) and "evil" not in str(answer.headers)


def test_half_a_character_in_a_name_is_refused_not_a_bug(server: Server) -> None:
    for path in ("/generate", "/models/load"):
        data = b'{"prompt": "x", "model_name": "\\ud800"}'
        answer = server.post(path, data=data, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 404) and answer.json()["detail"]


def test_a_list_of_a_million_wrong_things_is_refused_at_its_first(server: Server) -> None:
    body = '{"messages": [' + ",".join(["1"] * 1_000_000) + "]}"
    for path in ("/chat", "/ai/finetuning/chat"):
        answer = server.post(path, data=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
    assert psutil.Process(server.process.pid).memory_info().rss < 400e6


def test_a_body_too_large_is_refused_in_each_dialects_shape(server: Server) -> None:
    data = b" " * (17 << 20)
    assert set(server.post("/generate", data=data).json()) == {"detail"}
    answer = server.post("/ai/chat", data=data)
    assert answer.status_code == 413 and answer.json()["code"] == 413


def test_health_answers_load_balancers_that_only_look_at_the_head(server: Server) -> None:
    assert requests.head(f"{server.url}/health", timeout=10).status_code == 200


def test_a_pipe_in_the_place_of_an_adapters_config_hangs_nobody(server: Server) -> None:
    folder = server.home / "adapters" / "pipe"
    folder.mkdir()
    os.mkfifo(folder / "adapter_config.json")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    assert server.post("/ai/finetuning/chat", {"messages": [{"role": "user", "content": "hi"}]}).status_code == 200
    shutil.rmtree(folder)


def test_a_body_nested_a_hundred_thousand_deep_is_refused(server: Server) -> None:
    answer = server.post("/generate", data="[" * 100_000, headers={"content-type": "application/json"})
    assert answer.status_code == 400
