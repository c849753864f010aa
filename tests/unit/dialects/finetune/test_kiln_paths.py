"""Kiln's own paths: bare lists, a job with its status beside it, and no word that Kiln does not know."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.unit.dialects.finetune.conftest import Finetune
from tests.upstreams.together_api import LLAMA, TogetherApi

ENGLISH = {"Accept-Language": "en"}
CSV = "input,output,tags\n" + "".join(f"{n}号订单？,在路上。,fine_tune_a\n" for n in range(6))
FINETUNE = {
    *("v", "id", "created_at", "created_by", "name", "description", "structured_output_mode", "provider"),
    *("base_model_id", "provider_id", "fine_tune_model_id", "dataset_split_id", "train_split_name"),
    *("validation_split_name", "parameters", "system_message", "thinking_instructions", "latest_status"),
    *("properties", "data_strategy", "run_config", "model_type"),
}
SPLIT = {
    *("v", "id", "created_at", "created_by", "name", "description", "splits", "split_contents", "filter"),
    "model_type",
}


@pytest.fixture
async def kiln(finetune: Finetune) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's, asking as a client of Kiln does: for whole paths."""
    transport = httpx.ASGITransport(finetune.kiln)
    headers = {"Authorization": "Bearer alice"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


@pytest.fixture
async def task(client: httpx.AsyncClient) -> str:
    """The path of a task with six examples, at Kiln."""
    project = (await client.post("/projects", json={"name": "客服"})).json()["project"]["id"]
    made = await client.post(f"/projects/{project}/tasks", json={"name": "答复", "instruction": "你是客服。"})
    path = f"/projects/{project}/tasks/{made.json()['task']['id']}"
    await client.post(f"{path}/runs/bulk_upload", files={"file": ("a.csv", CSV.encode())})
    return f"/api{path}"


async def split_of(kiln: httpx.AsyncClient, task: str) -> dict[str, Any]:
    asked = {"dataset_split_type": "all", "filter_id": "tag::fine_tune_a", "name": "八月"}
    answer = await kiln.post(f"{task}/dataset_splits", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def order(split: dict[str, Any], **changes: Any) -> dict[str, Any]:
    asked = {
        "dataset_id": split["id"],
        "train_split_name": "all",
        "parameters": {"epochs": 2},
        "provider": "together_ai",
        "base_model_id": LLAMA,
        "system_message_generator": "simple_prompt_builder",
        "data_strategy": "final_only",
        "run_config_properties": {"temperature": 1.0},
    }
    return {**asked, **changes}


async def test_providers_are_a_list_with_their_models(kiln: httpx.AsyncClient) -> None:
    found = (await kiln.get("/api/finetune_providers")).json()
    assert [each["id"] for each in found] == ["together_ai", "fireworks_ai", "local"]
    assert all(set(each) == {"name", "id", "enabled", "models"} for each in found)
    [model] = [each for each in found[0]["models"] if each["id"] == LLAMA]
    assert set(model) == {"name", "id", "data_strategies_supported", "supports_function_calling"}


async def test_a_split_and_a_job_are_made_listed_and_shown_as_kiln_does(
    finetune: Finetune, kiln: httpx.AsyncClient, task: str, together: TogetherApi
) -> None:
    split = await split_of(kiln, task)
    assert set(split) == SPLIT
    assert (split["created_by"], split["splits"]) == ("alice", [{"name": "all", "description": None, "percentage": 1}])
    assert (await kiln.get(f"{task}/dataset_splits")).json() == [split]
    info = (await kiln.get(f"{task}/finetune_dataset_info")).json()
    assert info["existing_datasets"] == [], "nothing was trained on it yet"

    answer = await kiln.post(f"{task}/finetunes", json=order(split), headers={"Idempotency-Key": "1"})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert set(job) == FINETUNE
    assert (job["provider"], job["dataset_split_id"], job["system_message"]) == (
        "together_ai",
        split["id"],
        "你是客服。",
    )
    again = await kiln.post(f"{task}/finetunes", json=order(split), headers={"Idempotency-Key": "1"})
    assert again.json()["id"] == job["id"]
    assert (await kiln.get(f"{task}/finetunes", params={"update_status": "true"})).json() == [job]
    found = (await kiln.get(f"{task}/finetunes/{job['id']}")).json()
    assert found == {"finetune": job, "status": {"status": "pending", "message": None, "error_details": None}}
    info = (await kiln.get(f"{task}/finetune_dataset_info")).json()
    assert info["existing_datasets"] == info["eligible_datasets"] == [split]
    assert info["existing_finetunes"] == [job]
    assert [each["count"] for each in info["finetune_tags"]] == [6]

    place = f"{task}/finetunes/{job['id']}"
    changed = (await kiln.patch(place, json={"name": "新名", "description": "说明"})).json()
    assert (changed["name"], changed["description"]) == ("新名", "说明")
    assert (await kiln.patch(place, json={"name": "新名"})).json()["description"] is None
    async with finetune.client("alice") as client:
        assert (await client.post(f"{place.removeprefix('/api')}/cancel")).status_code == 200
    await finetune.passes(2)
    status = (await kiln.get(place, headers=ENGLISH)).json()["status"]
    assert (status["status"], status["message"]) == ("failed", "the job was cancelled")


async def test_a_download_is_the_documents(kiln: httpx.AsyncClient, task: str) -> None:
    split = await split_of(kiln, task)
    _, _, _, project, _, task_id = task.split("/")
    asked = {
        "project_id": project,
        "task_id": task_id,
        "dataset_id": split["id"],
        "split_name": "all",
        "format_type": "openai_chat_jsonl",
        "data_strategy": "final_only",
        "custom_system_message": "甲",
    }
    answer = await kiln.get("/api/download_dataset_jsonl", params=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
    assert answer.text.count("\n") == 6


async def test_what_is_wrong_is_said_in_kilns_words_and_anothers_is_missing(
    finetune: Finetune, kiln: httpx.AsyncClient, task: str
) -> None:
    split = await split_of(kiln, task)
    needed = "System message generator or custom system message is required"
    for changes, status, words in (
        ({"system_message_generator": None}, 400, needed),
        ({"provider": "vertex"}, 400, "Fine tune provider 'vertex' not found"),
        ({"dataset_id": "1"}, 404, "Dataset split with ID '1' not found"),
        ({"parameters": {"nothing": 1}}, 422, "Parameter nothing is not available"),
    ):
        answer = await kiln.post(f"{task}/finetunes", json=order(split, **changes), headers=ENGLISH)
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert (await kiln.post(f"{task}/dataset_splits", json={})).status_code == 422
    assert (await kiln.get(f"{task}/finetunes/x", headers=ENGLISH)).json()["message"] == (
        "Finetune with ID 'x' not found"
    )
    for path in (f"{task}/finetunes", f"{task}/dataset_splits", f"{task}/finetune_dataset_info"):
        answer = await kiln.get(path, headers={"Authorization": "Bearer bob"})
        assert answer.status_code == 404, path
        assert (await kiln.get(path, headers={"Authorization": ""})).status_code == 401
    for path in ("/api/projects", "/api/projects/1", "/api/finetune_providers/x"):
        assert (await kiln.get(path, headers=ENGLISH)).json()["message"] == "there is no such path"
