"""``docs/spec/gpt-service.md``, replayed against a running server."""

import json
import re
import subprocess
import time
from typing import Any

import pytest

from tests.server import Server, wait_until
from tests.spec.conftest import BASE
from tests.spec.documents import block, blocks, same_shape

DOCUMENT = "gpt-service"


def request_of(path: str) -> Any:
    return block(DOCUMENT, f"POST `{path}`", "请求体").value


def response_of(path: str) -> Any:
    return block(DOCUMENT, f"`{path}`", "响应示例").value


@pytest.fixture(scope="module", autouse=True)
def loaded(server: Server) -> None:
    """The document's examples all name the model that its load example loads."""
    answer = server.post("/models/load", request_of("/models/load"))
    assert answer.status_code == 200, answer.text


def assert_like(example: Any, answer: Any) -> None:
    assert answer.status_code == 200, answer.text
    assert same_shape(example, answer.json()) == []


@pytest.mark.parametrize("path", ["/", "/health"])
def test_service_paths_answer_as_the_document_shows(server: Server, path: str) -> None:
    example, answer = response_of(path), server.get(path)
    assert_like(example, answer)
    assert answer.json()["service"] == example["service"]


def test_models_lists_the_loaded_model_with_its_adapter_as_current(server: Server) -> None:
    answer = server.get("/models")
    assert_like(response_of("/models"), answer)
    [model] = [each for each in answer.json()["models"] if each["name"] == "qwen2-7b-instruct"]
    assert model["is_current"] and model["lora_adapter"] == "models/lora/adapter1"
    assert answer.json()["current_model"] == "qwen2-7b-instruct"
    assert answer.json()["total_count"] == len(answer.json()["models"])


@pytest.mark.parametrize("name", ["qwen2-7b-instruct", BASE, "models/lora/adapter1"])
def test_a_model_is_found_by_a_name_with_or_without_slashes(server: Server, name: str) -> None:
    assert server.get(f"/models/{name}").json()["name"] == name


def test_switch_and_unload_take_the_name_in_the_query(server: Server) -> None:
    body = {**request_of("/models/load"), "model_name": "another", "lora_adapter": None}
    assert server.post("/models/load", body).status_code == 200
    assert server.post("/models/switch?model_name=another").json()["current_model"] == "another"
    assert server.get("/models").json()["current_model"] == "another"
    assert server.post("/models/switch?model_name=qwen2-7b-instruct").status_code == 200
    assert server.post("/models/unload?model_name=another").status_code == 200
    assert server.post("/models/unload?model_name=another").status_code == 404


def test_generate_answers_with_text_model_and_token_count(server: Server) -> None:
    answer = server.post("/generate", request_of("/generate"))
    assert_like(response_of("/generate"), answer)
    assert answer.json()["model_name"] == "qwen2-7b-instruct" and answer.json()["tokens_generated"] > 0


