"""``POST /train/plan``: the plan of a run, as an addition to the gpt-service document. No rehearsal is made here."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.training.plan.test_plan import drawn
from tunesmith.app import compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings
from tunesmith.training.plan.planning import Planner
from tunesmith.training.run import Recipe

BODY = {"base_model": "tunesmith-small", "dataset_path": "rows.jsonl", "lora_r": 4}


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async def rehearsed(self: Planner, recipe: Recipe, measure: bool) -> object:
        assert recipe.rank == 4 and measure
        return drawn(7_000_000_000)

    monkeypatch.setattr(Planner, "_rehearsed", rehearsed)
    services = compose(Settings.read({}, home=tmp_path))
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (services.home.root / "rows.jsonl").write_text(json.dumps(row) + "\n")
    transport = httpx.ASGITransport(create_app(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await services.close()


async def test_a_plan_is_answered_in_the_documents_names_and_no_run_is_made(client: httpx.AsyncClient) -> None:
    answer = await client.post("/train/plan", json=BODY)
    plan: dict[str, Any] = answer.json()
    assert answer.status_code == 200, answer.text
    assert (plan["status"], plan["fits"], plan["measured"], plan["note"]) == ("success", False, True, None)
    assert (plan["total_steps"], plan["samples"], plan["total_tokens"], plan["trained_tokens"]) == (
        21,
        100,
        60000,
        27000,
    )
    assert plan["memory"]["needed_bytes"] > plan["memory"]["free_bytes"] == 7_000_000_000
    assert "放不下" in plan["message"] and plan["remedies"][0]["changes"] == {"max_length": 2048}
    assert (await client.get("/train/history")).json()["total_count"] == 0


@pytest.mark.parametrize(
    "changes",
    [{"num_epochs": 0}, {"dataset_path": "no.jsonl"}, {"base_model": "no"}, {"output_dir": "runs/x"}, {"x": 1}],
)
async def test_what_train_refuses_plan_refuses_alike(client: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    refused, started = [await client.post(path, json=BODY | changes) for path in ("/train/plan", "/train")]
    assert refused.status_code >= 400
    assert (refused.status_code, refused.json()) == (started.status_code, started.json())
