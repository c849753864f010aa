"""A server whose home folder holds what the documents' examples name."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.server import Server, serving
from tests.tiny_model import make_tiny_adapter
from tunesmith.models import registry

BASE = "Qwen/Qwen2-7B-Instruct"


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    furnish(home)
    with serving(home, {"FINETUNING_BASE_MODEL": BASE, "FINETUNING_LORA_PATH": "models/lora/adapter1"}) as running:
        yield running


def furnish(home: Path) -> None:
    """The shipped model under the documents' name, an adapter for it, and a training file."""
    base = home / "models" / BASE
    shutil.copytree(Path(registry.__file__).parent / "shipped" / registry.SHIPPED, base)
    adapter = make_tiny_adapter(base, home / "models" / "lora" / "adapter1", seed=1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": BASE}))
    weights = load_file(adapter / "adapter_model.safetensors")
    # the base is sure of itself: random noise has to be loud to change what it says
    loud = {key: value * 6 if ".lora_B." in key else value for key, value in weights.items()}
    save_file(loud, adapter / "adapter_model.safetensors")
    rows = [{"instruction": f"{n}号店在哪里？", "input": "", "output": f"{n}号店在云溪街{n}号。"} for n in range(1, 9)]
    (home / "data").mkdir()
    (home / "data" / "train.json").write_text(json.dumps(rows, ensure_ascii=False))
