"""What the server may import, and how the house is kept."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tunesmith"
HEAVY = ("torch", "transformers", "peft", "matplotlib", "pyarrow", "numpy", "sacrebleu", "alembic", "aiohttp")


@pytest.mark.parametrize("module", ["tunesmith.asgi", "tunesmith.cli"])
def test_neither_server_nor_command_line_imports_what_is_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    long = {str(file): lines for file in SOURCE.rglob("*.py") if (lines := len(file.read_text().splitlines())) > 400}
    assert long == {}


def test_no_file_has_a_name_that_says_nothing() -> None:
    nothing = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    assert [file for file in SOURCE.rglob("*.py") if file.stem in nothing] == []
