"""``docs/spec/platform-v1.md``, replayed against a running server."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server import Server, add_user, serving, wait_until
from tests.spec.documents import blocks, same_shape

DOCUMENT = "platform-v1"
API = "/api/v1"
PASSWORD = "correct horse 电池"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
FIRMS = 100


def request_of(heading: str) -> Any:
    return example_of(heading, "请求示例")


def response_of(heading: str) -> Any:
    return example_of(heading, "响应")


def example_of(heading: str, role: str) -> Any:
    [found] = [each.value for each in blocks(DOCUMENT) if each.heading == heading and each.role == role]
    return found


@dataclass(frozen=True, slots=True)
class Client:
    """A client written for the document: it knows the base URL and its token."""

    server: Server
    token: str

    def get(self, path: str) -> requests.Response:
        return self.server.get(API + path, headers=self.headers)

    def post(self, path: str, body: object = None, **options: Any) -> requests.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return self.server.post(API + path, body, headers=headers, **options)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def log_in(server: Server, name: str) -> Client:
    answer = server.post(f"{API}/login", {"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return Client(server, answer.json()["token"])


def rows() -> list[dict[str, str]]:
    return [
        {"instruction": f"{n}号公司做什么？", "input": "", "output": f"{n}号公司做第{n}种生意。"} for n in range(FIRMS)
    ]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("platform")
    for name in ("amy", "bob"):
        add_user(home, name, PASSWORD)
    add_user(home, "root", PASSWORD, admin=True)
    often = dict.fromkeys(("TUNESMITH_RATE_TRAINING", "TUNESMITH_RATE_INFERENCE", "TUNESMITH_RATE_OTHER"), "5000")
    with serving(home, often) as running:
        yield running


@pytest.fixture(scope="module")
def amy(platform: Server) -> Client:
    return log_in(platform, "amy")


@pytest.fixture(scope="module")
def bob(platform: Server) -> Client:
    return log_in(platform, "bob")


def upload(client: Client, name: str, filename: str = "finance.json", **fields: str) -> requests.Response:
    content = json.dumps(rows(), ensure_ascii=False).encode()
    return requests.post(
        client.server.url + API + "/datasets/upload",
        headers=client.headers,
        data={"name": name, **fields},
        files={"file": (filename, content, "application/json")},
        timeout=60,
    )


@pytest.fixture(scope="module")
def sample(amy: Client) -> str:
    """The dataset that the document's examples train on."""
    raw = upload(amy, "样例").json()
    answer = amy.post(
        "/datasets/process", {**request_of("处理数据集"), "dataset_id": raw["id"], "output_name": "sample"}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output_path"])


@pytest.fixture(scope="module")
def tuned(amy: Client, sample: str) -> str:
    """The path of a model that amy has trained."""
    body = {"dataset_path": sample, "config": {"num_epochs": 1, "output_dir": "./models/first"}}
    answer = amy.post("/train", body)
    assert answer.status_code == 200, answer.text
    return str(finished(amy, answer.json()["task_id"])["model_path"])


def finished(client: Client, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(client.get(f"/train/status/{task_id}").json())
        return found["status"] in ("completed", "failed", "canceled")

    wait_until(ended, f"the run did not end: {found}", 100)
    assert found["status"] == "completed", found
    return found


def assert_like(example: Any, answer: requests.Response) -> None:
    assert answer.status_code == 200, answer.text
    assert same_shape(example, answer.json()) == []


def test_every_fenced_example_of_the_document_is_replayed_here() -> None:
    source = Path(__file__).read_text()
    headings = {each.heading for each in blocks(DOCUMENT) if each.language == "json"}
    assert headings == set(HEADINGS)
    assert all(source.count(f'"{heading}"') >= 2 for heading in headings)


HEADINGS = (
    "登录获取令牌",
    "启动训练任务",
    "获取训练状态",
    "取消训练任务",
    "生成文本",
    "批量生成文本",
    "获取可用模型列表",
    "获取模型详情",
    "获取数据集列表",
    "上传数据集",
    "处理数据集",
    "错误代码",
)


def test_login_gives_a_bearer_token_for_an_hour(platform: Server) -> None:
    answer = platform.post(f"{API}/login", {"username": "amy", "password": PASSWORD})
    assert_like(response_of("登录获取令牌"), answer)
    assert answer.json()["expires_in"] == 3600 and answer.json()["token_type"] == "Bearer"
    assert answer.json()["token"].startswith("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.")


def test_training_starts_with_the_documents_example_body(amy: Client, sample: str) -> None:
    assert sample == "data/processed/sample"
    answer = amy.post("/train", request_of("启动训练任务"))
    assert_like(response_of("启动训练任务"), answer)
    body = answer.json()
    assert (body["status"], body["message"]) == ("started", "训练任务已启动")
    assert str(uuid.UUID(body["task_id"])) == body["task_id"] and TIME.fullmatch(body["created_at"])
    example = response_of("取消训练任务")
    canceled = amy.post(f"/train/cancel/{body['task_id']}")
    assert_like(example, canceled)
    assert canceled.json()["message"] == example["message"]
    again = amy.post(f"/train/cancel/{body['task_id']}")
    assert (again.status_code, again.json()["canceled_at"]) == (200, canceled.json()["canceled_at"])
    assert amy.get(f"/train/status/{body['task_id']}").json()["status"] == "canceled"


def test_the_status_has_the_documents_fields_and_states(amy: Client, tuned: str) -> None:
    answer = amy.post("/train", {"dataset_path": "/data/processed/sample", "config": {"num_epochs": 50}})
    task = answer.json()["task_id"]
    wait_until(lambda: amy.get(f"/train/status/{task}").json()["metrics"], "no figures came", 60)
    running = amy.get(f"/train/status/{task}")
    assert_like(response_of("获取训练状态"), running)
    assert running.json()["status"] == "running" and 0 < running.json()["progress"] < 100
    waiting = amy.post("/train", {"dataset_path": "/data/processed/sample"}).json()["task_id"]
    assert amy.get(f"/train/status/{waiting}").json()["status"] == "queued"
    assert amy.post(f"/train/cancel/{waiting}").json()["status"] == "canceled"
    assert amy.post(f"/train/cancel/{task}").json()["status"] == "canceled"
    platform = amy.server
    failing = platform.home / "data" / "broken.jsonl"
    failing.write_text('{"instruction": "a", "output": "b"}\n{"instruction": 5, "output": "b"}\n')
    failed = amy.post("/train", {"dataset_path": "data/broken.jsonl"}).json()["task_id"]
    wait_until(lambda: amy.get(f"/train/status/{failed}").json()["status"] == "failed", "it did not fail", 60)
    assert "broken.jsonl:2" in amy.get(f"/train/status/{failed}").json()["error"]


def test_a_run_that_has_ended_cannot_be_canceled(amy: Client, tuned: str) -> None:
    body = {"dataset_path": "data/processed/sample", "config": {"num_epochs": 1}}
    task = amy.post("/train", body).json()["task_id"]
    assert finished(amy, task)["model_path"].startswith("models/checkpoints/sample")
    answer = amy.post(f"/train/cancel/{task}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")


def test_the_defaults_are_the_documents(amy: Client, tuned: str) -> None:
    [model] = [each for each in amy.get("/models").json()["models"] if each["path"] == tuned]
    config = amy.get(f"/models/{model['id']}").json()["training_config"]
    assert config["learning_rate"] == 3e-5 and config["batch_size"] == 8
    assert (config["lora_r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.05)
    assert config["quantization"] is None


def test_the_default_output_said_aloud_is_still_the_default(amy: Client, tuned: str) -> None:
    for config in ({"output_dir": "./models/checkpoints"}, {"output_dir": "/models/checkpoints/"}, None):
        body = {"dataset_path": "data/processed/sample", "config": config, "lora_config": None}
        answer = amy.post("/train", body)
        assert answer.status_code == 200, answer.text
        assert amy.post(f"/train/cancel/{answer.json()['task_id']}").status_code == 200


def test_generate_answers_from_the_newest_model(amy: Client, tuned: str) -> None:
    answer = amy.post("/generate", request_of("生成文本"))
    assert_like(response_of("生成文本"), answer)
    assert answer.json()["prompt"] == request_of("生成文本")["prompt"]
    assert answer.json()["model_path"].startswith("models/") and TIME.fullmatch(answer.json()["timestamp"])
    assert amy.post("/generate", {"prompt": "你好", "model_path": tuned}).json()["model_path"] == tuned


def test_many_sequences_are_distinct_samples_and_a_batch_keeps_its_order(amy: Client, tuned: str) -> None:
    sampled = {"prompt": "讲一个故事", "temperature": 5, "num_return_sequences": 4, "max_length": 24}
    texts = amy.post("/generate", sampled).json()["generated_texts"]
    assert len(texts) == 4 and len(set(texts)) > 1
    example = request_of("批量生成文本")
    answer = amy.post("/generate/batch", example)
    assert_like(response_of("批量生成文本"), answer)
    assert [each["prompt"] for each in answer.json()["results"]] == example["prompts"]
    greedy = {"temperature": 0, "max_length": 16}
    alone = [
        amy.post("/generate", {"prompt": each, **greedy}).json()["generated_texts"][0] for each in example["prompts"]
    ]
    together = amy.post("/generate/batch", {"prompts": example["prompts"], **greedy}).json()["results"]
    assert [each["generated_texts"] for each in together] == [[text] for text in alone]


def test_models_are_listed_and_shown_with_true_counts(amy: Client, tuned: str) -> None:
    listed = amy.get("/models")
    assert_like(response_of("获取可用模型列表"), listed)
    assert listed.json()["count"] == len(listed.json()["models"])
    [model] = [each for each in listed.json()["models"] if each["path"] == tuned]
    before = amy.get(f"/models/{model['id']}").json()["usage_count"]
    for _ in range(3):
        assert amy.post("/generate", {"prompt": "你好", "model_path": tuned, "max_length": 2}).status_code == 200
    shown = amy.get(f"/models/{model['id']}")
    assert_like(response_of("获取模型详情"), shown)
    assert shown.json()["usage_count"] == before + 3 and TIME.fullmatch(shown.json()["last_used"])
    assert set(shown.json()["metrics"]) == {"perplexity", "train_loss", "val_loss"}


def test_a_description_can_be_changed_and_stays(amy: Client, tuned: str) -> None:
    [model] = [each for each in amy.get("/models").json()["models"] if each["path"] == tuned]
    url = f"{amy.server.url}{API}/models/{model['id']}"
    answer = requests.patch(url, json={"description": "问答模型"}, headers=amy.headers, timeout=60)
    assert answer.json()["description"] == "问答模型"
    [model] = [each for each in amy.get("/models").json()["models"] if each["path"] == tuned]
    assert model["description"] == "问答模型"


def test_a_model_is_seen_by_all_but_changed_and_explained_to_its_owner(amy: Client, bob: Client, tuned: str) -> None:
    [model] = [each for each in bob.get("/models").json()["models"] if each["path"] == tuned]
    url = f"{bob.server.url}{API}/models/{model['id']}"
    answer = requests.patch(url, json={"description": "hacked"}, headers=bob.headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert bob.get(f"/models/{model['id']}").json()["training_config"]["dataset_path"] is None
    assert amy.get(f"/models/{model['id']}").json()["training_config"]["dataset_path"] == "data/processed/sample"


def test_upload_process_and_list_answer_as_the_document_shows(amy: Client) -> None:
    raw = upload(amy, "金融领域数据集", description="金融领域专业问答数据集", format="json")
    assert_like(response_of("上传数据集"), raw)
    assert raw.json()["path"].startswith("data/raw/finance") and raw.json()["samples_count"] == FIRMS
    assert raw.json()["message"] == response_of("上传数据集")["message"]
    done = amy.post("/datasets/process", {**request_of("处理数据集"), "dataset_id": raw.json()["id"]})
    assert_like(response_of("处理数据集"), done)
    assert done.json()["output_path"] == response_of("处理数据集")["output_path"]
    assert done.json()["splits"] == {"train": 80, "validation": 10, "test": 10}
    assert done.json()["status"] == "completed" and uuid.UUID(done.json()["task_id"])
    listed = amy.get("/datasets")
    assert_like(response_of("获取数据集列表"), listed)
    assert {"data/processed/finance_processed", raw.json()["path"]} <= {d["path"] for d in listed.json()["datasets"]}


def test_the_template_decides_what_is_asked_and_what_is_answered(amy: Client, sample: str) -> None:
    folder = amy.server.home / sample
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    asked, answered = (each["content"] for each in first["messages"])
    assert re.fullmatch(r"### 指令:\n\d+号公司做什么？\n\n### 回答:\n", asked)
    assert re.fullmatch(r"\d+号公司做第\d+种生意。", answered)
    assert (folder / "train.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"max_length": 5}, 400, "INVALID_REQUEST", "prompt"),
        ({"prompt": "  "}, 400, "INVALID_REQUEST", "prompt"),
        ({"prompt": "x", "max_length": "5"}, 400, "INVALID_REQUEST", "max_length"),
        ({"prompt": "x", "max_length": 0}, 400, "INVALID_REQUEST", "max_length"),
        ({"prompt": "x", "top_p": 0}, 400, "INVALID_REQUEST", "top_p"),
        ({"prompt": "x", "num_return_sequences": 10**6}, 400, "INVALID_REQUEST", "num_return_sequences"),
        ({"prompt": "x", "model_path": "../../etc/passwd"}, 404, "NOT_FOUND", None),
        ({"prompt": "x", "model_path": "models/none"}, 404, "NOT_FOUND", None),
    ],
)
def test_bad_requests_have_the_documents_error_body(
    amy: Client, body: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    example = example_of("错误代码", "错误响应示例")
    answer = amy.post("/generate", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert set(answer.json()) == set(example) and set(answer.json()["error"]) == set(example["error"])
    assert TIME.fullmatch(answer.json()["timestamp"])
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    if field is not None:
        assert answer.json()["error"]["details"]["field"] == field


def test_a_missing_prompt_is_told_in_the_documents_words(amy: Client) -> None:
    example = example_of("错误代码", "错误响应示例")["error"]
    assert amy.post("/generate", {}).json()["error"] == example


@pytest.mark.parametrize("token", [None, "x", "a.b.c"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/train"),
        ("GET", "/train/status/12345678-1234-5678-1234-567812345678"),
        ("POST", "/train/cancel/12345678-1234-5678-1234-567812345678"),
        ("POST", "/generate"),
        ("POST", "/generate/batch"),
        ("GET", "/models"),
        ("GET", "/models/model_1"),
        ("GET", "/datasets"),
        ("POST", "/datasets/upload"),
        ("POST", "/datasets/process"),
        ("GET", "/nowhere"),
        ("GET", ""),
        ("DELETE", "/models"),
    ],
)
def test_every_path_wants_a_token(platform: Server, method: str, path: str, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.request(method, platform.url + API + path, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/models", 405), ("GET", "/generate", 405)]
)
def test_unknown_paths_and_methods_have_the_documents_error_body(
    amy: Client, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, amy.server.url + API + path, headers=amy.headers, timeout=60)
    assert answer.status_code == status and set(answer.json()) == {"error", "timestamp", "request_id"}


def test_bad_json_is_told_and_an_id_of_the_client_comes_back(amy: Client) -> None:
    headers = {**amy.headers, "X-Request-ID": "req-12345678", "Content-Type": "application/json"}
    answer = requests.post(amy.server.url + API + "/generate", data=b"{", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["request_id"]) == (400, "req-12345678")


def test_limits_are_told_on_every_answer(amy: Client, bob: Client) -> None:
    first, second = bob.get("/models"), bob.get("/models")
    assert int(first.headers["X-RateLimit-Limit"]) == 5000
    left = [int(each.headers["X-RateLimit-Remaining"]) for each in (first, second)]
    assert left[1] == left[0] - 1
    assert time.time() < int(first.headers["X-RateLimit-Reset"]) <= time.time() + 61
    assert int(amy.post("/generate", {}).headers["X-RateLimit-Limit"]) == 5000


def test_another_users_records_are_like_missing_ones(amy: Client, bob: Client, sample: str, tuned: str) -> None:
    task = amy.post("/train", {"dataset_path": sample, "config": {"num_epochs": 50}}).json()["task_id"]
    raw = upload(amy, "私有数据").json()
    missing = str(uuid.uuid4())
    for theirs, none in (
        (bob.get(f"/train/status/{task}"), bob.get(f"/train/status/{missing}")),
        (bob.post(f"/train/cancel/{task}"), bob.post(f"/train/cancel/{missing}")),
        (
            bob.post("/datasets/process", {"dataset_id": raw["id"], "output_name": "x"}),
            bob.post("/datasets/process", {"dataset_id": "dataset_0123456789ab", "output_name": "x"}),
        ),
        (bob.post("/train", {"dataset_path": sample}), bob.post("/train", {"dataset_path": "data/processed/none"})),
        (bob.post("/train", {"dataset_path": raw["path"]}), bob.post("/train", {"dataset_path": "data/raw/none.json"})),
        (
            bob.post("/train", {"dataset_path": f"{sample}/train.jsonl"}),
            bob.post("/train", {"dataset_path": "data/processed/none/train.jsonl"}),
        ),
    ):
        assert theirs.status_code == none.status_code == 404, theirs.text
        known = {task, raw["id"], raw["path"], sample, missing, "dataset_0123456789ab"}
        texts = [
            re.sub("|".join(map(re.escape, known)), "", each.json()["error"]["message"]) for each in (theirs, none)
        ]
        assert len(texts[0]) <= len(texts[1]) + 24
    assert bob.get("/datasets").json()["datasets"] == []
    root = log_in(amy.server, "root")
    assert root.get(f"/train/status/{task}").status_code == 200
    assert root.post(f"/train/cancel/{task}").json()["status"] == "canceled"


def test_one_scenario_in_order(platform: Server) -> None:
    """Log in, upload, process, train, watch, cancel another, list, ask the new model, ask it in a batch."""
    client = log_in(platform, "bob")
    raw = upload(client, "流程").json()
    done = client.post("/datasets/process", {"dataset_id": raw["id"], "output_name": "scenario"}).json()
    assert done["splits"] == {"train": 80, "validation": 10, "test": 10}
    settings = {"learning_rate": 2e-4, "num_epochs": 2, "output_dir": "./models/scenario"}
    task = client.post("/train", {"dataset_path": "/" + done["output_path"], "config": settings}).json()["task_id"]
    other = client.post("/train", {"dataset_path": done["output_path"]}).json()["task_id"]
    assert client.post(f"/train/cancel/{other}").json()["status"] == "canceled"
    status = finished(client, task)
    assert status["progress"] == 100.0 and status["metrics"]["train_loss"] > 0
    paths = [each["path"] for each in client.get("/models").json()["models"]]
    assert status["model_path"] == "models/scenario/final" and status["model_path"] in paths
    answer = client.post("/generate", {"prompt": "3号公司做什么？"}).json()
    assert answer["model_path"] == "models/scenario/final"
    batch = client.post("/generate/batch", {"prompts": ["1号公司做什么？", "2号公司做什么？"]}).json()
    assert [len(each["generated_texts"]) for each in batch["results"]] == [1, 1]


def test_a_repeated_request_with_an_idempotency_key_starts_one_run(amy: Client, sample: str) -> None:
    headers = {"Idempotency-Key": "one-and-only"}
    body = {"dataset_path": sample, "config": {"num_epochs": 50}}
    first, second = (amy.post("/train", body, headers=headers) for _ in range(2))
    assert first.json()["task_id"] == second.json()["task_id"]
    other = amy.post("/train", {**body, "lora_config": {"r": 4}}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "CONFLICT")
    assert amy.post(f"/train/cancel/{first.json()['task_id']}").status_code == 200
