"""Every page in both languages and both themes: read by axe-core, and kept as a picture in ``build/screenshots/``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import ROOT, Opener

PAGES = ("", "datasets", "runs", "models", "playground", "evaluation", "providers", "settings")
SHOTS = ROOT / "build/screenshots"
_LOST = """() => [...document.querySelectorAll('body *')]
    .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .slice(0, 5).map((each) => each.outerHTML.slice(0, 160))"""


@pytest.fixture(scope="module", autouse=True)
def shots() -> Iterator[Path]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    yield SHOTS


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_in_every_language_theme_and_width(
    name: str, open_page: Opener, axe: Callable[[Page], list[str]]
) -> None:
    page = open_page(f"/app/{name}", language="zh-CN", theme="light")
    for language, switch in (("zh", "语言"), ("en", "Language")):
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            _settled(page)
            page.screenshot(path=SHOTS / f"{name or 'home'}-{language}-{theme}-1280.png")
            if (language, theme) in (("zh", "light"), ("en", "dark")):
                assert axe(page) == []
        page.get_by_role("banner").get_by_role("button", name=switch).click()
    page.set_viewport_size({"width": 360, "height": 800})
    _settled(page)
    page.screenshot(path=SHOTS / f"{name or 'home'}-zh-dark-360.png")
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide, page.evaluate(_LOST)


def _settled(page: Page) -> None:
    """Wait until what the page asked for is there."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("main .mantine-Loader-root, main .mantine-Skeleton-root")).to_have_count(0)
