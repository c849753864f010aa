"""A server with two users, as a stranger and as a user who means harm meets it."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server import Server, add_user, serving

PASSWORD = "a long enough password"
SECRET = "the canary of the neighbour"
API = "/api/v1"
OPEN_LIMITS = {
    "TUNESMITH_RATE_TRAINING": "100000",
    "TUNESMITH_RATE_INFERENCE": "100000",
    "TUNESMITH_RATE_OTHER": "100000",
}


@dataclass(frozen=True, slots=True)
class Attacker:
    """Somebody with a token, or with the header they made up."""

    server: Server
    headers: dict[str, str]

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return requests.request(method, self.server.url + path, headers=headers, timeout=60, **options)

    def post(self, path: str, body: object) -> requests.Response:
        return self.send("POST", API + path, json=body)

    def upload(self, content: bytes, filename: str = "x.json", **fields: str) -> requests.Response:
        file = {"file": (filename, io.BytesIO(content))}
        return self.send("POST", f"{API}/datasets/upload", data={"name": "x", **fields}, files=file)


def token_of(server: Server, name: str) -> str:
    answer = server.post(f"{API}/login", {"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("machine")
    home = root / "home"
    home.mkdir()
    for name in ("mallory", "alice"):
        add_user(home, name, PASSWORD)
    (root / "home_evil").mkdir()
    rows = json.dumps([{"instruction": SECRET, "input": "", "output": SECRET}] * 4)
    (root / "home_evil" / "train.json").write_text(rows)
    (root / "outside.json").write_text(rows)
    (home / "link.json").symlink_to(root / "outside.json")
    (home / "linked").symlink_to(root / "home_evil")
    with serving(home, OPEN_LIMITS) as running:
        yield running


@pytest.fixture(scope="package")
def mallory(server: Server) -> Attacker:
    return Attacker(server, {"Authorization": f"Bearer {token_of(server, 'mallory')}"})


@pytest.fixture(scope="package")
def alice(server: Server) -> Attacker:
    return Attacker(server, {"Authorization": f"Bearer {token_of(server, 'alice')}"})


def refused(answer: requests.Response, *statuses: int) -> dict[str, Any]:
    """The error of an answer that refuses in the document's shape and gives nothing away."""
    assert answer.status_code in (statuses or (400, 403, 404)), f"{answer.status_code} {answer.text[:500]}"
    body = answer.json()
    assert set(body) == {"error", "timestamp", "request_id"} and set(body["error"]) == {"code", "message", "details"}
    assert SECRET not in answer.text and "Traceback" not in answer.text and "/tmp/" not in answer.text
    found: dict[str, Any] = body["error"]
    return found


def tree(folder: Path) -> set[str]:
    """Every path below, but what the server itself keeps writing."""
    own = ("tunesmith.db", "server.log", "usage", "engines", "home/runs")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    # a run that was canceled a moment ago still writes into its folder, whatever is asked meanwhile
    return {path for path in found if not path.startswith("runs/") and not any(each in path for each in own)}
