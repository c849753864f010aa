"""Two servers on one database follow an alias; a stream under way ends with the adapter it began with."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server import Server, serving
from tests.tiny_model import make_tiny_adapter, make_tiny_base

OLD, NEW = "adapters/town-old", "adapters/town-new"
TOKENS = 1500  # of which a fast engine makes some thousands a second
STREAMS = 24


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    home = tmp_path_factory.mktemp("home")
    base = make_tiny_base(home / "models" / "tiny", endless=True, context=2048)
    for seed, name in enumerate((OLD, NEW), start=1):
        folder = make_tiny_adapter(base, home / name, seed=seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiny"}))
    rows = [{"prompt": f"{n}?", "completion": f"{n}!"} for n in range(8)]
    (home / "data").mkdir()
    (home / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ExitStack() as running:
        yield running.enter_context(serving(home)), running.enter_context(serving(home))


def body(model: str, tokens: int = TOKENS) -> dict[str, Any]:
    return {
        "prompt": "Who is the mayor?", "model_name": model, "max_tokens": tokens, "temperature": 0,
        "repetition_penalty": 1.0,
    }  # fmt: skip


def stream(server: Server, model: str, begun: threading.Event | None = None) -> tuple[str, dict[str, Any], float]:
    """Text, last frame, and when the last text came."""
    with requests.post(f"{server.url}/generate/stream", json=body(model), stream=True, timeout=60) as answer:
        assert answer.status_code == 200, answer.text
        texts, came = [], 0.0
        for line in answer.iter_lines(chunk_size=None):
            if not line.startswith(b"data: {"):
                continue
            frame = json.loads(line.removeprefix(b"data: "))
            if frame["done"]:
                return "".join(texts), frame, came
            texts.append(frame["text"])
            came = time.monotonic()
            if begun is not None:
                begun.set()
    raise AssertionError("the stream ended without a last frame")


def point(server: Server, adapter: str, **more: Any) -> requests.Response:
    return server.post("/aliases/prod", {"adapter": adapter, "force": True, **more})


def test_a_stream_across_a_promotion_keeps_its_adapter_and_the_next_has_the_new_one_on_both_servers(
    servers: tuple[Server, Server],
) -> None:
    one, two = servers
    alone = {name: stream(one, name)[0] for name in (OLD, NEW)}
    assert alone[OLD] != alone[NEW]
    assert point(one, OLD).json()["version"] == "town-old@1"
    begun = [threading.Event() for _ in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:  # so many that they take longer than an alias takes to move
        running = [pool.submit(stream, one, "prod", each) for each in begun]
        assert all(each.wait(60) for each in begun)
        moved = point(two, NEW)
        at = time.monotonic()
        assert moved.status_code == 200 and moved.json()["version"] == "town-new@1", moved.text
        streams = [each.result(60) for each in running]
    assert max(came for _, _, came in streams) > at, "the streams were over before the alias moved"
    assert {text for text, _, _ in streams} == {alone[OLD]}
    assert {(last["model_name"], last["model_version"]) for _, last, _ in streams} == {("prod", "town-old@1")}

    after, last, _ = stream(one, "prod")
    assert after == alone[NEW] and last["model_version"] == "town-new@1"
    assert one.post("/aliases/prod/rollback").json()["version"] == "town-old@1"
    assert two.get("/models/prod").json()["version"] == "town-old@1"


def test_every_dialect_answers_to_an_alias_and_says_who_spoke(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    assert point(one, NEW).status_code == 200
    shown = one.get("/models/prod").json()
    assert (shown["name"], shown["lora_adapter"], shown["version"]) == ("prod", NEW, "town-new@1")
    chat = one.post("/api/chat/send", {"message": "hi", "service": "local", "model": "prod", "max_tokens": 3})
    assert (chat.headers["X-Model-Asked"], chat.headers["X-Model-Resolved"]) == ("prod", "town-new@1")
    assert chat.headers["X-Model-Resolved-By"] == "alias"
    assert '"model":"town-new@1"' in chat.text
    offered = one.get("/api/chat/models").json()["services"][0]["models"]
    assert "prod" in [each["id"] for each in offered]
    named = one.post("/generate", body("town-old@1", 3)).json()
    assert (named["model_name"], named["model_version"]) == ("town-old@1", "town-old@1")
    assert "model_version" not in one.post("/generate", body(OLD, 3)).json()


def test_an_alias_is_moved_after_a_comparison_and_its_history_can_be_read(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    asked = {"adapter": OLD, "test": "data/rows.jsonl", "metrics": ["exact_match"], "max_tokens": 2}
    answer = one.post("/aliases/stage", asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["report"]["sets"][0]["result"]["count"] == 8
    compared = one.post("/aliases/stage", {**asked, "adapter": "town-new@1"}).json()
    assert compared["moved"] and compared["report"]["before"] == "town-old@1"
    history = one.get("/aliases/stage").json()["history"]
    assert [(each["kind"], each["version"]) for each in history] == [
        ("promoted", "town-new@1"), ("promoted", "town-old@1"),
    ]  # fmt: skip
    assert history[0]["moved_by"] == "local" and history[0]["report"] == compared["report"]
    assert {each["name"] for each in one.get("/aliases").json()["aliases"]} >= {"stage"}


def test_a_version_that_lost_what_the_one_before_knew_is_refused_and_the_figure_named(
    servers: tuple[Server, Server],
) -> None:
    one, _ = servers
    prompts = [f"question {n}" for n in range(12)]
    texts = one.post("/batch", {**body(OLD, 4), "prompts": prompts}).json()["results"]
    known = [
        {"prompt": p, "completion": r["text"]} for p, r in zip(prompts, texts, strict=True) if any(map(str.isalnum, r["text"]))
    ]  # fmt: skip
    assert len(known) >= 8
    (one.home / "data" / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    asked = {"test": "data/rows.jsonl", "control": "data/known.jsonl", "metrics": ["exact_match"], "max_tokens": 4}
    assert one.post("/aliases/live", {**asked, "adapter": OLD}).status_code == 200
    refused = one.post("/aliases/live", {**asked, "adapter": NEW}, headers={"Accept-Language": "en"})
    assert refused.status_code == 409 and set(refused.json()) == {"detail"}
    assert "data/known.jsonl exact_match 1.000" in refused.json()["detail"], refused.text
    assert one.get("/aliases/live").json()["version"] == "town-old@1"


def test_a_removed_alias_is_known_to_no_server_and_what_it_pointed_at_still_answers(
    servers: tuple[Server, Server],
) -> None:
    one, two = servers
    assert one.post("/aliases/spare", {"adapter": OLD, "force": True}).status_code == 200
    assert two.get("/models/spare").json()["version"] == "town-old@1"
    removed = one.delete("/aliases/spare")
    assert removed.status_code == 200, removed.text
    assert (removed.json()["status"], removed.json()["version"]) == ("success", "town-old@1")
    for answer in (one.post("/generate", body("spare", 2)), two.get("/aliases/spare"), two.delete("/aliases/spare")):
        assert answer.status_code == 404 and "spare" in answer.json()["detail"], answer.text
    assert "spare" not in [each["name"] for each in two.get("/aliases").json()["aliases"]]
    assert one.post("/generate", body(OLD, 2)).status_code == 200


@pytest.mark.parametrize(
    "path, sent, status",
    [
        ("/aliases/No", {"adapter": NEW, "force": True}, 400),
        ("/aliases/tiny", {"adapter": NEW, "force": True}, 409),
        ("/aliases/town-new", {"adapter": NEW, "force": True}, 409),
        ("/aliases/other", {"adapter": "adapters/none", "force": True}, 404),
        ("/aliases/other", {"adapter": "../etc", "force": True}, 400),
        ("/aliases/other", {"adapter": NEW}, 400),
        ("/aliases/other", {"adapter": NEW, "test": "../etc/passwd"}, 400),
        ("/aliases/other", {"adapter": NEW, "test": "data/none.jsonl"}, 404),
        ("/aliases/other/rollback", None, 404),
    ],
)
def test_what_is_no_alias_or_no_version_gets_one_clear_error(
    servers: tuple[Server, Server], path: str, sent: dict[str, Any] | None, status: int
) -> None:
    answer = servers[0].post(path, sent)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"} and len(answer.json()["detail"]) > 4


def test_an_alias_to_a_deleted_adapter_is_an_error_and_nobody_else_answers(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    shutil.copytree(one.home / OLD, one.home / "adapters" / "gone")
    assert one.post("/aliases/lost", {"adapter": "adapters/gone", "force": True}).status_code == 200
    shutil.rmtree(one.home / "adapters" / "gone")
    assert one.post("/generate", body("lost", 3)).status_code == 409
    chat = one.post("/api/chat/send", {"message": "hi", "service": "local", "model": "lost"})
    assert '"error":true' in chat.text and "gone@1" in chat.text
    assert Path(one.home / OLD).is_dir() and one.get("/aliases").status_code == 200
