"""The first page: what a newcomer does, each step kept by the server."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Opener

pytestmark = pytest.mark.thorough


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


def _step(page: Page, title: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=title))
