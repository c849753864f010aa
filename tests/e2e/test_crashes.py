"""kill -9 in the middle, and what is true afterwards."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.server import Server, serving, wait_until
from tests.upstreams.running import misbehaving
from tunesmith.models.registry import SHIPPED

pytestmark = pytest.mark.crash
ASK = {"prompt": "你好", "max_tokens": 16, "temperature": 0}
TRUE_WITHIN_S = 5.0


def write_rows(home: Path, count: int) -> None:
    rows = [{"input": f"Where is locker {n}?", "expected": f"Locker {n} is on floor {n * 3}."} for n in range(count)]
    (home / "data").mkdir(parents=True, exist_ok=True)
    (home / "data" / "rows.json").write_text(json.dumps(rows))


def train(server: Server, **changes: Any) -> str:
    body = {
        "base_model": SHIPPED,
        "dataset_path": "data/rows.json",
        "output_dir": "adapters/lockers",
        "num_epochs": 500,
    }
    answer = server.post("/train", {**body, **changes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["task_id"])


def status(server: Server, task: str) -> dict[str, Any]:
    body: dict[str, Any] = server.get(f"/train/status/{task}").json()
    return body


def training_steps(server: Server, task: str) -> int:
    now = status(server, task)
    assert now["status"] in ("queued", "running"), now
    return int(now["current_step"])


def processes(words: str) -> list[psutil.Process]:
    """Living processes of this home whose command line holds ``words``."""
    found = []
    for process in psutil.process_iter():
        try:
            if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def engines_of(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "tunesmith.inference.worker" in " ".join(child.cmdline())]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    write_rows(tmp_path, 64)
    yield tmp_path
    for process in processes(str(tmp_path)):
        process.kill()


def trainer_of(home: Path, task: str) -> psutil.Process:
    [trainer] = processes(str(home / "runs" / task))
    return trainer


def another_than(gone: psutil.Process, home: Path, task: str) -> list[psutil.Process]:
    """Trainers of the run but the one that was killed, which may be seen for a moment yet."""
    return [process for process in processes(str(home / "runs" / task)) if process.pid != gone.pid]


def adapter(home: Path) -> str:
    """What the adapter weighs, to the bit."""
    return hashlib.sha256((home / "adapters" / "lockers" / "adapter_model.safetensors").read_bytes()).hexdigest()


def steps(home: Path, task: str) -> list[int]:
    rows = [json.loads(line) for line in (home / "runs" / task / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "event" not in row]


def test_trainer_and_server_killed_again_and_again_give_the_undisturbed_adapter(home: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    write_rows(undisturbed, 64)
    with serving(undisturbed) as server:
        task = train(server, num_epochs=10)
        wait_until(lambda: status(server, task)["status"] == "completed", "the run did not end", 100)
    environ = {"TUNESMITH_CHECKPOINT_SECONDS": "0"}
    with serving(home, environ) as server:
        task = train(server, num_epochs=10)
        wait_until(lambda: training_steps(server, task) > 5, "no step", 60)
        first = trainer_of(home, task)
        first.kill()
        wait_until(lambda: another_than(first, home, task), "no other trainer was started", 20)
        second = another_than(first, home, task)[0]
        second.kill()  # before its first step
        wait_until(lambda: another_than(second, home, task), "no third trainer was started", 20)
        wait_until(lambda: training_steps(server, task) > 10, "it did not go on", 60)
        trainer = another_than(second, home, task)[0]
        server.process.kill()
        trainer.kill()  # everything at once, as when the machine loses power
        server.process.wait()
    with serving(home, environ) as server:
        wait_until(lambda: status(server, task)["status"] == "completed", "it did not end", 100)
        done = status(server, task)
    assert adapter(home) == adapter(undisturbed)
    assert steps(home, task) == list(range(1, done["total_steps"] + 1))


def test_a_killed_engine_fails_its_callers_clearly_and_is_back_for_the_next(home: Path) -> None:
    with serving(home) as server:
        assert server.post("/generate", ASK).status_code == 200
        body = {"prompt": "你好", "max_tokens": 900, "temperature": 1.0, "repetition_penalty": 1.0}
        with server.post("/generate/stream", body, stream=True) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(b"data: ")
            for engine in processes("tunesmith.inference.worker"):
                if str(server.process.pid) == str(engine.ppid()):
                    engine.kill()
            rest = [line for line in lines if line]
        # an answer may have ended by itself before the signal arrived; a cut one says so
        assert rest[-1] == b"data: [DONE]"
        assert server.get("/health").status_code == 200
        assert server.post("/generate", ASK).status_code == 200


def test_a_run_outlives_a_killed_server_and_is_found_again(home: Path) -> None:
    with serving(home) as first:
        task = train(first)
        wait_until(lambda: training_steps(first, task), "no step", 60)
        assert first.post("/generate", ASK).status_code == 200
        trainer = trainer_of(home, task)
        engines = engines_of(first)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    assert engines
    wait_until(lambda: not any(map(lives, engines)), "the engine outlived its server", 10)
    assert trainer.is_running()
    with serving(home) as second:
        started = time.monotonic()
        wait_until(lambda: status(second, task)["status"] == "running", "the record is not true", TRUE_WITHIN_S)
        step = status(second, task)["current_step"]
        wait_until(lambda: status(second, task)["current_step"] > step, "the run stands still", 20)
        assert trainer.is_running() and time.monotonic() > started
        assert second.post(f"/train/cancel/{task}").status_code == 200
        wait_until(lambda: status(second, task)["status"] == "canceled", "not canceled", 15)
        assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
        assert not (home / "adapters" / "lockers").exists()


def test_a_run_that_died_while_the_server_was_down_goes_on_after_its_start(home: Path) -> None:
    with serving(home) as first:
        task = train(first)
        wait_until(lambda: training_steps(first, task), "no step", 60)
        trainer = trainer_of(home, task)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    os.kill(trainer.pid, signal.SIGKILL)
    with serving(home) as second:
        wait_until(lambda: processes(str(home / "runs" / task)), "it did not go on", 20)
        assert status(second, task)["status"] == "running"
        assert second.post(f"/train/cancel/{task}").status_code == 200
        wait_until(lambda: status(second, task)["status"] == "canceled", "not canceled", 30)


def test_a_question_of_a_killed_server_does_not_run_for_ever(tmp_path: Path) -> None:
    with misbehaving() as upstream:
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-crash", "OPENROUTER_BASE_URL": f"{upstream.url}/api/v1"}
        ask = {"message": "你好", "model": "x/hangfirst", "conversation_id": "c"}

        def state(server: Server) -> str:
            return str(server.get("/api/chat/conversations/c").json()["messages"][0]["state"])

        with (
            serving(tmp_path, environ) as server,
            requests.post(f"{server.url}/api/chat/send", json=ask, stream=True, timeout=30),
        ):
            upstream.until(lambda report: report["open"] == 1)
            server.process.kill()
            server.process.wait()
        # so long an answer may last here that the look at start-up cannot tell it from one of another server
        # (where the start takes longer than that, it can)
        with serving(tmp_path, {**environ, "TUNESMITH_UPSTREAM_TOTAL_SECONDS": "4"}) as server:
            wait_until(lambda: state(server) == "failed", "the turn still runs", 30)
