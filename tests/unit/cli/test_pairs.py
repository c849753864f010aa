"""Files of preferences, brought under home."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke
from tunesmith.cli import pairs
from tunesmith.cli.session import opened
from tunesmith.kernel.problems import NotFound

ROW = {"prompt": "Hi?", "chosen": "Hello!", "rejected": "No."}


def test_a_file_is_copied_once_and_names_under_home_stay(home: Path, tmp_path: Path, tunesmith: Invoke) -> None:
    file = tmp_path / "Better answers.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    with opened(home) as services:
        name = pairs.kept_name(services, str(file))
        assert (home / name).read_bytes() == file.read_bytes() and name.startswith("data/Better-answers-")
        assert pairs.kept_name(services, str(file)) == name == pairs.kept_name(services, name)
        file.write_text(json.dumps(ROW | {"prompt": "Ho?"}) + "\n")
        assert pairs.kept_name(services, str(file)) != name
        with pytest.raises(NotFound):
            pairs.kept_name(services, str(tmp_path / "none.jsonl"))
