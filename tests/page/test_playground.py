"""The playground: answers side by side, their errors, reloads, blind votes, and what models write."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.page.conftest import FAST, SLOW, Opener, line_of
from tests.page.furnished import LOUD, start_engine
from tests.server import Server
from tunesmith.datasets.preferences import read_preference_file

pytestmark = pytest.mark.timeout(300)  # an engine or a trainer has to begin, on a machine that is busy

BASE = "tunesmith-small"
BOTH = f"/app/playground?model={BASE}&model={LOUD}"
HOSTILE = """<img src=x onerror="document.title='hacked'"><script>document.title='hacked'</script>
[click](javascript:document.title='hacked') ![seen](https://example.org/seen.png) <svg onload=alert(1)>
**bold** [there](https://example.org/)"""


@pytest.fixture(scope="module")
def page_server(furnished: Server) -> Server:
    start_engine(furnished, LOUD)
    return furnished


@pytest.mark.thorough
def test_models_answer_side_by_side_and_one_that_cannot_says_why(open_page: Opener) -> None:
    page = open_page(f"{BOTH}&model=nobody", language="en-US", allowed="404")
    _ask(page, "What is the capital of France?")
    _answered(page)
    expect(_answer(page, BASE)).to_contain_text("tokens/s")
    expect(_answer(page, LOUD)).to_contain_text("first token")
    expect(_answer(page, "nobody").get_by_role("alert")).to_contain_text("no model nobody is loaded")
    _ask(page, "And of\nSpain?")
    _answered(page)
    expect(page.get_by_role("article", name=BASE)).to_have_count(2)
    page.get_by_role("button", name="Copy as code").click()
    code = page.get_by_role("dialog").locator("pre")
    expect(code).to_contain_text("What is the capital of France?")
    page.get_by_role("dialog").get_by_text("Python", exact=True).click()
    expect(code).to_contain_text("from openai import OpenAI")


def test_a_reload_in_the_middle_of_an_answer_shows_what_had_come(open_page: Opener) -> None:
    page = open_page(f"/app/playground?model={LOUD}", language="zh-CN")
    page.get_by_role("button", name="参数").click()
    page.get_by_label("最多词元数").fill("900")
    page.get_by_label("温度").fill("0")  # no draw ends the answer early
    line = line_of(page)
    line(SLOW)
    _ask(page, "你好", label="您的问题")
    answer = _answer(page, LOUD)
    expect(answer.locator(".markdown")).not_to_be_empty()
    expect(answer).to_have_attribute("aria-busy", "true")
    page.reload()
    expect(answer).to_contain_text("已中断")
    line(FAST)  # all that the page asks for as it opens has come before the next answer begins
    expect(answer.locator(".markdown")).not_to_be_empty()
    page.wait_for_load_state("networkidle")
    line(SLOW)
    answer.get_by_role("button", name="重试").click()
    expect(answer.locator(".markdown")).not_to_be_empty()
    page.get_by_role("button", name="停止").click()
    expect(answer).to_contain_text("已停止")


def test_a_blind_vote_hides_names_counts_and_becomes_a_pair_to_train_on(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(BOTH, language="en-US")
    page.get_by_role("button", name="Parameters").click()
    page.get_by_label("Most tokens").fill("16")
    page.get_by_role("switch", name="Blind test").check()
    _ask(page, "Who is the mayor?")
    _answered(page)
    turn = page.get_by_role("region", name="Who is the mayor?")
    expect(turn).not_to_contain_text(BASE)
    expect(turn).not_to_contain_text("token")
    page.get_by_role("group", name="Which answer is better?").get_by_role("button", name="Left").click()
    expect(turn).to_contain_text(LOUD)
    left = turn.get_by_role("article").first.get_attribute("aria-label")
    for _ in range(2):
        page.get_by_role("button", name="Votes (1)").click()
        expect(page.get_by_role("region", name="Votes in this browser")).to_contain_text(f"{left}: 100% [21% – 100%]")
        page.reload()
    page.get_by_role("button", name="Votes (1)").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export preference pairs").click()
    download.value.save_as(tmp_path / "pairs.jsonl")
    [pair] = read_preference_file(tmp_path / "pairs.jsonl")
    assert pair.chosen.prompt[-1].content == "Who is the mayor?"
    said = [turn.get_by_role("article").nth(side).locator(".markdown").inner_text() for side in (0, 1)]
    assert pair.chosen.completion.split() == said[0].split()
    assert pair.rejected.completion != pair.chosen.completion


def test_what_a_model_writes_is_shown_and_never_obeyed(open_page: Opener) -> None:
    page = open_page(f"/app/playground?model={BASE}", language="en-US")
    page.route("**/v1/chat/completions", _say_something_hostile)
    _ask(page, "Be evil")
    answer = _answer(page, BASE)
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer).to_contain_text("<img src=x onerror=")
    assert answer.locator("img, script, svg, iframe, [onerror], [onload]").count() == 0
    links = answer.locator("a[href]").all()
    assert [(link.get_attribute("href"), link.get_attribute("rel")) for link in links] == [
        ("https://example.org/", "noopener noreferrer nofollow")
    ]
    page.get_by_text("Raw", exact=True).click()
    expect(answer.locator(".said")).to_have_text(HOSTILE)
    assert page.title() == "Playground · Tunesmith"


def _say_something_hostile(route: Route) -> None:
    """Whole at once, as a proxy would send it."""
    chunk = {"model": BASE, "choices": [{"index": 0, "delta": {"content": HOSTILE}, "finish_reason": "stop"}]}
    route.fulfill(body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", content_type="text/event-stream")


def _ask(page: Page, question: str, label: str = "Your question") -> None:
    box = page.get_by_label(label)
    first, *rest = question.split("\n")
    box.fill(first)
    for line in rest:
        box.press("Shift+Enter")
        box.press_sequentially(line)
    box.press("Enter")


def _answer(page: Page, model: str) -> Locator:
    return page.get_by_role("article", name=model).last


def _answered(page: Page) -> None:
    expect(page.get_by_role("article").first).to_be_visible()
    expect(page.locator("article[aria-busy=true]")).to_have_count(0, timeout=40_000)
