"""Who may reach the dialects that know no token: everybody on loopback, users elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.server import Server, add_user, serving

PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that other machines can reach."""
    home = tmp_path_factory.mktemp("shared")
    for name in ("ann", "ben"):
        add_user(home, name, PASSWORD)
    add_user(home, "root", PASSWORD, admin=True)
    (home / "data").mkdir(exist_ok=True)
    rows = [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in range(40)]
    (home / "data" / "train.json").write_text(json.dumps(rows))
    with serving(home, {"TUNESMITH_RATE_OTHER": "5000"}, ("--host", "0.0.0.0")) as running:
        yield running


def headers_of(server: Server, name: str) -> dict[str, str]:
    answer = server.post("/api/v1/login", {"username": name, "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_every_path_of_every_dialect_wants_a_token_but_health_and_login(shared: Server) -> None:
    ann = headers_of(shared, "ann")
    paths = [
        (method, prefix + path)
        for prefix in ("", "/ai", "/api/v1", "/api/chat", "/api/finetune")
        for path, methods in shared.get(f"{prefix}/openapi.json", headers=ann).json()["paths"].items()
        for method in methods
    ]
    assert len(paths) > 90
    undescribed = [("get", "/v1/models"), ("post", "/v1/chat/completions"), ("get", "/metrics")]
    for method, path in [
        *paths,
        *undescribed,
        ("get", "/docs"),
        ("get", "/openapi.json"),
        ("get", "/nowhere"),
        ("post", "/ai/x"),
    ]:
        answer = requests.request(method, shared.url + path, timeout=60)
        opened = (method, path) in (("get", "/health"), ("post", "/api/v1/login"))
        assert (answer.status_code == 401) is not opened, (method, path)
    assert shared.get("/health").status_code == 200


def test_a_token_opens_the_other_dialects_and_shows_each_user_their_own(shared: Server) -> None:
    ann, ben, root = (headers_of(shared, name) for name in ("ann", "ben", "root"))
    body = {"base_model": "tunesmith-small", "dataset_path": "data/train.json", "num_epochs": 50}
    started = shared.post("/train", body, headers=ann)
    assert started.status_code == 200, started.text
    task = started.json()["task_id"]
    questions = {"test_data": [{"input": "你好", "expected": "你好"}], "metrics": ["exact_match"]}
    measured = shared.post("/evaluate", questions, headers=ann).json()["eval_id"]

    def seen(headers: dict[str, str]) -> tuple[int, int, int]:
        history = shared.get("/train/history", headers=headers).json()["total_count"]
        status = shared.get(f"/train/status/{task}", headers=headers).status_code
        return history, status, shared.get(f"/evaluate/results/{measured}", headers=headers).status_code

    assert [seen(each) for each in (ann, ben, root)] == [(1, 200, 200), (0, 404, 404), (1, 200, 200)]
    for path in (f"/train/cancel/{task}", f"/evaluate/cancel/{measured}"):
        assert shared.post(path, headers=ben).status_code == 404
    assert shared.post(f"/train/cancel/{task}", headers=root).status_code == 200


def test_insecure_open_wants_no_token_and_says_so_loudly(tmp_path: Path) -> None:
    with serving(tmp_path, options=("--host", "0.0.0.0", "--insecure-open")) as server:
        assert server.get("/models").status_code == 200
        assert server.get("/api/v1/models").status_code == 401
        assert "!! 警告" in server.log()


def test_a_server_without_users_says_how_to_make_one(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert "tunesmith users add" in server.log()
        assert server.get("/models").status_code == 200
        assert server.post("/api/v1/login", {"username": "admin", "password": "admin"}).status_code == 401


def test_what_is_loaded_is_changed_by_admins_alone(shared: Server) -> None:
    ann, root = headers_of(shared, "ann"), headers_of(shared, "root")
    body = {"model_name": "mine", "model_path": "tunesmith-small"}
    for path in ("/models/load", "/models/switch?model_name=mine", "/models/unload?model_name=mine"):
        assert shared.post(path, body, headers=ann).status_code == 403
    for path in ("/models/load", "/models/switch?model_name=mine", "/models/unload?model_name=mine"):
        assert shared.post(path, body, headers=root).status_code == 200


def test_known_callers_are_counted_whichever_dialect_they_speak(shared: Server) -> None:
    ben = headers_of(shared, "ben")
    left = []
    for path in ("/generate", "/ai/chat", "/api/v1/generate"):
        answer = shared.post(path, {}, headers=ben)
        assert answer.status_code == 400 and answer.headers["X-RateLimit-Limit"] == "60"
        left.append(int(answer.headers["X-RateLimit-Remaining"]))
    assert left == [left[0], left[0] - 1, left[0] - 2]


def test_a_server_behind_a_proxy_can_want_a_token_on_loopback(tmp_path: Path) -> None:
    with serving(tmp_path, options=("--require-token",)) as server:
        assert server.get("/models").status_code == 401
        assert server.post("/ai/chat", {}).status_code == 401
        assert server.get("/health").status_code == 200


def test_an_adapter_cannot_take_the_name_of_a_base_model(shared: Server) -> None:
    body = {"base_model": "tunesmith-small", "dataset_path": "data/train.json", "output_dir": "tunesmith-small"}
    assert shared.post("/train", body, headers=headers_of(shared, "ben")).status_code == 409
