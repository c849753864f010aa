"""The page of datasets: a file comes in, is looked at, checked, split and deleted; whatever it says is only text."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Opener
from tests.server import Server

HOSTILE = "<img src=x onerror=\"document.title='gone'\">"


def row(question: str, answer: str) -> str:
    return json.dumps({"instruction": question, "output": answer}) + "\n"


def send(page: Page, name: str, text: str) -> None:
    # the input is what a click on the button opens; a dialog of the machine cannot be clicked
    page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/json", "buffer": text.encode()}
    )


@pytest.fixture(scope="module")
def page_server(furnished: Server) -> Server:
    return furnished


@pytest.fixture(scope="module")
def hostile(page_server: Server) -> str:
    """The id of an upload whose name and rows try to be more than text."""
    text = "".join(row(f"{HOSTILE} {number}", f"answer {number} [x](javascript:alert(1))") for number in range(300))
    answer = page_server.post("/api/finetune/upload-dataset", files={"file": (f"{HOSTILE}.jsonl", text)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.mark.thorough
def test_a_good_file_is_uploaded_checked_split_and_deleted(open_page: Opener) -> None:
    page = open_page("/app/datasets", language="en-US")
    send(page, "town.jsonl", "".join(row(f"question {n}", f"answer {n}") for n in range(40)))
    expect(page).to_have_url(re.compile(r"/datasets/dataset_[0-9a-f]{12}\?tab=check$"))
    expect(page.get_by_role("heading", name="town.jsonl")).to_be_visible()
    expect(page.get_by_text("Everything is in order")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="Split").click()
    page.get_by_role("button", name="Make a split dataset").click()
    page.get_by_role("link", name="Open town-split").click()
    expect(page.get_by_role("heading", name="town-split")).to_be_visible()
    page.get_by_text("test (", exact=False).click()
    expect(page).to_have_url(re.compile("part=test"))
    expect(page.get_by_role("link", name="Train on this")).to_have_attribute("href", "/app/runs/new?dataset=town-split")
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("town-split with its 40 rows")
    dialog.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/datasets$"))
    expect(page.get_by_role("link", name="town.jsonl")).to_be_visible()
    expect(page.get_by_role("link", name="town-split")).to_have_count(0)


@pytest.mark.parametrize(
    ("language", "said"),
    [("en-US", ["was not kept", "Row 2", "not valid JSON"]), ("zh-CN", ["未保存", "第 2 行", "不是有效的 JSON"])],
)
def test_a_broken_file_is_refused_with_its_rows_and_what_to_do(
    open_page: Opener, page_server: Server, language: str, said: list[str]
) -> None:
    kept = page_server.get("/datasets").json()
    page = open_page("/app/datasets", language=language, allowed="status of 4")  # type: ignore[arg-type]
    send(page, f"{HOSTILE}.jsonl", row("a", "b") + "{broken\n")
    refusal = page.get_by_role("alert")
    for text in [*said, HOSTILE]:
        expect(refusal).to_contain_text(text)
    assert page_server.get("/datasets").json() == kept
    expect(page).not_to_have_title("gone")


def test_names_and_rows_are_shown_as_text_and_every_row_is_reached(open_page: Opener, hostile: str) -> None:
    page = open_page(f"/app/datasets/{hostile}", language="en-US")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^<img src=x"))
    table = page.get_by_role("region", name=re.compile("Rows of"))
    expect(table).to_contain_text(f"{HOSTILE} 0")
    table.evaluate("each => each.scrollTo(0, each.scrollHeight)")
    expect(table).to_contain_text(f"{HOSTILE} 299")
    assert table.get_by_role("row").count() < 60  # only what can be seen is in the page
    page.get_by_role("button", name="Open row 300", exact=True).press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("answer 299 [x](javascript:alert(1))")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert page.locator("main img, main a[href^=javascript]").count() == 0
    expect(page).not_to_have_title("gone")


@pytest.mark.thorough
def test_the_mask_shows_what_is_learned_and_what_is_cut(open_page: Opener, hostile: str) -> None:
    page = open_page(f"/app/datasets/{hostile}?tab=mask&most=60", language="zh-CN", theme="dark")
    first = page.get_by_role("region", name="第 1 行")
    expect(first.locator("mark").first).to_contain_text("answer 0", timeout=60_000)
    expect(first.locator(".mask-unlearned").first).to_contain_text(HOSTILE)
    expect(first).to_contain_text("个词元，学习")
    page.reload()
    expect(page.get_by_role("tab", name="学习哪些内容")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("样本的最多词元数")).to_have_value("60")


@pytest.mark.thorough
def test_a_file_that_cannot_be_sent_is_told_and_sent_again(open_page: Opener, tmp_path: Path) -> None:
    page = open_page("/app/datasets", language="en-US", allowed="ERR_FAILED|Failed to load")
    page.route("**/upload-dataset", lambda route: route.abort(), times=1)
    send(page, "again.jsonl", row("q", "a"))
    expect(page.get_by_role("alert")).to_contain_text("again.jsonl could not be sent")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="again.jsonl")).to_be_visible()
