"""Evaluations on the page: started, watched, read row by row; hostile text stays text."""

import json
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Opener
from tests.page.furnished import show_evaluation
from tests.server import Server

pytestmark = pytest.mark.thorough

PATIENCE_MS = 90_000  # until an engine has begun, on a machine that is busy
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def test_a_model_is_measured_and_its_answers_are_read_question_by_question(
    open_page: Opener, page_server: Server
) -> None:
    path = page_server.home / "data" / "asked.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = [(f"{HOSTILE} number {n}?", f"It is {n}.") for n in range(3)]
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    page = open_page("/app/evaluation", language="en-US")
    expect(page.get_by_role("heading", name="Nothing measured yet")).to_be_visible()
    page.get_by_role("link", name="Measure a model").first.click()
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Choose one")).to_have_count(2)
    _field(page, "Model").click()
    page.get_by_role("option", name="tunesmith-small").click()
    expect(page.get_by_text("nothing to compare it with")).to_be_visible()
    _field(page, "Dataset").fill("data/asked.jsonl")
    page.keyboard.press("Escape")
    page.get_by_label("Longest answer (tokens)").fill("4")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1, name="tunesmith-small")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Verdict")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_role("row", name=re.compile("Perplexity"))).to_be_visible()
    expect(page.get_by_role("listitem")).to_have_count(3)
    page.get_by_label("Search in questions").fill("number 2")
    expect(page.get_by_text("1 of 3")).to_be_visible()
    page.get_by_role("button", name="Show question 3 in full").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"{HOSTILE} number 2?")
    assert page.title() != "owned" and page.locator("img[src=x]").count() == 0


def test_a_hundred_thousand_rows_scroll_with_a_few_of_them_in_the_page(open_page: Opener) -> None:
    page = open_page("/app/evaluation", language="zh-CN")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    show_evaluation(page, 100_000)
    items = page.get_by_role("listitem")
    expect(items.first).to_contain_text("answer 77")  # the greatest gain
    box = page.locator("[role=list][tabindex]")
    for part in range(1, 5):
        box.evaluate("(box, part) => box.scrollTo(0, box.scrollHeight * part / 4)", part)
        assert items.count() < 50
    expect(items.last).to_have_attribute("aria-posinset", "100000")
    assert items.count() < 50


def _field(page: Page, label: str) -> Locator:
    """The input of that label; a list of choices has the same one."""
    return page.get_by_label(label).and_(page.locator("input"))
