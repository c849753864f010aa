"""Asking too often, for too much, or with numbers that are none."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.attacks.conftest import API, PASSWORD, Attacker, refused, token_of
from tests.server import Server, add_user, serving


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the document's own limits."""
    home = tmp_path_factory.mktemp("strict")
    for name in ("carol", "dave", "erin", "frank"):
        add_user(home, name, PASSWORD)
    with serving(home) as running:
        yield running


def command(server: Server, *verb: str, text: str = "") -> str:
    """What the command line prints."""
    run = [sys.executable, "-m", "tunesmith.cli", *verb, "--home", str(server.home)]
    return subprocess.run(run, input=text, text=True, check=True, capture_output=True).stdout


def test_parallel_callers_get_exactly_the_limit(strict: Server) -> None:
    headers = {"Authorization": f"Bearer {token_of(strict, 'carol')}"}

    def ask(_: int) -> requests.Response:
        return requests.post(f"{strict.url}{API}/generate", json={}, headers=headers, timeout=60)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(100)))
    statuses = [each.status_code for each in answers]
    assert (statuses.count(400), statuses.count(429)) == (60, 40)
    over = next(each for each in answers if each.status_code == 429)
    assert over.json()["error"]["code"] == "TOO_MANY_REQUESTS"
    assert over.headers["X-RateLimit-Limit"] == "60" and over.headers["X-RateLimit-Remaining"] == "0"
    assert 1 <= int(over.headers["Retry-After"]) <= 60
    other = requests.get(f"{strict.url}{API}/models", headers=headers, timeout=60)
    assert other.status_code == 200 and other.headers["X-RateLimit-Limit"] == "120"


def test_ten_trainings_an_hour(strict: Server) -> None:
    headers = {"Authorization": f"Bearer {token_of(strict, 'dave')}"}
    statuses = [
        requests.post(f"{strict.url}{API}/train", json={}, headers=headers, timeout=60).status_code for _ in range(12)
    ]
    assert statuses == [400] * 10 + [429] * 2


def test_forwarded_addresses_do_not_dodge_the_limit(strict: Server) -> None:
    answers = [
        requests.get(
            f"{strict.url}{API}/models",
            headers={"X-Forwarded-For": f"10.0.0.{n}", "Forwarded": f"for=10.0.1.{n}", "X-Real-IP": f"10.1.0.{n}"},
            timeout=60,
        )
        for n in range(140)
    ]
    statuses = [each.status_code for each in answers]
    assert set(statuses) == {401, 429} and statuses[-1] == 429 and statuses.count(401) <= 120


