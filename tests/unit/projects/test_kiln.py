"""Kiln's project folders come in whole, with their ids, and nothing outside of them is read."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.projects.conftest import AMY, BOB
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound
from tunesmith.projects import kiln
from tunesmith.projects.service import ProjectService

FOLDER = Path(__file__).parents[2] / "data/kiln/customer service"
TASK = "tasks/272723610309 - 分类"
REPAIRED, RATED = "233477898792", "159426339036"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(FOLDER, tmp_path / "kiln"))


def test_a_project_folder_comes_in_with_its_ids(service: ProjectService) -> None:
    project = service.import_kiln(FOLDER, AMY)
    assert (project.id, project.name, project.owner) == ("297978752041", "customer service", "amy")
    (task,) = service.tasks(project.id, AMY)
    assert (task.id, task.name, task.instruction) == ("272723610309", "分类", "你是客服。")
    assert (task.requirements, task.thinking_instruction) == (("Be polite",), "想一想")
    assert task.output_schema is not None and json.loads(task.output_schema)["type"] == "object"
    runs = {run.id: run for run in service.runs(project.id, task.id, AMY)}
    assert set(runs) == {REPAIRED, RATED}  # and none that an evaluation made
    rated, repaired = runs[RATED], runs[REPAIRED]
    assert (rated.rating, rated.rating_type, rated.thinking, rated.tags) == (4.0, "five_star", "先道歉", ("gold",))
    assert (repaired.final, repaired.repair_instructions) == ('{"category": "发票"}', "it is about an invoice")
    assert rated.created_at.isoformat() == "2026-05-07T08:00:00.968870+00:00"
    (split,) = service.splits(project.id, task.id, AMY)
    assert (split.id, split.name, split.filter) == ("149587817570", "Harmonious Goblet", "all")
    assert split.contents == {"train": (REPAIRED,), "val": (RATED,)}
    (read,) = service.samples(project.id, task.id, split.id, "train", AMY)
    assert read.output == '{"category": "发票"}' and [turn["role"] for turn in read.trace][2:4] == ["assistant", "tool"]


def test_a_folder_that_comes_twice_gets_other_ids_throughout(service: ProjectService) -> None:
    first, second = service.import_kiln(FOLDER, AMY), service.import_kiln(FOLDER, BOB)
    assert first.id != second.id
    (task,) = service.tasks(second.id, BOB)
    (split,) = service.splits(second.id, task.id, BOB)
    assert {REPAIRED, RATED}.isdisjoint(split.contents["train"] + split.contents["val"])
    assert [read.input for read in service.samples(second.id, task.id, split.id, "val", BOB)] == ["我的订单还没发货"]


def test_turns_of_a_conversation_stay_tied(service: ProjectService, folder: Path) -> None:
    service.import_kiln(FOLDER, AMY)
    run = folder / TASK / "runs" / REPAIRED / "task_run.kiln"
    run.write_text(json.dumps({**json.loads(run.read_text()), "parent_task_run_id": RATED}))
    project = service.import_kiln(folder, AMY)
    (task,) = service.tasks(project.id, AMY)
    first, second = service.runs(project.id, task.id, AMY)
    parent, child = (first, second) if second.parent_id else (second, first)
    assert child.parent_id == parent.id != RATED


@pytest.mark.parametrize("linked", ["project.kiln", "tasks", TASK, f"{TASK}/runs/{RATED}", f"{TASK}/task.kiln"])
def test_a_symbolic_link_is_refused_and_nothing_is_kept(service: ProjectService, folder: Path, linked: str) -> None:
    there = folder / linked
    elsewhere = folder.parent / "elsewhere"
    there.rename(elsewhere)
    there.symlink_to(elsewhere)
    with pytest.raises(Forbidden, match="symbolic link"):
        service.import_kiln(folder, AMY)
    assert service.projects(AMY) == []


def test_a_link_to_a_folder_is_no_folder(service: ProjectService, folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(Forbidden):
        service.import_kiln(link, AMY)
    for missing in (folder / "nowhere", folder / "tasks"):
        with pytest.raises(NotFound):
            service.import_kiln(missing, AMY)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"{", "task_run.kiln cannot be read: Input data was truncated"),
        (b'{"input": 5}', "Expected `str`, got `int` - at `$.input`"),
        (b'{"input": "a", "created_at": "2026-01-02T03:04:05Z"}', "missing required field `output`"),
        (b'{"input": "a\\u0000", "output": {"output": "b"}, "created_at": "2026-01-02T03:04:05"}', "input holds NUL"),
        (b"\xff" * 20, "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b" " * (17 << 10), "is over 0 MB"),
    ],
)
def test_a_broken_file_refuses_the_folder_and_is_named(
    service: ProjectService, folder: Path, broken: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kiln, "LARGEST_FILE", 16 << 10 if broken.isspace() else 16 << 20)
    (folder / TASK / "runs" / RATED / "task_run.kiln").write_bytes(broken)
    with pytest.raises(Invalid) as refusal:
        service.import_kiln(folder, AMY)
    assert said in refusal.value.en and f"tasks/272723610309 - 分类/runs/{RATED}/task_run.kiln" in refusal.value.en
    assert service.projects(AMY) == []


def test_a_pipe_and_too_many_entries_are_refused(
    service: ProjectService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / TASK / "runs" / RATED / "task_run.kiln"
    run.unlink()
    os.mkfifo(run)
    with pytest.raises(Invalid, match="is not a regular file"):
        service.import_kiln(folder, AMY)
    run.unlink()
    monkeypatch.setattr(kiln, "MOST_RUNS", 2)
    with pytest.raises(Invalid, match=r"there are over 2 entries in tasks/.*/runs"):
        service.import_kiln(folder, AMY)


def test_what_is_no_folder_is_passed_over(service: ProjectService, folder: Path) -> None:
    (folder / "tasks" / ".DS_Store").write_bytes(b"x")
    (folder / TASK / "runs" / "notes.txt").write_bytes(b"x")
    (folder / TASK / "runs" / "empty").mkdir()
    project = service.import_kiln(folder, AMY)
    assert len(service.tasks(project.id, AMY)) == 1
