"""Jobs over HTTP: the document's sample at a stand-in of Together, what is refused before it is paid for, and whose they are."""

from typing import Any

import httpx

from tests.spec.documents import blocks
from tests.unit.dialects.finetune.conftest import Finetune
from tests.upstreams.together_api import LLAMA, TogetherApi
from tests.upstreams.together_words import limits

ENGLISH = {"Accept-Language": "en"}
[SAMPLE] = [block.value for block in blocks("finetune-providers") if "togethercomputer" in block.text]
PLAIN = {"model_name": LLAMA, "dataset_path": "data/客服.jsonl"}


def sample(**changes: Any) -> dict[str, Any]:
    """The document's request, of a file that is there."""
    return {**SAMPLE, "dataset_path": "data/客服.jsonl", **changes}


async def made(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/jobs", **options: Any) -> dict[str, Any]:
    answer = await client.post(path, json=body, **options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["job"]
    return found


async def shown(client: httpx.AsyncClient, job: dict[str, Any], **params: Any) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job['id']}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["job"]
    return found


async def at_together(finetune: Finetune, together: TogetherApi) -> str:
    """The provider's id of the one job, once it is there."""
    for _ in range(20):
        await finetune.passes()
        if together.jobs:
            [id] = together.jobs
            return id
    raise AssertionError("the provider was never asked for a job")


async def test_the_documents_sample_works_whole_at_together(
    finetune: Finetune, client: httpx.AsyncClient, together: TogetherApi
) -> None:
    together.limits[SAMPLE["model_name"]] = limits(SAMPLE["model_name"])
    job = await made(client, sample())
    assert {name: job[name] for name in SAMPLE if name != "dataset_path"} == {
        name: value for name, value in SAMPLE.items() if name != "dataset_path"
    }
    assert (job["status"], job["latest_status"], job["data_strategy"]) == ("pending", "pending", "two_message_cot")
    assert (job["base_model_id"], job["run_id"], job["created_by"]) == (SAMPLE["model_name"], job["id"], "alice")
    assert together.jobs == {}, "a request waits for no provider's upload"
    theirs = await at_together(finetune, together)
    asked = together.asked[theirs]
    assert (asked["n_epochs"], asked["batch_size"], asked["training_type"]["lora_alpha"]) == (3, 8, 16)
    together.advance(theirs, "running")
    running = await shown(client, job)
    assert (running["status"], running["provider_id"], running["provider_status"]) == ("running", theirs, "running")
    together.advance(theirs, "completed", token_count=1234)
    done = await shown(client, job)
    assert (done["status"], done["progress"]["percent"], done["error"]) == ("completed", 100.0, None)
    assert done["fine_tune_model_id"] and done["adapter"] is None
    assert done["finished_at"] and done["events"] and done["events"][-1]["type"] == "job_complete"
    assert together.created["job"] == 1


async def test_a_list_asks_the_provider_only_when_told_to_and_a_failed_look_changes_nothing(
    finetune: Finetune, client: httpx.AsyncClient, together: TogetherApi
) -> None:
    job = await made(client, PLAIN)
    theirs = await at_together(finetune, together)
    before = len(together.requests)
    together.advance(theirs, "completed")
    [listed] = (await client.get("/jobs")).json()["jobs"]
    assert listed["status"] != "completed" and len(together.requests) == before
    together.refuse(500)
    answer = await client.get("/jobs", params={"update_status": "true"}, headers=ENGLISH)
    [listed] = answer.json()["jobs"]
    assert (listed["status"], listed["error"]) == ("unknown", None)
    assert "cannot be asked now" in listed["status_message"]
    together.forgive()
    assert (await shown(client, job, update_status="false"))["status"] != "completed"
    [listed] = (await client.get("/jobs", params={"update_status": "true"})).json()["jobs"]
    assert listed["status"] == "completed"
    assert (await client.get("/jobs", params={"update_status": "maybe"})).status_code == 422


async def test_what_a_provider_has_no_use_for_is_named_with_what_it_takes(client: httpx.AsyncClient) -> None:
    answer = await client.post("/jobs", json=sample(provider="fireworks_ai"), headers=ENGLISH)
    body = answer.json()
    assert answer.status_code == 422, body
    assert set(body["details"]["unknown"]) == {"lora_alpha", "lora_dropout", "warmup_ratio"}
    assert body["details"]["allowed"] == ["epochs", "learning_rate", "batch_size", "lora_rank"]
    assert "Parameter lora_alpha is not available" in body["message"]


async def test_without_a_key_a_job_is_refused_and_what_else_is_wrong_is_told_first(
    finetune: Finetune, client: httpx.AsyncClient
) -> None:
    finetune.key = None
    for body, status, words in (
        (PLAIN, 403, "TOGETHER_API_KEY"),
        ({**PLAIN, "parameters": {"epochs": 0}}, 422, "epochs"),
        ({**PLAIN, "data_strategy": "guess"}, 400, "Data strategy 'guess' not found"),
        ({**PLAIN, "dataset_path": "../../x"}, 422, "dataset_path"),
        ({**PLAIN, "dataset_path": "/etc/passwd"}, 422, "dataset_path"),
        ({**PLAIN, "dataset_path": "data/none.jsonl"}, 404, "data/none.jsonl"),
    ):
        answer = await client.post("/jobs", json=body, headers=ENGLISH)
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert (await client.get("/jobs")).json() == {"jobs": []}


async def test_what_cannot_be_trained_is_refused_before_anything_is_recorded(
    client: httpx.AsyncClient, together: TogetherApi
) -> None:
    for changes, status, words in (
        ({"provider": "vertex"}, 400, "Fine tune provider 'vertex' not found"),
        ({"model_name": "togethercomputer/llama-2-7b"}, 404, LLAMA),
        ({"parameters": {"epochs": 2.5}}, 422, "epochs"),
        ({"parameters": {"epochs": True}}, 422, "epochs"),
        ({"parameters": {"epochs": "3"}}, 422, "epochs"),
        ({"parameters": {"epochs": 10**400}}, 422, "epochs"),
        ({"parameters": {"lora_rank": 65}}, 422, "lora_rank"),
        ({"data_strategy": "final_and_intermediate"}, 400, "two_message_cot"),
        ({"data_strategy": "final_only", "thinking_instructions": "想"}, 422, "thinking_instructions"),
        ({"name": "a/b"}, 422, "name"),
        ({"modelname": "x"}, 422, "Modelname"),
        ({"dataset_id": "123456789012"}, 422, "dataset_path"),
    ):
        answer = await client.post("/jobs", json={**PLAIN, **changes}, headers=ENGLISH)
        body = answer.json()
        assert (answer.status_code, words in f"{body['message']} {body.get('error_messages')}") == (status, True), body
    assert (await client.get("/jobs")).json() == {"jobs": []}
    assert together.created["file"] == together.created["job"] == 0


async def test_a_request_with_a_key_of_its_own_makes_one_job_however_often_it_comes(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "7f1c"}
    first, again = [await made(client, PLAIN, headers=headers) for _ in range(2)]
    assert first["id"] == again["id"]
    other = await client.post("/jobs", json={**PLAIN, "name": "乙"}, headers=headers)
    assert other.status_code == 409
    assert len((await client.get("/jobs")).json()["jobs"]) == 1


async def test_a_repeated_request_gives_its_job_though_the_model_was_retired_or_the_key_removed_since(
    finetune: Finetune, client: httpx.AsyncClient, together: TogetherApi
) -> None:
    headers = {"Idempotency-Key": "7f1c"}
    first = await made(client, PLAIN, headers=headers)
    finetune.key = None
    assert (await client.post("/jobs", json=PLAIN)).status_code == 403
    assert (await made(client, PLAIN, headers=headers))["id"] == first["id"]
    other = await client.post("/jobs", json={**PLAIN, "name": "乙"}, headers=headers)
    assert other.status_code == 409, "said before what is wrong with the provider"


async def test_canceling_twice_is_fine_and_what_has_completed_is_in_the_way(
    finetune: Finetune, client: httpx.AsyncClient, together: TogetherApi
) -> None:
    job = await made(client, PLAIN)
    answers = [await client.post(f"/jobs/{job['id']}/cancel") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    await finetune.passes(2)
    assert (await shown(client, job))["status"] == "cancelled" and together.jobs == {}
    assert (await client.post(f"/jobs/{job['id']}/cancel")).status_code == 200
    done = await made(client, PLAIN)
    together.advance(await at_together(finetune, together), "completed")
    assert (await shown(client, done))["status"] == "completed"
    assert (await client.post(f"/jobs/{done['id']}/cancel")).status_code == 409


async def test_anothers_job_is_answered_like_a_missing_one(finetune: Finetune, client: httpx.AsyncClient) -> None:
    job = await made(client, PLAIN)
    place = f"/jobs/{job['id']}"
    asks = [("GET", place), ("POST", f"{place}/cancel"), ("DELETE", place), ("GET", f"{place}/deployment")]
    asks += [("POST", f"{place}/deploy"), ("POST", f"{place}/undeploy"), ("POST", f"{place}/adapter")]
    async with finetune.client("bob") as bob, finetune.client("root") as root:
        for method, path in asks:
            answer = await bob.request(method, path, headers=ENGLISH)
            words = f"Finetune with ID '{job['id']}' not found"
            assert (answer.status_code, answer.json()["message"]) == (404, words), (method, path)
        assert (await bob.patch(place, json={"name": "x"})).status_code == 404
        assert (await bob.get("/jobs")).json() == {"jobs": []}
        assert [each["id"] for each in (await root.get("/jobs")).json()["jobs"]] == [job["id"]]
    for id in ("x", "..%2f..%2fx", "0" * 4000, "%00", "ü"):
        assert (await client.get(f"/jobs/{id}")).status_code == 404


async def test_a_job_of_a_tasks_split_belongs_to_that_task_alone(client: httpx.AsyncClient) -> None:
    project = (await client.post("/projects", json={"name": "客服"})).json()["project"]["id"]
    tasks = [
        (await client.post(f"/projects/{project}/tasks", json={"name": name, "instruction": "你是客服。"})).json()
        for name in ("甲", "乙")
    ]
    here, there = [f"/projects/{project}/tasks/{each['task']['id']}" for each in tasks]
    for n in range(4):
        await client.post(f"{here}/runs", json={"input": f"{n}?", "output": f"{n}."})
    split = (await client.post(f"{here}/dataset_splits", json={"dataset_split_type": "all"})).json()["dataset_split"]
    body = {
        "provider": "together_ai",
        "base_model_id": LLAMA,
        "dataset_id": split["id"],
        "train_split_name": "all",
        "parameters": {},
        "data_strategy": "final_only",
        "system_message_generator": "simple_prompt_builder",
        "run_config_properties": {"temperature": 1.0},
    }
    job = await made(client, body, f"{here}/finetunes")
    assert (job["dataset_split_id"], job["dataset_id"], job["train_split_name"]) == (split["id"], split["id"], "all")
    assert (job["system_message"], job["provider"]) == ("你是客服。", "TOGETHER_AI")
    place = f"{here}/finetunes/{job['id']}"
    assert (await client.get(place)).json()["job"]["id"] == job["id"]
    assert [each["id"] for each in (await client.get(f"{here}/finetunes")).json()["jobs"]] == [job["id"]]
    assert (await client.get(f"{there}/finetunes")).json() == {"jobs": []}
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        assert (await client.request(method, f"{there}/finetunes/{job['id']}{path}")).status_code == 404
    changed = await client.patch(place, json={"name": "新名", "description": "说明"})
    assert (changed.json()["job"]["name"], changed.json()["job"]["description"]) == ("新名", "说明")
    assert (await client.delete(place)).status_code == 409, "it has not ended"
    assert (await client.post(f"{place}/cancel")).json()["job"]["status"] == "cancelled"
    assert (await client.delete(place)).json()["job"]["id"] == job["id"]
    assert (await client.get(place)).status_code == 404
    assert (await client.get("/projects/1/tasks/2/finetunes", headers=ENGLISH)).json()["message"] == (
        "Project not found. ID: 1"
    )


async def test_an_estimate_makes_nothing_and_says_what_is_unknown(
    client: httpx.AsyncClient, together: TogetherApi
) -> None:
    answer = await client.post("/jobs/estimate", json={**PLAIN, "parameters": {"epochs": 3, "batch_size": 8}})
    assert answer.status_code == 200, answer.text
    found = answer.json()["estimate"]
    assert found["steps"] == 6
    assert found["cost"] is not None or found["reason"]
    local = await client.post(
        "/jobs/estimate", json={**PLAIN, "provider": "LOCAL", "model_name": "tunesmith-small"}, headers=ENGLISH
    )
    assert local.json()["estimate"]["cost"] == {"amount": 0.0, "currency": "USD", "estimated": False}
    assert (await client.get("/jobs")).json() == {"jobs": []}
    assert together.created["job"] == 0


async def test_deploying_wants_a_confirmation_and_undeploying_ends_it(
    finetune: Finetune, client: httpx.AsyncClient, together: TogetherApi
) -> None:
    job = await made(client, PLAIN)
    place = f"/jobs/{job['id']}"
    assert (await client.post(f"{place}/deploy", json={"confirm": True})).status_code == 409, "there is no model yet"
    together.advance(await at_together(finetune, together), "completed")
    await shown(client, job)
    for body in (None, {}, {"confirm": False}):
        refused = await client.post(f"{place}/deploy", json=body, headers=ENGLISH)
        assert (refused.status_code, "confirm" in refused.json()["message"]) == (409, True), refused.text
    assert together.created["endpoint"] == 0
    assert (await client.post(f"{place}/deploy", json={"confirm": "yes"})).status_code == 422
    answer = await client.post(f"{place}/deploy", json={"confirm": True})
    assert answer.status_code == 200, answer.text
    deployment = answer.json()["deployment"]
    assert deployment["chat_model"] == f"hosted/{job['id']}"
    found = (await client.get(f"{place}/deployment")).json()["deployment"]
    assert found["id"] == deployment["id"]
    assert (await client.delete(place)).status_code == 409, "it is paid for"
    for _ in range(2):
        assert (await client.post(f"{place}/undeploy")).json() == {"deployment": None}
    assert (await client.get(f"{place}/deployment")).json() == {"deployment": None}
    assert (together.created["endpoint"], together.endpoints) == (1, {})


async def test_who_trains_what_may_be_set_and_which_models_there_are(
    finetune: Finetune, client: httpx.AsyncClient
) -> None:
    found = (await client.get("/providers")).json()["providers"]
    assert list(found.items())[:2] == [("TOGETHER_AI", "Together AI"), ("FIREWORKS_AI", "Fireworks AI")]
    assert "LOCAL" in found
    named = (await client.get("/parameters/TOGETHER_AI")).json()["parameters"]
    assert (await client.get("/hyperparameters/together_ai")).json() == named
    by_name = {each["name"]: each for each in named}
    assert set(SAMPLE["parameters"]) < set(by_name)
    assert (by_name["epochs"]["type"], by_name["epochs"]["min"], by_name["epochs"]["max"]) == ("int", 1, 20)
    assert set(by_name["epochs"]) == {"name", "type", "description", "optional", "default", "min", "max", "choices"}
    unknown = await client.get("/parameters/vertex", headers=ENGLISH)
    assert (unknown.status_code, unknown.json()["message"].startswith("Fine tune provider 'vertex' not found")) == (
        400,
        True,
    )
    [hosted, without, local] = (await client.get("/models")).json()["providers"]
    assert (hosted["id"], hosted["name"], hosted["enabled"]) == ("TOGETHER_AI", "Together AI", True)
    assert LLAMA in [model["id"] for model in hosted["models"]]
    assert (without["enabled"], without["models"]) == (False, []) and without["message"]
    assert local["id"] == "LOCAL"


async def test_paths_nobody_knows_are_answered_in_the_documents_shape(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/jobs/1/2/3", "/", "/projects/1/nothing"):
        answer = await client.get(path, headers=ENGLISH)
        assert (answer.status_code, answer.json()["message"]) == (404, "there is no such path")
        assert answer.json()["error"]["code"] == "not_found"


async def test_the_application_describes_itself(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/providers", "/jobs/{job_id}/cancel", "/download_dataset_jsonl"} <= set(document["paths"])
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert all({"401", "422", "429"} <= set(each["responses"]) for each in operations)
    assert {"create_split", "get_split", "edit_split"} <= {each["operationId"] for each in operations}
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas and {"ErrorAnswer", "JobShown", "JobRequest"} <= set(schemas)
    references = {part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]}
    assert references <= set(schemas)
