"""``/samples``: the sample data that ships, as an addition to the gpt-service document."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tunesmith.app import compose
from tunesmith.asgi import create_app
from tunesmith.datasets.reading import read_examples
from tunesmith.dialects.gpt_service.wire import TrainRequest
from tunesmith.kernel.home import Home
from tunesmith.settings import Settings
from tunesmith.training.first_recipe import RECIPE


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    services = compose(Settings.read({}, home=tmp_path))
    transport = httpx.ASGITransport(create_app(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await services.close()


async def test_samples_are_shown_before_they_are_in_place_and_put_there_once_asked(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    before = (await client.get("/samples")).json()
    assert before["installed"] is False and not (tmp_path / "data" / "samples").exists()
    installed = (await client.post("/samples")).json()
    assert installed["status"] == "success" and installed["installed"] is True
    assert {**(await client.get("/samples")).json(), "status": "success"} == installed
    assert (await client.post("/samples")).json() == installed
    for file in installed["files"]:
        assert len(list(read_examples(Home(tmp_path), file["dataset_path"]))) == file["rows"] > 0


async def test_a_file_that_was_taken_away_counts_as_not_in_place(client: httpx.AsyncClient, tmp_path: Path) -> None:
    await client.post("/samples")
    (tmp_path / "data" / "samples" / "general.jsonl").unlink()
    found = (await client.get("/samples")).json()
    assert found["installed"] is False
    assert [file["role"] for file in found["files"] if not file["installed"]] == ["general"]


async def test_the_run_that_samples_propose_is_the_demos(client: httpx.AsyncClient) -> None:
    proposed = (await client.get("/samples")).json()["train"]
    recipe = TrainRequest.model_validate(proposed).recipe(1024)
    assert replace(recipe, seed=RECIPE.seed) == RECIPE


async def test_questions_are_of_both_languages_and_none_was_trained_on(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    found = (await client.post("/samples")).json()
    assert {each["language"] for each in found["questions"]} == {"zh", "en"}
    trained = {each.prompt[-1].content for each in read_examples(Home(tmp_path), found["train"]["dataset_path"])}
    assert trained >= {each["question"] for each in found["examples"]}
    assert not trained & {each["question"] for each in found["questions"]}
