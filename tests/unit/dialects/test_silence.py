"""A trainer that shows no sign of life is told of wherever its run is asked after; the rest is the documents'."""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tunesmith.app import Services, compose
from tunesmith.asgi import create_app as created
from tunesmith.kernel.caller import Caller
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import RunStore


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    services = compose(Settings.read({}, home=tmp_path))
    yield services
    await services.close()


@pytest.fixture
def silent(services: Services) -> Run:
    """A run whose trainer was last seen to live some minutes ago."""
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (services.home.root / "rows.jsonl").write_text(json.dumps(row) + "\n")
    run = services.training.start(Recipe("tunesmith-small", "rows.jsonl", max_length=128), caller=Caller("amy"))
    RunStore(services.database).save(run.to(State.RUNNING, handle=run.id), was=run)
    folder = services.home.runs / run.id
    folder.mkdir()
    run_folder.write_trainer(folder, os.getpid())
    os.utime(folder / run_folder.TRAINER, (time.time() - 300,) * 2)
    return run


async def test_gpt_service_tells_a_silence_in_a_field_of_its_own(services: Services, silent: Run) -> None:
    transport = httpx.ASGITransport(created(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for _ in range(2):
            one = (await client.get(f"/train/status/{silent.id}")).json()
            [listed] = (await client.get("/train/history")).json()["history"]
            assert one["status"] == "running" and one["seconds_silent"] == pytest.approx(300, abs=100)
            assert listed["seconds_silent"] == pytest.approx(300, abs=100)
        (services.home.runs / silent.id / run_folder.HEARTBEAT).touch()
        assert (await client.get(f"/train/status/{silent.id}")).json()["seconds_silent"] is None


async def test_platform_v1_tells_a_silence_in_a_field_of_its_own(services: Services, silent: Run) -> None:
    services.accounts.add("amy", "a long enough password")
    transport = httpx.ASGITransport(created(services, wants_token=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/api/v1") as client:
        said = await client.post("/login", json={"username": "amy", "password": "a long enough password"})
        client.headers["Authorization"] = f"Bearer {said.json()['token']}"
        found = (await client.get(f"/train/status/{silent.id}")).json()
        assert found["seconds_silent"] == pytest.approx(300, abs=100), found
        (services.home.runs / silent.id / run_folder.HEARTBEAT).touch()
        assert (await client.get(f"/train/status/{silent.id}")).json()["seconds_silent"] is None
