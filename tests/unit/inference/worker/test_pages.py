"""What an engine gives back, and what it never takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunesmith.inference.worker import embedding
from tunesmith.inference.worker.embedding import Embedding


def told(script: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    return list(json.loads(done.stdout))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux counts memory")
def test_code_that_only_the_import_ran_is_given_back_and_all_still_runs() -> None:
    before, after, right = told(
        """
import json
import torch
from tunesmith.inference.worker.pages import let_go_of_code
def mapped():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile"))
x = torch.eye(8)
before = mapped()
let_go_of_code()
print(json.dumps([before, mapped(), int(torch.equal(x @ x, x))]))
"""
    )
    assert right and after < before / 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux counts memory")
def test_of_a_large_mapped_embedding_only_what_was_looked_up_lately_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_LARGE", 1 << 20)
    right = torch.randn(32768, 256, generator=torch.Generator().manual_seed(1)).bfloat16()  # 16 MB
    save_file({"table": right}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        looked_up = Embedding(file.get_tensor("table"), None, 1.0, torch.float32)

    def resident() -> int:
        """KB of the file that count as this process's."""
        lines = Path("/proc/self/smaps").read_text().splitlines()
        at = next(n for n, line in enumerate(lines) if str(tmp_path) in line)
        return next(int(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))

    every = torch.arange(0, 32768, 8)
    assert torch.equal(looked_up(every), right[every].float())
    assert resident() < 1 << 10
    few = every[:64]
    assert torch.equal(looked_up(few), right[few].float()) and resident() > 0
    monkeypatch.setattr(embedding, "_KEPT", 1 << 30)
    looked_up(every)
    assert resident() > 8 << 10


def test_an_engine_imports_nothing_that_prints_for_people() -> None:
    assert told(
        """
import json, sys
import tunesmith.inference.worker.__main__
print(json.dumps([name for name, module in sys.modules.items() if name.startswith("rich") and module]))
"""
    ) == []  # fmt: skip