def test_guessing_a_password_gets_slower_and_does_not_lock_the_owner_out_of_her_token(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("guessing")
    add_user(home, "erin", PASSWORD)
    with serving(home) as server:
        token = token_of(server, "erin")
        answers = [server.post(f"{API}/login", {"username": "erin", "password": f"guess {n}"}) for n in range(8)]
        assert [each.status_code for each in answers[:3]] == [401] * 3 and answers[-1].status_code == 429
        refused(answers[-1], 429)
        assert int(answers[-1].headers["Retry-After"]) >= 1
        # the right password is not even looked at now
        assert server.post(f"{API}/login", {"username": "erin", "password": PASSWORD}).status_code == 429
        good = {"Authorization": f"Bearer {token}"}
        assert requests.get(f"{server.url}{API}/models", headers=good, timeout=60).status_code == 200


def test_tokens_and_keys_stop_with_the_user_and_live_over_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("stopping")
    for name in ("erin", "frank", "root"):
        add_user(home, name, PASSWORD)

    def enter(server: Server, bearer: str) -> int:
        headers = {"Authorization": f"Bearer {bearer}"}
        return requests.get(f"{server.url}{API}/models", headers=headers, timeout=60).status_code

    with serving(home) as server:
        token, other = token_of(server, "erin"), token_of(server, "frank")
        key = command(server, "keys", "create", "--user", "erin").strip()
        assert key.startswith("tsk_") and enter(server, key) == 200
    with serving(home) as server:
        assert [enter(server, each) for each in (token, other, key)] == [200] * 3
        command(server, "users", "passwd", "frank", "--password-stdin", text="another long password")
        assert enter(server, other) == 401
        command(server, "users", "disable", "erin")
        assert [enter(server, each) for each in (token, key)] == [401] * 2
        command(server, "users", "enable", "erin")
        assert enter(server, token) == 401
        assert enter(server, key) == 200
        command(server, "keys", "revoke", key.split("_")[1])
        assert enter(server, key) == 401


BODIES: dict[str, dict[str, Any]] = {
    "max_length zero": {"max_length": 0},
    "max_length negative": {"max_length": -1},
    "max_length huge": {"max_length": 10**12},
    "max_length a float": {"max_length": 1.5},
    "max_length beyond 64 bits": {"max_length": 10**30},
    "temperature negative": {"temperature": -1},
    "temperature huge": {"temperature": 1e300},
    "top_p zero": {"top_p": 0},
    "top_p over one": {"top_p": 1.1},
    "top_k negative": {"top_k": -1},
    "many sequences": {"num_return_sequences": 10**9},
    "sequences at temperature zero": {"num_return_sequences": 2, "temperature": 0},
    "a boolean": {"max_length": True},
    "a string": {"temperature": "0.7"},
    "null": {"temperature": None},
}


@pytest.mark.parametrize("label", BODIES)
def test_numbers_out_of_range(mallory: Attacker, label: str) -> None:
    refused(mallory.post("/generate", {"prompt": "x", **BODIES[label]}), 400)
    refused(mallory.post("/generate/batch", {"prompts": ["x"], **BODIES[label]}), 400)


TRAIN: dict[str, dict[str, Any]] = {
    "epochs": {"config": {"num_epochs": 10**9}},
    "batch size": {"config": {"batch_size": 10**9}},
    "no batch": {"config": {"batch_size": 0}},
    "learning rate": {"config": {"learning_rate": 1e308}},
    "negative rate": {"config": {"learning_rate": -1}},
    "rank": {"lora_config": {"r": 10**9}},
    "dropout": {"lora_config": {"lora_dropout": 1.5}},
    "alpha": {"lora_config": {"lora_alpha": -1}},
    "quantization": {"config": {"quantization": "int2"}},
    "mistyped": {"config": {"learningrate": 1}},
    "config a list": {"config": []},
}


@pytest.mark.parametrize("label", TRAIN)
def test_recipes_out_of_range(mallory: Attacker, label: str) -> None:
    refused(mallory.post("/train", {"dataset_path": "data/none.json", **TRAIN[label]}))


RAW = {
    "nan": b'{"prompt": "x", "temperature": NaN}',
    "infinity": b'{"prompt": "x", "temperature": Infinity}',
    "over a double": b'{"prompt": "x", "temperature": 1e400}',
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "big integer": b'{"prompt": "x", "max_length": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "not utf-8": b'{"prompt": "\xff"}',
    "cut": b'{"prompt": "x"',
    "two documents": b'{"prompt": "x"}{}',
    "an array": b"[]",
    "nothing": b"",
    "null": b"null",
}


@pytest.mark.parametrize("label", RAW)
def test_json_that_is_none(mallory: Attacker, label: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused(mallory.send("POST", f"{API}/generate", data=RAW[label], headers=headers), 400)


def test_too_many_prompts(mallory: Attacker) -> None:
    refused(mallory.post("/generate/batch", {"prompts": ["x"] * 5000}), 400)
    refused(mallory.post("/generate/batch", {"prompts": ["x"] * 100, "num_return_sequences": 64}), 400)
    refused(mallory.post("/generate/batch", {"prompts": []}), 400)


def test_a_prompt_longer_than_the_context(mallory: Attacker) -> None:
    refused(mallory.post("/generate", {"prompt": "long " * 100_000}), 400)


@pytest.mark.parametrize(
    "ratios",
    [
        {"train_ratio": 0.5},
        {"train_ratio": 2, "val_ratio": -0.5, "test_ratio": -0.5},
        {"train_ratio": 0, "val_ratio": 0, "test_ratio": 0},
        {"train_ratio": "0.8"},
    ],
)
def test_ratios_that_do_not_sum_to_one(mallory: Attacker, ratios: dict[str, Any]) -> None:
    body = {"dataset_id": "dataset_0123456789ab", "output_name": "x", **ratios}
    refused(mallory.post("/datasets/process", body), 400, 404)


@pytest.mark.parametrize("value", ["", "a" * 300, "x y", "ключ"])
def test_request_ids_and_idempotency_keys_from_outside_are_checked(mallory: Attacker, value: str) -> None:
    answer = mallory.send("GET", f"{API}/models", headers={"X-Request-ID": value.encode()})
    assert answer.headers["X-Request-ID"] != value and answer.headers["X-Request-ID"].startswith("req-")
    if value:
        headers = {"Idempotency-Key": value.encode()}
        refused(mallory.send("POST", f"{API}/train", json={"dataset_path": "data/none.json"}, headers=headers))
