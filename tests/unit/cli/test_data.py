"""Datasets from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tunesmith.cli.data import kept_name, outside_home
from tunesmith.cli.session import opened
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound


def write_rows(path: Path, count: int = 20, *, bad: int = 0) -> Path:
    rows = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(count)]
    lines = [json.dumps(row) for row in rows] + ['{"instruction": "no answer"}'] * bad
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_dataset_is_added_listed_shown_split_and_removed(tunesmith: Invoke, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "town.jsonl")
    added = json.loads(tunesmith("datasets", "add", "town", str(file), "--json").stdout)
    assert (added["name"], added["examples"], added["skipped"]) == ("town", 20, 0)

    shown = json.loads(tunesmith("datasets", "show", "town", "-n", "2", "--json").stdout)
    assert [row[0]["content"] for row in shown["examples"]] == ["question 0", "question 1"]

    cut = (
        "datasets",
        "split",
        "town",
        "--train",
        "0.5",
        "--validation",
        "0.25",
        "--test",
        "0.25",
        "--seed",
        "7",
        "--json",
    )
    splits = json.loads(tunesmith(*cut).stdout)["splits"]
    assert sum(splits.values()) == 20
    assert json.loads(tunesmith(*cut).stdout)["splits"] == splits

    assert "town" in tunesmith("datasets", "list").stdout
    assert tunesmith("datasets", "remove", "town").exit_code == 0
    assert json.loads(tunesmith("datasets", "list", "--json").stdout) == {"datasets": []}
    assert file.exists()


def test_a_dataset_is_added_with_a_description_and_shown_with_it(tunesmith: Invoke, tmp_path: Path) -> None:
    file = str(write_rows(tmp_path / "town.jsonl"))
    added = json.loads(tunesmith("datasets", "add", "town", file, "--description", "facts", "--json").stdout)
    assert (added["description"], added["owner"], added["id"][:8]) == ("facts", "local", "dataset_")
    assert added["size_bytes"] > 0
    assert "facts" in tunesmith("datasets", "show", "town").stdout
    refused = error_of(tunesmith("datasets", "add", "city", file, "--description", "x" * 5000, "--json"))
    assert refused["details"]["field"] == "description"


def test_bad_rows_are_refused_with_their_lines_or_set_aside(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "town.jsonl", bad=2)
    refused = error_of(tunesmith("datasets", "add", "town", str(file), "--json"))
    assert [row["line"] for row in refused["details"]["bad_rows"]] == [21, 22]
    assert json.loads(tunesmith("datasets", "list", "--json").stdout) == {"datasets": []}

    kept = tunesmith("datasets", "add", "town", str(file), "--skip-bad")
    assert kept.exit_code == 0
    assert "2 bad rows" in kept.stdout
    assert len((home / "data" / "processed" / "town" / "quarantine.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("verb", [("show", "nothing"), ("split", "nothing"), ("remove", "nothing")])
def test_an_unknown_dataset_is_not_found(tunesmith: Invoke, verb: tuple[str, ...]) -> None:
    assert error_of(tunesmith("datasets", *verb, "--json"))["kind"] == "not_found"


def test_a_taken_name_is_a_conflict_and_the_message_a_line(tunesmith: Invoke, tmp_path: Path) -> None:
    file = str(write_rows(tmp_path / "town.jsonl"))
    tunesmith("datasets", "add", "town", file)
    assert error_of(tunesmith("datasets", "add", "town", file, "--json"))["kind"] == "conflict"
    again = tunesmith("datasets", "add", "town", file)
    assert (again.exit_code, again.stdout, again.stderr.count("\n")) == (1, "", 1)


def test_a_file_given_to_training_is_kept_once_however_often_it_is_given(home: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "小镇 data.jsonl")
    with opened(home) as services:
        first = kept_name(services, str(file))
        assert kept_name(services, str(file)) == first
        assert services.datasets.get(first).examples == 20
        write_rows(file, 21)
        second = kept_name(services, str(file))
        assert second != first
        assert {d.name for d in services.datasets.list()} == {first, second}


def test_kept_datasets_and_names_under_home_are_known_by_their_names(home: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl")
    with opened(home) as services:
        services.datasets.add("town", file)
        services.datasets.split("town", {"train": 0.5, "validation": 0.25, "test": 0.25})
        (home / "data").mkdir(exist_ok=True)
        write_rows(home / "data" / "b.jsonl")
        for name in ("town", "town/test", "data/b.jsonl"):
            assert kept_name(services, name) == name
        assert len(services.datasets.list()) == 1


def test_home_comes_first_unless_the_path_says_otherwise(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "b.jsonl")
    folder = Home(home)
    assert outside_home(folder, "b.jsonl") == Path("b.jsonl")
    write_rows(home / "b.jsonl")
    assert outside_home(folder, "b.jsonl") is None
    assert outside_home(folder, "./b.jsonl") == Path("./b.jsonl")
    assert outside_home(folder, str(tmp_path / "b.jsonl")) == tmp_path / "b.jsonl"


@pytest.mark.parametrize("text", ["nothing", "/no/such/file", "../nothing", "a\nb", ""])
def test_what_is_nowhere_is_not_found(home: Path, text: str) -> None:
    with pytest.raises((NotFound, Invalid)):
        outside_home(Home(home), text)


def test_a_home_folder_that_is_a_file_is_one_clear_problem(tunesmith: Invoke, home: Path) -> None:
    home.write_text("in the way")
    error = error_of(tunesmith("datasets", "list", "--json"))
    assert str(home) in error["message"]


def test_a_broken_database_is_one_clear_problem(tunesmith: Invoke, home: Path) -> None:
    home.mkdir()
    (home / "tunesmith.db").write_bytes(b"not a database" * 100)
    assert error_of(tunesmith("datasets", "list", "--json"))["kind"] == "unavailable"


def test_composing_loads_no_torch(home: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunesmith.cli.session import compose_services\n"
        "compose_services(Path(sys.argv[1]))\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'pyarrow', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
