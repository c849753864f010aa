"""Small adapter folders for tests of versions: real files, weights of a few bytes."""

import json
import os
from itertools import count
from pathlib import Path

from tunesmith.kernel.home import Home
from tunesmith.models.registry import SHIPPED

_SECONDS = count(1_000)
RUN = "1a2b3c4d" + "0" * 24


def put_adapter(home: Home, name: str, weights: bytes = b"weights", *, base: str = SHIPPED, run: str = "") -> Path:
    """An adapter folder younger than all before it, replacing the one of that name."""
    folder = home.root / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8}
    for file, content in (("adapter_config.json", json.dumps(config).encode()), ("adapter_model.safetensors", weights)):
        new = folder / f".new-{file}"
        new.write_bytes(content)
        new.replace(folder / file)
    if run:
        (folder / "tunesmith.json").write_text(json.dumps({"run_id": run}))
    made = next(_SECONDS)
    os.utime(folder / "adapter_model.safetensors", (made, made))
    return folder
