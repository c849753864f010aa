"""What a home folder holds before somebody opens the page; made without torch, which is slow to import."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import requests
from playwright.sync_api import Page
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.server import Server, wait_until
from tunesmith.models import registry

LOUD = "adapters/loud"
_RANK = 4


def make_talkative_adapter(home: Path, name: str) -> str:
    """An adapter of the shipped model under ``home``, so loud that answers are noise and do not end soon; its name."""
    base = Path(registry.__file__).parent / "shipped" / registry.SHIPPED
    random, weights = np.random.default_rng(1), {}
    with safe_open(base / "model.safetensors", "numpy") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
    for key, (rows, *columns) in shapes.items():
        if ".layers." in key and key.endswith("_proj.weight"):
            stem = "base_model.model." + key.removesuffix(".weight")
            weights[f"{stem}.lora_A.weight"] = random.normal(0, 0.2, (_RANK, *columns)).astype(np.float32)
            weights[f"{stem}.lora_B.weight"] = random.normal(0, 2, (rows, _RANK)).astype(np.float32)
    folder = home / name
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    modules = sorted({key.split(".lora_")[0].rpartition(".")[2] for key in weights})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": registry.SHIPPED,
        "r": _RANK,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return name


def start_engine(server: Server, adapter: str) -> None:
    """Return when the shipped model answers and wears ``adapter``: how long that takes is no page's business."""
    body = {"model": adapter, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=300).raise_for_status()


@contextmanager
def back_again(server: Server) -> Iterator[Server]:
    """The server once more after it has ended, on the same home and port; ended afterwards."""
    with (server.home / "server.log").open("ab") as log:
        environ = {**os.environ, "TUNESMITH_WARM_TRAINER": "0", "TUNESMITH_THREADS": "1"}
        process = subprocess.Popen(server.process.args, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)
    try:
        again = replace(server, process=process)
        wait_until(lambda: _answers(again), "the server did not come back", 120)
        yield again
    finally:
        process.terminate()
        process.wait(30)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, f"the server ended: {server.log()}"
    try:
        return server.get("/health").ok
    except (requests.ConnectionError, requests.Timeout):
        return False


def write_chats(server: Server, name: str, rows: int) -> None:
    """A dataset under ``data/`` of that many short chats."""
    path = server.home / "data" / name
    path.parent.mkdir(exist_ok=True)
    turns = [
        [{"role": "user", "content": f"What is number {n}?"}, {"role": "assistant", "content": f"It is {n}."}]
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))


def ended_run(server: Server, points: int) -> str:
    """A run that was canceled, with so many points to its curve."""
    write_chats(server, "tiny.jsonl", 8)
    body = {"base_model": "tunesmith-small", "dataset_path": "data/tiny.jsonl", "max_length": 128}
    run = str(server.post("/train", body).json()["task_id"])
    server.post(f"/train/cancel/{run}", {})
    folder = server.home / "runs" / run
    folder.mkdir(exist_ok=True)
    rows = (f'{{"step":{n},"loss":{1 + n % 7 / 10},"time":{n}}}\n' for n in range(1, points + 1))
    (folder / "metrics.jsonl").write_text("".join(rows))
    return run


def show_evaluation(page: Page, count: int) -> None:
    """Open the evaluation of that many questions: what the server would tell of it is made up in the page."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    difference = {**interval, "p": 0.001, "significant": True}
    details = {"metrics": {"bleu": interval}, "base": {"bleu": interval}, "difference": {"bleu": difference}}
    found: dict[str, Any] = {
        "eval_id": "x", "status": "completed", "progress": 100, "model_name": "adapters/a", "base_model": "b",
        "adapter": "adapters/a", "label": "town/test", "compare": True, "asked_metrics": ["bleu"],
        "lower_is_better": [], "max_tokens": 8, "details": {**details, "count": count}, "sample_count": count,
        "done": 1, "total": 1, "verdict": "…", "created_at": "2026-01-01T00:00:00", "completed_at": None, "error": None,
    }  # fmt: skip
    # the rows are made in the page: sending so many through the test would take longer than all else
    page.add_init_script(f"""{{
      const found = {json.dumps(found)}, ask = window.fetch, count = {count};
      const row = (n) => ({{
        index: n, prompt: [{{ role: 'user', content: `question ${{n}}` }}], expected: 'x', output: `answer ${{n}}`,
        scores: {{ bleu: n === 77 ? 90 : n % 50 }}, base: {{ output: 'base', scores: {{ bleu: 20 }} }},
      }});
      window.fetch = async (asked, options) => {{
        const path = new URL(asked.url ?? asked, location).pathname;
        if (path.startsWith('/evaluate/details/')) return Response.json(found);
        if (!path.startsWith('/evaluate/outputs/')) return ask(asked, options);
        return Response.json({{ rows: Array.from({{ length: count }}, (_, n) => row(n)) }});
      }};
    }}""")
    page.goto("/app/evaluation/x")
