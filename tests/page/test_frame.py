"""What is round every page: arriving, language, theme, keyboard, and a server that goes away."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Opener
from tests.page.furnished import back_again
from tests.server import Server, serving, wait_until


@pytest.fixture(scope="module")
def page_server(furnished: Server) -> Server:
    return furnished


def test_a_browser_at_the_root_arrives_at_the_page_and_a_program_does_not(
    open_page: Opener, page_server: Server
) -> None:
    page = open_page("/")
    assert page.url == page_server.url + "/app/"
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page_server.get("/").headers["content-type"] == "application/json"


def test_all_that_the_first_page_loads_is_under_300_kb_as_it_is_sent(
    open_page: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_PAGE", raising=False)  # what is shown from a folder is not packed
    page = open_page()
    expect(page.get_by_role("button", name="查看示例数据")).to_be_visible()
    sent = page.evaluate("""['navigation', 'resource'].flatMap((type) => performance.getEntriesByType(type))
        .filter((each) => new URL(each.name).pathname.startsWith('/app/'))
        .map((each) => [each.name, each.encodedBodySize, each.decodedBodySize])""")
    sizes = {name: size for name, size, _ in sent}
    assert len(sizes) > 5 and sum(whole for *_, whole in sent) > sum(sizes.values()) > 0
    assert sum(sizes.values()) < 300_000, sizes


def test_the_language_changes_at_once_and_survives_a_reload(open_page: Opener) -> None:
    page = open_page(language="zh-CN")
    expect(page.get_by_role("link", name="设置")).to_be_visible()
    page.get_by_role("button", name="语言").click()
    for _ in range(2):
        expect(page.get_by_role("link", name="Settings")).to_be_visible()
        expect(page.locator("html")).to_have_attribute("lang", "en")
        page.reload()
    expect(open_page(language="en-US").get_by_role("link", name="Settings")).to_be_visible()


def test_the_theme_changes_at_once_and_survives_a_reload(open_page: Opener) -> None:
    page = open_page(language="en-US", theme="light")
    light = _background(page)
    page.get_by_role("button", name="Dark theme").click()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    assert _background(page) != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    expect(open_page(theme="dark").locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")


def test_the_keyboard_alone_skips_to_the_content_and_opens_every_page(open_page: Opener) -> None:
    page = open_page(language="en-US")
    expect(page.get_by_role("link", name="Home")).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#content$"))
    page.goto("/app/")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links.first).to_be_visible()
    for place in range(links.count()):
        _tab_to(page, links.nth(place).inner_text())
        page.keyboard.press("Enter")
        expect(links.nth(place)).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_place_that_is_not_there_says_so_in_the_page(open_page: Opener) -> None:
    page = open_page("/app/nowhere/at/all", language="en-US")
    expect(page.get_by_text("There is no such page.")).to_be_visible()
    page.get_by_role("link", name="Home").click()
    expect(page.get_by_text("There is no such page.")).to_be_hidden()


def test_a_part_of_the_page_that_does_not_come_is_told_and_asked_for_again(open_page: Opener) -> None:
    page = open_page("/app/settings", language="en-US", allowed="Failed to load resource|dynamically imported module")
    expect(page.get_by_role("heading", level=1, name="Settings")).to_be_visible()
    page.route(re.compile("/app/assets/datasets-"), lambda route: route.abort())
    page.get_by_role("link", name="Datasets").click()
    told = page.get_by_role("alert").filter(has_text="This part of the page could not be fetched")
    expect(told).to_be_visible()
    page.get_by_role("link", name="Settings").click()  # what else there is goes on
    expect(page.get_by_role("heading", level=1, name="Settings")).to_be_visible()
    page.get_by_role("link", name="Datasets").click()
    expect(told).to_be_visible()
    page.unroute_all()
    told.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1, name="Datasets")).to_be_visible()


def test_a_page_of_an_upgraded_server_is_loaded_anew_and_only_once(open_page: Opener) -> None:
    page = open_page("/app/settings", language="en-US", allowed="Failed to load resource|dynamically imported module")
    expect(page.get_by_role("heading", level=1, name="Settings")).to_be_visible()
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    page.route(re.compile("/app/assets/datasets-"), lambda route: route.fulfill(status=404))
    page.route(re.compile("/app/$"), lambda route: route.fulfill(body='<script src="/app/assets/index-new.js">'))
    page.get_by_role("link", name="Datasets").click()
    told = page.get_by_text("This part of the page could not be fetched")
    expect(told).to_be_visible()  # the page that came was the old one again, and is not asked for a second time
    assert [url.rpartition("/")[2] for url in loads] == ["datasets"]


def test_a_server_that_goes_away_and_comes_back_is_told_and_survived(open_page: Opener, tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        page = open_page(f"{server.url}/app/settings", language="en-US", allowed="Failed to load resource")
        page.clock.install()
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        server.process.terminate()
        server.process.wait(30)
        gone = page.get_by_text("The server does not answer. Trying again…")
        wait_until(lambda: _later(page) or gone.is_visible(), "the page does not say that the server is gone", 30)
        with back_again(server):
            wait_until(lambda: _later(page) or gone.is_hidden(), "the page does not see that the server is back", 60)
            expect(page.get_by_text("The server is back.")).to_be_attached()
            page.get_by_role("link", name="Models").click()
            expect(page).to_have_url(re.compile("/app/models$"))
            expect(page.get_by_role("heading", level=1, name="Models")).to_be_visible()


def _later(page: Page) -> None:
    """Let the page's clock go on, past its next question."""
    page.clock.run_for(6_000)
    page.wait_for_timeout(100)  # for what comes of it to come


def _background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def _tab_to(page: Page, text: str) -> None:
    for _ in range(60):
        if page.evaluate("document.activeElement.innerText") == text:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not reach {text!r}")
