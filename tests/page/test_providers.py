"""Setting a provider's key, and a job at a provider from the form to its place in the list."""

import json
from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import expect

from tests.page.conftest import Opener
from tests.server import Server, serving
from tests.upstreams.together_api import TogetherApi, together_api

pytestmark = pytest.mark.thorough

ROWS = [{"instruction": f"{n}号店在哪里？", "input": "", "output": f"在云溪街{n}号。"} for n in range(20)]


@pytest.fixture(scope="module")
def together() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory, together: TogetherApi) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), {"TOGETHER_BASE_URL": together.v1}) as running:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
        files = {"file": ("客服.jsonl", content, "application/jsonl")}
        requests.post(f"{running.url}/api/finetune/upload-dataset", files=files, timeout=60).raise_for_status()
        yield running


def test_a_key_is_set_a_job_is_estimated_and_ordered_and_the_key_is_forgotten(
    open_page: Opener, page_server: Server, together: TogetherApi
) -> None:
    page = open_page("/app/providers", language="en-US")
    card = page.get_by_role("region", name="Together AI")
    card.get_by_role("button", name="Set a key").click()
    card.get_by_label("Key of Together AI").fill(together.key)
    card.get_by_role("button", name="Store").click()
    expect(card.get_by_text("stored on this server")).to_be_visible()
    card.get_by_role("button", name="models").click()
    model = card.get_by_role("listitem").first.inner_text().split("\n")[0]
    assert together.key not in page.content()

    page.goto(f"/app/providers/new?provider=TOGETHER_AI&model={model}")
    page.get_by_role("combobox", name="Data").fill("data/raw/客服.jsonl")
    page.get_by_label("Name").fill("客服")
    page.get_by_label("epochs").fill("1")
    page.get_by_role("button", name="Check and estimate").click()
    asking = page.get_by_role("dialog")
    expect(asking.get_by_text("your account there pays for it")).to_be_visible()
    assert page_server.get("/api/finetune/jobs").json()["jobs"] == []
    asking.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("article", name="客服")).to_contain_text("Together AI")
    [job] = page_server.get("/api/finetune/jobs").json()["jobs"]
    assert (job["name"], job["model_name"], job["parameters"]["epochs"]) == ("客服", model, 1)

    page.goto("/app/providers")
    card.get_by_role("button", name="Forget the key").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget the key").click()
    expect(card.get_by_text("No key is set.")).to_be_visible()
