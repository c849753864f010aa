"""Runs on the page: started by clicks, watched, found again after a reload, canceled, explained."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Opener
from tests.server import Server

pytestmark = pytest.mark.thorough

PATIENCE_MS = 90_000  # until a trainer has begun, on a machine that is busy


def _field(page: Page, label: str) -> Locator:
    """The input of that label; a list of choices has the same one."""
    return page.get_by_label(label).and_(page.locator("input"))


def _write(server: Server, name: str, rows: int) -> None:
    path = server.home / "data" / name
    path.parent.mkdir(exist_ok=True)
    turns = [
        [{"role": "user", "content": f"What is number {n}?"}, {"role": "assistant", "content": f"It is {n}."}]
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))


def _start(page: Page, dataset: str, name: str, epochs: int) -> None:
    page.get_by_role("link", name="Start a run").first.click()
    expect(page.get_by_label("Epochs")).to_have_value("7")
    _field(page, "Dataset").fill(dataset)
    page.keyboard.press("Escape")
    page.get_by_label("Name of the adapter").fill(name)
    page.get_by_label("Epochs").fill(str(epochs))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()


def test_a_run_is_started_watched_and_found_again_in_the_middle(open_page: Opener, page_server: Server) -> None:
    _write(page_server, "tiny.jsonl", 8)
    page = open_page("/app/runs", language="en-US")
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
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


def test_a_run_is_canceled_after_asking(open_page: Opener, page_server: Server) -> None:
    _write(page_server, "long.jsonl", 64)
    page = open_page("/app/runs/new", language="en-US")
    expect(page.get_by_label("Epochs")).to_have_value("7")
    page.get_by_role("link", name="All runs").click()
    _start(page, "data/long.jsonl", "long", 1000)
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("button", name="Keep it running").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_text("canceled")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("link", name="All runs").click()
    expect(page.get_by_role("row", name=re.compile("long.*canceled"))).to_be_visible()


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


def _ended(server: Server, points: int) -> str:
    """A run that was canceled, with so many points to its curve."""
    _write(server, "tiny.jsonl", 8)
    body = {"base_model": "tunesmith-small", "dataset_path": "data/tiny.jsonl", "max_length": 128}
    run = str(server.post("/train", body).json()["task_id"])
    server.post(f"/train/cancel/{run}", {})
    folder = server.home / "runs" / run
    folder.mkdir(exist_ok=True)
    rows = (f'{{"step":{n},"loss":{1 + n % 7 / 10},"time":{n}}}\n' for n in range(1, points + 1))
    (folder / "metrics.jsonl").write_text("".join(rows))
    return run


def test_a_hundred_thousand_points_are_zoomed_and_compared(open_page: Opener, page_server: Server) -> None:
    long, short = _ended(page_server, 100_000), _ended(page_server, 50)
    page = open_page(f"/app/runs/{long}", language="en-US")
    all_of_it = page.get_by_role("img", name=re.compile("training: 100000 points; step 1 to 100000"))
    expect(all_of_it).to_be_visible()
    # a move is one redraw of what is in view; with every point drawn it would take seconds
    slowest = page.evaluate("""async () => {
      const found = [];
      for (const label of ['Zoom in', 'Zoom in', 'Move right', 'Move right', 'Zoom out', 'Show all']) {
        const button = document.querySelector(`button[aria-label="${label}"]`);
        const before = performance.now();
        button.click();
        await new Promise(requestAnimationFrame);
        found.push(performance.now() - before);
      }
      return Math.max(...found);
    }""")
    assert slowest < 1000, slowest
    page.get_by_role("link", name="All runs").click()
    for run in (long, short):
        page.get_by_role("checkbox", name=f"Compare tiny-{run[:8]}").check()
    page.get_by_role("button", name="Compare curves (2)").click()
    expect(page.get_by_role("heading", name="Curves of 2 runs")).to_be_visible()
    page.reload()
    picture = page.get_by_role("img", name=re.compile("training: 100000 points.*training: 50 points"))
    expect(picture).to_be_visible()
