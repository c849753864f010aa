"""Projects from the command line, and their splits written and tuned on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.upstreams.together_api import LLAMA, TogetherApi

KILN = Path(__file__).parents[2] / "data/kiln/customer service"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"input": f"q{n}", "output": f"a{n}"}) + "\n" for n in range(10)))
    return file


@pytest.fixture
def shop(tunesmith: Invoke, ready: Path, rows: Path) -> str:
    """The id of a project with a task "answers", ten examples and a split."""
    project = tunesmith("projects", "create", "shop", "--description", "what people ask").stdout.strip()
    task = tunesmith(
        "projects", "add-task", "shop", "answers", "--instruction", "Answer.", "--requirement", "Be brief."
    )
    assert task.exit_code == 0, task.output
    added = json.loads(tunesmith("projects", "import", "shop", "answers", str(rows), "--json").stdout)
    assert added["runs"] == 10
    return project


def split(tunesmith: Invoke, *more: str) -> dict[str, Any]:
    done = tunesmith("projects", "split", "shop", "answers", "--json", *more)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_project_is_made_filled_split_listed_and_deleted(tunesmith: Invoke, shop: str) -> None:
    made = split(tunesmith, "--seed", "7", "--name", "first")
    assert {name: len(ids) > 0 for name, ids in made["contents"].items()} == {"train": True, "val": True}
    assert split(tunesmith, "--seed", "7")["contents"] == made["contents"]
    own = split(tunesmith, "--part", "some=0.5", "--part", "others=0.5")
    assert sum(map(len, own["contents"].values())) == 10
    assert "first" in tunesmith("projects", "splits", shop, "answers").stdout

    [task] = json.loads(tunesmith("projects", "tasks", "shop", "--json").stdout)["tasks"]
    assert (task["name"], task["requirements"]) == ("answers", ["Be brief."])
    shown = json.loads(tunesmith("projects", "show", shop, "--json").stdout)
    assert len(shown["tasks"][0]["info"]["splits"]) == 3
    assert "answers" in tunesmith("projects", "show", "shop").stdout

    assert json.loads(tunesmith("projects", "delete", "shop", "--json").stdout) == {"deleted": shop}
    assert json.loads(tunesmith("projects", "list", "--json").stdout) == {"projects": []}


def test_a_bad_row_names_itself_and_nothing_is_added(tunesmith: Invoke, shop: str, rows: Path) -> None:
    with rows.open("a") as file:
        file.write('{"input": "no answer"}\n')
    error = error_of(tunesmith("projects", "import", "shop", "answers", str(rows), "--json"))
    assert "11" in error["message"]
    assert sum(map(len, split(tunesmith)["contents"].values())) == 10


def test_names_that_mean_nothing_or_two_things_are_one_clear_line(tunesmith: Invoke, shop: str) -> None:
    tunesmith("projects", "create", "shop")
    assert error_of(tunesmith("projects", "show", "shop", "--json"))["kind"] == "invalid"
    assert json.loads(tunesmith("projects", "show", shop, "--json").stdout)["project"]["id"] == shop
    assert error_of(tunesmith("projects", "tasks", "market", "--json"))["kind"] == "not_found"
    assert error_of(tunesmith("projects", "splits", shop, "market", "--json"))["kind"] == "not_found"
    for part in ("train", "train=2", "=1", "train=x"):
        assert tunesmith("projects", "split", shop, "answers", "--part", part).exit_code == 2
    assert tunesmith("projects", "split", shop, "answers", "--type", "all", "--part", "a=1").exit_code == 2


def test_a_folder_of_kiln_is_taken_in(tunesmith: Invoke, ready: Path) -> None:
    made = tunesmith("projects", "import-kiln", str(KILN))
    assert made.exit_code == 0, made.output
    [task] = json.loads(tunesmith("projects", "tasks", "customer service", "--json").stdout)["tasks"]
    assert (task["project_id"], task["name"]) == (made.stdout.strip(), "分类")


def test_what_is_no_folder_of_kiln_is_refused(tunesmith: Invoke, ready: Path, tmp_path: Path) -> None:
    assert error_of(tunesmith("projects", "import-kiln", str(tmp_path / "absent"), "--json"))["kind"] == "not_found"
    assert tunesmith("projects", "import-kiln", str(tmp_path)).exit_code == 1


def test_a_split_is_written_as_training_wants_it(tunesmith: Invoke, shop: str, tmp_path: Path) -> None:
    made = split(tunesmith, "--name", "first")
    asked = ["datasets", "export", "--project", "shop", "--task", "answers", "--split", "first"]
    written = tunesmith(*asked, "--part", "val", "--generator", "simple_prompt_builder")
    lines = [json.loads(text) for text in written.stdout.splitlines()]
    assert written.exit_code == 0 and len(lines) == len(made["contents"]["val"])
    assert "Be brief." in lines[0]["messages"][0]["content"]

    file = tmp_path / "train.jsonl"
    told = json.loads(tunesmith(*asked, "--format", "vertex_gemini", "-o", str(file), "--json").stdout)
    assert told["rows"] == len(made["contents"]["train"]) == len(file.read_text().splitlines())
    assert "contents" in json.loads(file.read_text().splitlines()[0])
    assert error_of(tunesmith(*asked, "-o", str(file), "--output", str(file), "--json"))["kind"] == "conflict"
    assert tunesmith(*asked, "-o", str(file), "--force").exit_code == 0


def test_a_file_from_anywhere_is_written_and_a_bad_row_leaves_nothing(
    tunesmith: Invoke, ready: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "town.jsonl", tmp_path / "out.jsonl"
    row = {"instruction": "q", "output": "a", "reasoning": "because"}
    source.write_text(json.dumps(row) + "\n")
    asked = ["datasets", "export", str(source), "--strategy", "two_message_cot"]
    [line] = tunesmith(*asked).stdout.splitlines()
    assert [turn["role"] for turn in json.loads(line)["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    source.write_text(json.dumps(row) + "\n" + json.dumps({"instruction": "q", "output": "a"}) + "\n")
    refused = tunesmith(*asked, "-o", str(target))
    assert refused.exit_code == 1 and "town.jsonl:2" in refused.stderr
    assert refused.stdout == "" and not target.exists()
    assert tunesmith(*asked).stdout == ""
    for wrong in ([], [str(source), "--project", "shop"], [str(source), "--json"], ["--split", "first"]):
        assert tunesmith("datasets", "export", *wrong).exit_code == 2


def test_a_job_is_made_of_a_split(tunesmith: Invoke, shop: str, together: TogetherApi) -> None:
    split(tunesmith, "--name", "first")
    asked = ["jobs", "create", "--provider", "together_ai", "--model", LLAMA, "--project", "shop", "--task", "answers"]
    asked += ["--split", "first", "--validation", "val", "--generator", "simple_prompt_builder"]
    told = json.loads(tunesmith(*asked, "--dry-run", "--json").stdout)["job"]
    assert (told["project_id"], told["train_split"], told["validation_split"]) == (shop, "train", "val")
    assert told["rows"] + told["validation_rows"] == 10 and "Be brief." in told["system_message"]
    assert tunesmith(*asked, "--yes", "--no-wait").exit_code == 0
    [job] = json.loads(tunesmith("jobs", "list", "--project", "shop", "--task", "answers", "--json").stdout)["jobs"]
    assert job["split_id"] == told["split_id"]
    assert tunesmith("jobs", "list", "--project", "shop").exit_code == 2
