"""Projects, tasks, examples, imports and splits over HTTP, and files made of a split."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tunesmith.dialects.finetune import examples
from tunesmith.kernel.problems import Unavailable

ENGLISH = {"Accept-Language": "en"}
CSV = "input,output,reasoning,tags\n" + "".join(f"{n}号订单？,在路上。,查{n}号,gold\n" for n in range(1, 11))


def found_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def made(client: httpx.AsyncClient, path: str, body: Any, kind: str) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()[kind]
    return found


@pytest.fixture
async def task(client: httpx.AsyncClient) -> str:
    """The path of a task with ten examples."""
    project = await made(client, "/projects", {"name": "客服", "description": "八月"}, "project")
    fields = {
        "name": "答复",
        "instruction": "你是客服。",
        "requirements": ["保持礼貌", {"name": "短", "instruction": "说得短", "priority": 1}],
        "thinking_instruction": "想一想",
    }
    found = await made(client, f"/projects/{project['id']}/tasks", fields, "task")
    path = f"/projects/{project['id']}/tasks/{found['id']}"
    answer = await client.post(f"{path}/runs/bulk_upload", files={"file": ("八月.csv", CSV.encode())})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "success": True,
        "filename": "八月.csv",
        "imported_count": 10,
        "imported_conversation_count": None,
    }
    return path


async def test_projects_and_tasks_are_made_listed_changed_and_deleted(client: httpx.AsyncClient, task: str) -> None:
    [project] = (await client.get("/projects")).json()["projects"]
    assert (project["name"], project["created_by"]) == ("客服", "alice")
    shown = (await client.get(task)).json()["task"]
    assert shown["requirements"] == ["保持礼貌", "说得短"]
    changed = await client.patch(task, json={"requirements": [], "description": "新"})
    assert changed.status_code == 200, changed.text
    after = changed.json()["task"]
    assert (after["name"], after["description"], after["requirements"]) == ("答复", "新", [])
    fields = {"name": "分类", "instruction": "分类。", "output_json_schema": {"type": "object", "标题": "类"}}
    structured = await made(client, f"/projects/{project['id']}/tasks", fields, "task")
    assert json.loads(structured["output_json_schema"]) == {"type": "object", "标题": "类"}
    [_, also] = (await client.get(f"/projects/{project['id']}/tasks")).json()["tasks"]
    assert also == structured
    assert (await client.delete(task)).json() == {"id": shown["id"], "deleted": True}
    gone = await client.get(task, headers=ENGLISH)
    assert (gone.status_code, gone.json()["message"]) == (404, f"Task not found. ID: {shown['id']}")
    place = f"/projects/{project['id']}"
    assert (await client.delete(place)).status_code == 200
    gone = await client.get(place, headers=ENGLISH)
    assert (gone.status_code, gone.json()["message"]) == (404, f"Project not found. ID: {project['id']}")


async def test_examples_are_added_filtered_changed_and_deleted(client: httpx.AsyncClient, task: str) -> None:
    fields = {"input": "几点开门？", "output": "九点。", "rating": 5, "rating_type": "five_star", "tags": ["new"]}
    run = await made(client, f"{task}/runs", fields, "run")
    assert run["final"] == "九点。"
    changed = await client.patch(f"{task}/runs/{run['id']}", json={"repaired": "十点。"})
    assert changed.json()["run"]["final"] == "十点。"
    listed = await client.get(f"{task}/runs", params={"filter_id": "tag::new"})
    assert [each["id"] for each in listed.json()["runs"]] == [run["id"]]
    pages = [(await client.get(f"{task}/runs", params={"limit": 6, "offset": at})).json()["runs"] for at in (0, 6)]
    assert [len(page) for page in pages] == [6, 5]
    assert (await client.delete(f"{task}/runs/{run['id']}")).status_code == 200
    assert (await client.get(f"{task}/runs/{run['id']}")).status_code == 404


async def test_a_split_is_made_by_preset_by_shares_and_without_a_body(client: httpx.AsyncClient, task: str) -> None:
    preset = await made(client, f"{task}/dataset_splits", {"dataset_split_type": "train_test_val"}, "dataset_split")
    assert [part["name"] for part in preset["splits"]] == ["train", "test", "val"]
    assert preset["created_by"] == "alice"
    assert sum(preset["counts"].values()) == 10
    shares = {"splits": [{"name": "train", "percentage": 0.5}, {"name": "rest", "percentage": 0.5}], "seed": 7}
    own, again = [await made(client, f"{task}/dataset_splits", shares, "dataset_split") for _ in range(2)]
    assert own["split_contents"] == again["split_contents"] and own["id"] != again["id"]
    plain = (await client.post(f"{task}/dataset_splits")).json()["dataset_split"]
    assert [part["name"] for part in plain["splits"]] == ["train", "val"]
    listed = (await client.get(f"{task}/dataset_splits")).json()["dataset_splits"]
    assert {each["id"] for each in listed} == {each["id"] for each in (preset, own, again, plain)}
    place = f"{task}/dataset_splits/{own['id']}"
    changed = (await client.patch(place, json={"name": "甲"})).json()["dataset_split"]
    assert changed == {**own, "name": "甲"}
    assert (await client.delete(place)).status_code == 200
    gone = await client.get(place, headers=ENGLISH)
    assert gone.json()["message"] == f"Dataset split with ID '{own['id']}' not found"


def asked(task: str, split: str) -> dict[str, str]:
    _, _, project, _, task_id = task.split("/")
    return {
        "project_id": project,
        "task_id": task_id,
        "dataset_id": split,
        "split_name": "train",
        "format_type": "huggingface_chat_template_jsonl",
        "data_strategy": "two_message_cot",
        "system_message_generator": "simple_prompt_builder",
    }


async def test_a_part_of_a_split_is_downloaded_in_its_order_with_the_tasks_words(
    client: httpx.AsyncClient, task: str
) -> None:
    split = await made(client, f"{task}/dataset_splits", {"name": "八月", "filter_id": "tag::gold"}, "dataset_split")
    answer = await client.get("/download_dataset_jsonl", params=asked(task, split["id"]))
    assert answer.status_code == 200, answer.text
    assert "%E5%85%AB%E6%9C%88%20--%20split-train" in answer.headers["content-disposition"]
    rows = [json.loads(line)["conversations"] for line in answer.text.split("\n")[:-1]]
    runs = {each["id"]: each for each in (await client.get(f"{task}/runs")).json()["runs"]}
    inputs = [runs[id]["input"] for id in split["split_contents"]["train"]]
    assert [row[1]["content"].split("\n")[2] for row in rows] == inputs
    assert rows[0][0]["content"].startswith("你是客服。") and "1) 保持礼貌\n2) 说得短\n" in rows[0][0]["content"]
    assert rows[0][1]["content"].endswith("\n\n想一想")
    own = {**asked(task, split["id"]), "custom_system_message": "甲", "custom_thinking_instructions": "乙"}
    first = json.loads((await client.get("/download_dataset_jsonl", params=own)).text.split("\n")[0])["conversations"]
    assert first[0]["content"] == "甲" and first[1]["content"].endswith("\n\n乙")


REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"format_type": "x"}, 400, "Dataset format 'x' not found"),
    ({"data_strategy": "x"}, 400, "Data strategy 'x' not found"),
    ({"project_id": "1"}, 404, "Project not found. ID: 1"),
    ({"task_id": "1"}, 404, "Task not found. ID: 1"),
    ({"dataset_id": "1"}, 404, "Dataset split with ID '1' not found"),
    ({"split_name": "x"}, 404, "Dataset split with name 'x' not found"),
    ({"system_message_generator": "x"}, 400, "Error generating system message using generator: x. Source error: "),
    ({"system_message_generator": ""}, 400, "System message generator or custom system message is required"),
    ({"format_type": "openai_chat_json_schema_jsonl"}, 422, "Last message is not JSON"),
]


async def test_a_download_that_cannot_be_is_refused_in_kilns_words(client: httpx.AsyncClient, task: str) -> None:
    split = await made(client, f"{task}/dataset_splits", {"dataset_split_type": "all"}, "dataset_split")
    for changes, status, words in REFUSED:
        params = {**asked(task, split["id"]), "split_name": "all", **changes}
        answer = await client.get("/download_dataset_jsonl", params=params, headers=ENGLISH)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["message"]


async def test_an_example_that_a_split_has_lost_is_named(client: httpx.AsyncClient, task: str) -> None:
    split = await made(client, f"{task}/dataset_splits", {"dataset_split_type": "all"}, "dataset_split")
    lost = split["split_contents"]["all"][4]
    assert (await client.delete(f"{task}/runs/{lost}")).status_code == 200
    params = {**asked(task, split["id"]), "split_name": "all"}
    answer = await client.get("/download_dataset_jsonl", params=params, headers=ENGLISH)
    assert answer.status_code == 422, answer.text
    assert answer.json()["details"]["sample"] == lost
    assert answer.json()["message"] == f"Task run {lost} not found. This is required by this dataset."


async def test_an_import_without_room_for_its_file_leaves_its_place_to_the_next(
    client: httpx.AsyncClient, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("磁盘已满", "the disk is full")

    monkeypatch.setattr(examples, "_Spool", full)
    files = {"file": ("a.csv", b"input,output\na,b\n")}
    for _ in range(20):
        assert (await client.post(f"{task}/runs/bulk_upload", files=files)).status_code == 503
    monkeypatch.undo()
    assert (await client.post(f"{task}/runs/bulk_upload", files=files)).status_code == 200


async def test_what_there_is_to_train_on_is_told_at_once(client: httpx.AsyncClient, task: str) -> None:
    await made(client, f"{task}/runs", {"input": "a", "output": "b", "tags": ["fine_tune_x"]}, "run")
    split = await made(client, f"{task}/dataset_splits", {"dataset_split_type": "all"}, "dataset_split")
    found = (await client.get(f"{task}/finetune_dataset_info")).json()
    assert [each["id"] for each in found["existing_datasets"]] == [split["id"]]
    assert found["existing_finetunes"] == []
    [tag] = found["finetune_tags"]
    assert (tag["tag"], tag["count"], tag["reasoning_count"]) == ("fine_tune_x", 1, 0)


BAD_FILES: list[tuple[str, bytes, str | None]] = [
    ("a.csv", b"input,output\na\n", None),
    ("a.xlsx", b"PK\x03\x04", None),
    ("../../a.csv", b"nothing\n1\n", None),
    ("a.csv", b"input,output\na,b\n", "[1]"),
    ("a.csv", b"input,output\na,b\n", '{"train": 0.1}'),
    ("a.csv", b"input,output\na,b\n", '{"train": 1e999}'),
    ("a.csv", b"input,output\na,b\n", '{"train": "1"}'),
]


async def test_an_import_that_will_not_do_leaves_nothing_behind(
    client: httpx.AsyncClient, task: str, tmp_path: Path
) -> None:
    before = found_below(tmp_path)
    for name, content, splits in BAD_FILES:
        data = {} if splits is None else {"splits": splits}
        answer = await client.post(f"{task}/runs/bulk_upload", files={"file": (name, content)}, data=data)
        assert answer.status_code == 422, answer.text
    large = await client.post(f"{task}/runs/bulk_upload", files={"file": ("a.csv", b"a,b\n" * (1 << 19))})
    assert large.status_code == 413
    assert len((await client.get(f"{task}/runs")).json()["runs"]) == 10
    assert found_below(tmp_path) == before


async def test_a_kiln_folder_is_looked_for_under_home_alone(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for path, status in (("../x", 422), ("/etc", 422), ("none", 404), ("link", 403), ("data", 404), ("runs", 404)):
        answer = await client.post("/projects/import_kiln", json={"path": path})
        assert answer.status_code == status, answer.text
        assert str(tmp_path) not in answer.text
    assert (await client.get("/projects")).json() == {"projects": []}
