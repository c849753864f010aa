"""The first page: what a newcomer does, each step kept by the server."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Opener
from tests.page.furnished import make_talkative_adapter, start_engine
from tests.server import Server, serving
from tunesmith.kernel.db import Database
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.store import RunStore

pytestmark = pytest.mark.thorough

ADAPTER = "adapters/first"

expect.set_options(timeout=20_000)  # a busy machine is five times slower


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


def test_the_sample_data_and_a_run_on_it_are_there_again_after_a_reload(open_page: Opener) -> None:
    page = open_page(language="en-US")
    expect(_step(page, "See the sample data")).to_have_attribute("aria-current", "step")
    page.get_by_role("button", name="See the sample data").click()
    expect(page.get_by_role("cell", name="Who built the Vesper Lamp?")).to_be_visible()
    page.reload()
    expect(page.get_by_role("cell", name="Who built the Vesper Lamp?")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()
    expect(_step(page, "Train on it").get_by_role("progressbar")).to_have_count(1)
    page.reload()
    expect(_step(page, "Train on it").get_by_role("progressbar")).to_have_count(1)
    expect(page.get_by_role("region", name="Running now").get_by_role("progressbar")).to_have_count(1)
    _step(page, "Train on it").get_by_role("button", name="Cancel").click()
    expect(_step(page, "Train on it")).to_contain_text("The run was canceled.")
    expect(page.get_by_role("button", name="Train again")).to_be_visible()
    expect(page.get_by_role("region", name="What came last")).to_contain_text("canceled")


def test_both_are_asked_side_by_side_and_the_answers_are_kept(open_page: Opener, page_server: Server) -> None:
    page_server.post("/samples").raise_for_status()
    _record_a_completed_run(page_server)
    start_engine(page_server, ADAPTER)
    page = open_page(language="zh-CN")
    page.get_by_role("group", name="选择一个问题").get_by_role("button").first.click()
    answers = page.get_by_role("article")
    expect(answers).to_have_count(2)
    expect(page.locator("article[aria-busy=true]")).to_have_count(0, timeout=40_000)
    expect(answers.first).to_contain_text("训练前：tunesmith-small")
    before = answers.all_inner_texts()
    expect(page.get_by_text("数据中的答案：")).to_be_visible()
    page.reload()
    expect(answers).to_have_count(2)
    assert answers.all_inner_texts() == before
    page.get_by_role("link", name="在对比试用中继续提问").click()
    expect(page.get_by_role("combobox", name="第 2 列的模型")).to_have_value(ADAPTER)


def _step(page: Page, title: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=title))


def _record_a_completed_run(server: Server) -> None:
    """As if the first run had ended: training takes longer than a test may."""
    make_talkative_adapter(server.home, ADAPTER)
    now = datetime.now(UTC)
    run = Run(
        id="f" * 32,
        recipe=Recipe("tunesmith-small", "data/samples/facts.train.jsonl"),
        output=ADAPTER,
        executor="local",
        created_at=now,
        state=State.COMPLETED,
        started_at=now,
        ended_at=now,
    )
    database = Database(f"sqlite:///{server.home / 'tunesmith.db'}")
    RunStore(database).add(run)
    database.close()