def test_generate_stream_sends_text_frames_then_totals_then_done(server: Server) -> None:
    answer = server.post(
        "/generate/stream", {**request_of("/generate"), "temperature": 0, "max_tokens": 24}, stream=True
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line.decode().removeprefix("data: ") for line in answer.iter_lines() if line.startswith(b"data: ")]
    assert lines[-1] == "[DONE]"
    frames = [json.loads(line) for line in lines[:-1]]
    assert [frame["done"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    whole = server.post("/generate", {**request_of("/generate"), "temperature": 0, "max_tokens": 24}).json()
    assert "".join(frame["text"] for frame in frames) == whole["text"]
    assert frames[-1]["tokens_generated"] == whole["tokens_generated"]


def test_chat_answers_the_conversation(server: Server) -> None:
    answer = server.post("/chat", request_of("/chat")).json()
    assert answer["message"]["role"] == "assistant"
    assert answer["message"]["content"] == answer["text"] == answer["response"]


def test_batch_keeps_the_order_of_its_prompts(server: Server) -> None:
    body = request_of("/batch")
    answer = server.post("/batch", body).json()
    assert [each["prompt"] for each in answer["results"]] == body["prompts"]
    assert answer["total_count"] == 2


def test_train_returns_at_once_and_its_status_moves_to_completed(server: Server) -> None:
    answer = server.post("/train", {**request_of("/train"), "num_epochs": 2})
    assert_like(response_of("/train"), answer)
    assert answer.json()["message"] == response_of("/train")["message"]
    path = f"/train/status/{answer.json()['task_id']}"
    wait_until(lambda: server.get(path).json()["status"] not in ("queued", "running"), "still running", 100)
    status = server.get(path)
    assert_like(response_of("/train/status/{task_id}"), status)
    body = status.json()
    assert body["status"] == "completed", body
    assert (body["progress"], body["current_epoch"], body["total_epochs"]) == (100.0, 2, 2)
    assert body["output_dir"] == "models/checkpoints/task1"
    assert server.get("/train/history").json()["history"][0]["task_id"] == body["task_id"]
    tuned = server.post("/generate", {"prompt": "1号店在哪里？", "model_name": body["output_dir"], "max_tokens": 8})
    assert tuned.status_code == 200, tuned.text


def test_evaluate_returns_at_once_and_its_results_follow(server: Server) -> None:
    answer = server.post("/evaluate", request_of("/evaluate"))
    assert answer.status_code == 200 and answer.json()["status"] == "success"
    path = f"/evaluate/results/{answer.json()['eval_id']}"
    wait_until(lambda: server.get(path).json()["status"] in ("completed", "failed"), "still running", 60)
    results = server.get(path).json()
    assert results["status"] == "completed", results
    assert set(results["metrics"]) == {"perplexity", "exact_match", "bleu", "rouge"}


def test_an_evaluation_can_be_canceled_and_says_so(server: Server) -> None:
    rows = [{"input": f"{n} 加 {n} 等于几？", "expected": str(2 * n)} for n in range(3000)]
    eval_id = server.post("/evaluate", {"model_name": "tunesmith-small", "test_data": rows}).json()["eval_id"]
    assert server.post(f"/evaluate/cancel/{eval_id}").status_code == 200
    path = f"/evaluate/results/{eval_id}"
    wait_until(lambda: server.get(path).json()["status"] == "canceled", "not canceled", 20)
    assert server.post(f"/evaluate/cancel/{eval_id}").status_code == 200


@pytest.mark.parametrize(
    "method, path", [("get", "/ollama/models"), ("post", "/ollama/pull?model_name=x"), ("get", "/ollama/stats")]
)
def test_ollama_paths_say_what_to_configure(server: Server, method: str, path: str) -> None:
    answer = getattr(server, method)(path)
    assert answer.status_code == 503 and "OLLAMA_HOST" in answer.json()["detail"]


def test_use_ollama_without_ollama_says_what_to_configure(server: Server) -> None:
    answer = server.post("/generate", {**request_of("/generate"), "use_ollama": True})
    assert answer.status_code == 503 and "OLLAMA_HOST" in answer.json()["detail"]


def test_errors_have_the_documents_shape(server: Server) -> None:
    example = next(each for each in blocks(DOCUMENT) if each.heading == "错误处理").value
    for answer, status in [
        (server.get("/no/such/path"), 404),
        (server.get("/generate"), 405),
        (server.post("/generate", {}), 400),
        (server.post("/generate", {"prompt": 5}), 400),
        (server.post("/generate", data="{broken"), 400),
        (server.get("/train/status/nobody"), 404),
        (server.get("/evaluate/results/nobody"), 404),
    ]:
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == set(example) and isinstance(answer.json()["detail"], str)


def test_the_documents_python_runs_as_it_stands(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code = block(DOCUMENT, "Python").text.replace("http://localhost:8000", server.url)
    exec(compile(code, "gpt-service.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "data: [DONE]" in printed


def test_the_documents_curl_runs_as_it_stands(server: Server) -> None:
    command = block(DOCUMENT, "cURL").text.replace("http://localhost:8000", server.url)
    done = subprocess.run(["bash", "-c", command.replace("curl", "curl -sS")], capture_output=True, timeout=60)
    assert same_shape(response_of("/generate"), json.loads(done.stdout)) == []


def test_the_interactive_documentation_is_there_and_asks_no_other_host(server: Server) -> None:
    assert "/generate" in server.get("/openapi.json").json()["paths"]
    page = server.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 3 and all(server.get(asset).status_code == 200 for asset in assets)
    assert "https://" not in page


def test_unloading_the_last_name_of_a_base_ends_its_engine(server: Server) -> None:
    body = {**request_of("/models/load"), "model_path": "tunesmith-small", "model_name": "small", "lora_adapter": None}
    assert server.post("/models/load", body).status_code == 200
    started = time.monotonic()
    assert server.post("/models/unload?model_name=small").status_code == 200
    assert time.monotonic() > started
    assert (
        server.post("/generate", {"prompt": "你好", "model_name": "tunesmith-small", "max_tokens": 4}).status_code
        == 200
    )
