"""Runs on the page: started by clicks, watched, found again after a reload, canceled, explained."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Opener
from tests.page.furnished import ended_run, write_chats
from tests.server import Server

pytestmark = pytest.mark.timeout(300)  # an engine or a trainer has to begin, on a machine that is busy

PATIENCE_MS = 90_000  # until a trainer has begun, on a machine that is busy


@pytest.fixture(scope="module")
def page_server(furnished: Server) -> Server:
    return furnished


def _field(page: Page, label: str) -> Locator:
    """The input of that label; a list of choices has the same one."""
    return page.get_by_label(label).and_(page.locator("input"))


def _start(page: Page, dataset: str, name: str, epochs: int) -> None:
    page.get_by_role("link", name="Start a run").first.click()
    expect(page.get_by_label("Epochs")).to_have_value("7")
    _field(page, "Dataset").fill(dataset)
    page.keyboard.press("Escape")
    page.get_by_label("Name of the adapter").fill(name)
    page.get_by_label("Epochs").fill(str(epochs))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()


@pytest.mark.thorough
def test_a_run_is_started_watched_and_found_again_in_the_middle(open_page: Opener, page_server: Server) -> None:
    write_chats(page_server, "tiny.jsonl", 8)
    page = open_page("/app/runs", language="en-US")
    _start(page, "data/tiny.jsonl", "tiny", 8)
    page.reload()
    expect(page.get_by_role("heading", level=1, name="tiny")).to_be_visible()
    picture = page.get_by_role("img", name=re.compile(r"training: \d+ points"))
    expect(picture).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("completed")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_role("img", name=re.compile("training: 8 points; step 1 to 8"))).to_be_visible()
    expect(page.get_by_role("log")).to_contain_text("published adapters/tiny")
    expect(page.get_by_text("tunesmith train data/tiny.jsonl --base tunesmith-small")).to_be_visible()
    tried = page.get_by_role("link", name="Try it against its base")
    expect(tried).to_have_attribute("href", "/app/playground?model=tunesmith-small&model=adapters%2Ftiny")
    page.get_by_label("Search the log").fill("nothing like this")
    expect(page.get_by_text("0 lines")).to_be_visible()
    page.get_by_role("link", name="Start again with these settings").click()
    expect(_field(page, "Dataset")).to_have_value("data/tiny.jsonl")
    expect(page.get_by_label("Epochs")).to_have_value("8")


def test_a_long_list_of_choices_is_reached_by_the_keyboard_alone(
    open_page: Opener, axe: Callable[[Page], list[str]]
) -> None:
    page = open_page("/app/", language="en-US")
    many = [{"dataset_path": f"town-{n}", "kind": "dataset", "examples": n} for n in range(60)]
    page.route("**/train/datasets", lambda route: route.fulfill(json={"datasets": many, "total_count": 60}))
    page.goto("/app/runs/new")
    field = _field(page, "Dataset")
    field.click()
    expect(page.get_by_role("option")).to_have_count(60)
    assert axe(page) == []
    field.press("ArrowUp")  # round to the last
    expect(page.get_by_role("option", name="town-59")).to_be_in_viewport()
    field.press("Enter")
    expect(field).to_have_value("town-59")


def test_a_run_is_canceled_after_asking_and_every_tab_sees_it(open_page: Opener, page_server: Server) -> None:
    write_chats(page_server, "long.jsonl", 64)
    page = open_page("/app/runs/new", language="en-US")
    expect(page.get_by_label("Epochs")).to_have_value("7")
    page.get_by_role("link", name="All runs").click()
    _start(page, "data/long.jsonl", "long", 1000)
    page.reload()
    tabs = [page.context.new_page() for _ in range(2)]
    for tab, path in zip(tabs, (page.url, "/app/runs"), strict=True):
        tab.goto(path)
    row = tabs[1].get_by_role("row", name=re.compile("long"))
    for running in (page.get_by_text("running", exact=True), tabs[0].get_by_text("running", exact=True), row):
        expect(running).to_contain_text("running", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("button", name="Keep it running").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    for canceled in (page.get_by_text("canceled", exact=True), tabs[0].get_by_text("canceled", exact=True), row):
        expect(canceled).to_contain_text("canceled", timeout=PATIENCE_MS)
    expect(tabs[0].get_by_role("button", name="Cancel the run")).to_have_count(0)


@pytest.mark.thorough
def test_what_cannot_be_started_is_said_at_the_field_and_by_the_server(open_page: Opener) -> None:
    page = open_page("/app/runs/new", language="zh-CN", allowed="404")
    expect(page.get_by_label("训练轮数")).to_have_value("7")
    page.get_by_label("训练轮数").fill("0")
    page.get_by_role("button", name="开始训练").click()
    expect(page.get_by_text("请选择")).to_be_visible()
    expect(page.get_by_text("请输入 1 到 1000 之间的数")).to_be_visible()
    expect(_field(page, "数据集")).to_be_focused()
    _field(page, "数据集").fill("data/<img src=x onerror=alert(1)>.jsonl")
    page.keyboard.press("Escape")
    page.get_by_label("训练轮数").fill("1")
    page.get_by_role("button", name="开始训练").click()
    expect(page.get_by_role("alert")).to_contain_text("dataset_path 不存在：data/<img src=x")


@pytest.mark.thorough
def test_a_failed_run_says_why_in_the_readers_language(open_page: Opener, page_server: Server) -> None:
    path = Path(page_server.home / "data" / "bad.jsonl")
    path.parent.mkdir(exist_ok=True)
    good = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    path.write_text(f"{good}\n{{broken\n")
    body = {"base_model": "tunesmith-small", "dataset_path": "data/bad.jsonl", "max_length": 128}
    run = page_server.post("/train", body).json()["task_id"]
    for language, title, said in (("zh-CN", "失败原因", "行不能用于训练"), ("en-US", "Why it failed", "1 bad row")):
        page = open_page(f"/app/runs/{run}", language=language)  # type: ignore[arg-type]
        expect(page.get_by_text(title)).to_be_visible(timeout=PATIENCE_MS)
        expect(page.get_by_role("alert")).to_contain_text(said)


@pytest.mark.thorough
def test_a_hundred_thousand_points_are_zoomed_and_compared(open_page: Opener, page_server: Server) -> None:
    long, short = ended_run(page_server, 100_000), ended_run(page_server, 50)
    page = open_page(f"/app/runs/{long}", language="en-US")
    all_of_it = page.get_by_role("img", name=re.compile("training: 100000 points; step 1 to 100000"))
    expect(all_of_it).to_be_visible()
    for move in ("Zoom in", "Zoom in", "Move right", "Zoom out", "Show all"):
        page.get_by_role("button", name=move).click()
    expect(all_of_it).to_be_visible()
    page.get_by_role("link", name="All runs").click()
    for run in (long, short):
        page.get_by_role("checkbox", name=f"Compare tiny-{run[:8]}").check()
    page.get_by_role("button", name="Compare curves (2)").click()
    expect(page.get_by_role("heading", name="Curves of 2 runs")).to_be_visible()
    page.reload()
    picture = page.get_by_role("img", name=re.compile("training: 100000 points.*training: 50 points"))
    expect(picture).to_be_visible()
