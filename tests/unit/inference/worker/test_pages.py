"""What an engine gives back, and what it never takes."""

import json
import subprocess
import sys

import pytest


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


def test_an_engine_imports_nothing_that_prints_for_people() -> None:
    assert told(
        """
import json, sys
import tunesmith.inference.worker.__main__
print(json.dumps([name for name, module in sys.modules.items() if name.startswith("rich") and module]))
"""
    ) == []  # fmt: skip
