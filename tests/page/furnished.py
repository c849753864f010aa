"""What a home folder holds before somebody opens the page; made without torch, which is slow to import."""

import json
from pathlib import Path

import numpy as np
import requests
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.server import Server
from tunesmith.models import registry

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
