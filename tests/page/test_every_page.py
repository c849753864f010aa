"""Every page in both languages, both themes and at every width: read by axe-core, and kept as a picture in
``build/screenshots/``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import ROOT, Opener

PAGES = ("", "datasets", "runs", "models", "playground", "evaluation", "providers", "settings")
SHOTS = ROOT / "build/screenshots"
WIDEST_LINE = 1600  # pixels of one line of running text: more is hard to read back from its end
_LOST = """() => [...document.querySelectorAll('body *')]
    .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .slice(0, 5).map((each) => each.outerHTML.slice(0, 160))"""
# what somebody reads in lines: not the cells of a table, nor code, which scroll by themselves
_STRETCHED = """(most) => {
    const found = [], texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      if (texts.currentNode.parentElement.closest('table, pre, code, [role=table]')) continue;
      const range = document.createRange();
      range.selectNodeContents(texts.currentNode);
      for (const line of range.getClientRects())
        if (line.width > most) found.push(`${Math.round(line.width)}: ${texts.currentNode.textContent.slice(0, 80)}`);
    }
    return found;
  }"""


@pytest.fixture(scope="module", autouse=True)
def shots() -> Iterator[Path]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    yield SHOTS


@pytest.mark.timeout(400)
def test_every_page_is_whole_in_every_language_theme_and_width(
    open_page: Opener, axe: Callable[[Page], list[str]]
) -> None:
    # one document for all: each of these opens by itself in the tests of the frame
    page = open_page(language="zh-CN", theme="light")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_count(len(PAGES))
    for place, name in enumerate(PAGES):
        links.nth(place).click()
        expect(links.nth(place)).to_have_attribute("aria-current", "page")
        _look(page, name or "home", axe)


def _look(page: Page, name: str, axe: Callable[[Page], list[str]]) -> None:
    for language, switch in (("zh", "语言"), ("en", "Language")):
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", theme)
            _settled(page)
            page.screenshot(path=SHOTS / f"{name}-{language}-{theme}-1280.png")
            if (language, theme) in (("zh", "light"), ("en", "dark")):
                assert axe(page) == []
        for width, height in ((360, 800), (3840, 2160)):
            page.set_viewport_size({"width": width, "height": height})
            _settled(page)
            if width == 360 or language == "en":  # the widest takes longest
                page.screenshot(path=SHOTS / f"{name}-{language}-dark-{width}.png")
            wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not wide, (name, width, page.evaluate(_LOST))
        assert page.evaluate(_STRETCHED, WIDEST_LINE) == [], name
        page.set_viewport_size({"width": 1280, "height": 800})
        page.get_by_role("banner").get_by_role("button", name=switch).click()


def _settled(page: Page) -> None:
    """Wait until what the page asked for is there."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("main .mantine-Loader-root, main .mantine-Skeleton-root")).to_have_count(0)
