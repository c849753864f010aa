"""``/train/runs``, ``/evaluate/dataset`` and what stands beside them: additions to the gpt-service document."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.dialects.gpt_service import evaluations, runs, wire
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import NotFound
from tunesmith.settings import Settings
from tunesmith.training.run import Recipe

ROWS = 30


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    composed = compose(Settings.read({}, home=tmp_path))
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(ROWS)
    ]
    (composed.home.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield composed


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await services.close()


async def started(client: httpx.AsyncClient, **changes: Any) -> str:
    body = {"base_model": "tunesmith-small", "dataset_path": "rows.jsonl", **changes}
    answer = await client.post("/train", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["task_id"])


async def test_a_run_in_full_holds_the_body_that_makes_it_again(client: httpx.AsyncClient) -> None:
    run = await started(client, lora_r=4, learning_rate=0.00012345678, target_modules=["q_proj"])
    found = (await client.get(f"/train/runs/{run}")).json()
    assert found["executor"] == "local" and not found["resumable"] and found["status"] == "queued"
    await client.post(f"/train/cancel/{run}")
    again = (await client.post("/train", json=found["request"])).json()["task_id"]
    assert (await client.get(f"/train/runs/{again}")).json()["request"] == found["request"]
    assert "--learning-rate 0.00012345678 " in found["command"] and "--target-modules q_proj" in found["command"]
    listed = (await client.get("/train/runs")).json()["runs"]
    assert [each["task_id"] for each in listed] == [again, run]
    canceled = (await client.get("/train/runs?state=canceled")).json()["runs"]
    assert [each["task_id"] for each in canceled] == [run]


async def test_curves_and_log_follow_what_the_trainer_writes(client: httpx.AsyncClient, services: Services) -> None:
    run = await started(client)
    folder = services.home.runs / run
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text('{"step":1,"loss":2.5,"time":1.0}\n{"step":2,"loss":2.25,"time":2.0}\n')
    (folder / "log.txt").write_text("loading\ntraining\n")
    found = (await client.get(f"/train/metrics/{run}?after=1")).json()
    assert found["training"]["step"] == [2] and found["training"]["loss"] == [2.25] and found["status"] == "queued"
    log = (await client.get(f"/train/log/{run}?after=8")).json()
    assert (log["text"], log["start"], log["end"]) == ("training\n", 8, 17)


async def test_anothers_runs_and_evaluations_are_missing(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started(client)
    body = {"model_name": "tunesmith-small", "dataset_path": "rows.jsonl", "limit": 1, "metrics": ["exact_match"]}
    evaluation = (await client.post("/evaluate/dataset", json=body)).json()["eval_id"]
    for module in (runs, evaluations):
        monkeypatch.setattr(module, "caller_of", lambda request: Caller("somebody else"))
    for path in (f"runs/{run}", f"metrics/{run}", f"log/{run}"):
        assert (await client.get(f"/train/{path}")).status_code == 404, path
    for path in (f"details/{evaluation}", f"outputs/{evaluation}"):
        assert (await client.get(f"/evaluate/{path}")).status_code == 404, path
    assert (await client.post(f"/train/resume/{run}")).status_code == 404
    assert (await client.get("/train/runs")).json()["runs"] == []
    assert (await client.get("/evaluate/history")).json()["history"] == []


async def test_a_run_that_left_no_checkpoint_cannot_be_resumed(client: httpx.AsyncClient) -> None:
    run = await started(client)
    await client.post(f"/train/cancel/{run}")
    assert (await client.post(f"/train/resume/{run}")).status_code == 409


async def test_parameters_have_ranges_and_defaults_that_make_a_run(client: httpx.AsyncClient) -> None:
    answer = await client.get("/train/parameters?base_model=tunesmith-small", headers={"Accept-Language": "en"})
    found = {each["name"]: each for each in answer.json()["parameters"]}
    assert set(found) <= set(wire.TrainRequest.model_fields)
    assert found["num_epochs"]["minimum"] == 1 and found["lora_r"]["description"] == "LoRA rank"
    # early stopping and the like want data to score, which their defaults do not
    defaults = {name: each["default"] for name, each in found.items() if each["default"] is not None}
    run = (await client.get(f"/train/runs/{await started(client, **defaults)}")).json()
    assert run["request"]["learning_rate"] == 1e-3 and run["total_epochs"] == 7
    assert (await client.get("/train/parameters?base_model=no")).status_code == 404


async def test_what_can_be_read_is_listed_by_names_that_train_takes(
    client: httpx.AsyncClient, services: Services
) -> None:
    services.datasets.add("town", services.home.root / "rows.jsonl")
    services.datasets.split("town", {"train": 0.5, "test": 0.5})
    await client.post("/samples")
    found = (await client.get("/train/datasets")).json()["datasets"]
    kinds = {each["dataset_path"]: each["kind"] for each in found}
    assert kinds["town"] == "dataset" and kinds["town/test"] == "split"
    assert "sample" in kinds.values()
    for name in kinds:
        assert await started(client, dataset_path=name)


async def test_an_evaluation_on_a_dataset_is_listed_and_told_in_full(client: httpx.AsyncClient) -> None:
    body = {"model_name": "tunesmith-small", "dataset_path": "rows.jsonl", "limit": 7, "metrics": ["exact_match"]}
    started = (await client.post("/evaluate/dataset", json=body)).json()["eval_id"]
    await client.post(f"/evaluate/cancel/{started}")
    [listed] = (await client.get("/evaluate/history")).json()["history"]
    found = (await client.get(f"/evaluate/details/{started}")).json()
    assert listed == found
    assert (found["label"], found["model_name"], found["sample_count"]) == ("rows.jsonl", "tunesmith-small", 7)
    assert (await client.get(f"/evaluate/outputs/{started}")).json()["rows"] == []
    for changes in ({"dataset_path": "no.jsonl"}, {"model_name": "no"}, {"limit": 0}, {"compare": True}):
        assert (await client.post("/evaluate/dataset", json=body | changes)).status_code in (400, 404, 422)


def test_a_sample_of_questions_is_the_same_every_time_and_in_the_datasets_order(services: Services) -> None:
    def drawn(most: int, caller: Caller = LOCAL) -> list[str]:
        found = evaluations.questions(services.datasets, services.home, "rows.jsonl", most, caller)
        return [each.expected for each in found]

    some = drawn(8)
    assert some == drawn(8) and len(set(some)) == 8 and some != [f"a{n}" for n in range(8)]
    assert some == sorted(some, key=lambda answer: int(answer[1:]))
    assert drawn(ROWS) == drawn(1000) == [f"a{n}" for n in range(ROWS)]
    services.datasets.add("town", services.home.root / "rows.jsonl")
    with pytest.raises(NotFound):
        evaluations.questions(services.datasets, services.home, "town", 5, Caller("somebody else"))


def test_a_command_line_says_what_a_recipe_says(tmp_path: Path) -> None:
    recipe = Recipe("Qwen/Qwen2.5-0.5B", "a folder/town.jsonl", alpha=32.0, replay="g.jsonl", replay_share=0.25)
    command = runs.command_of(replace(recipe, use_dora=True, max_length=512))
    assert command == (
        "tunesmith train 'a folder/town.jsonl' --base Qwen/Qwen2.5-0.5B --epochs 3 --batch-size 8 "
        "--learning-rate 0.0002 --rank 8 --alpha 32 --dropout 0.05 --max-length 512 --replay g.jsonl "
        "--replay-share 0.25 --dora"
    )
