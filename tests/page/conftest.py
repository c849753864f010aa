"""A real server and a real browser (marker ``browser``), for tests of what somebody sees and does on the page.

Tests here are plain functions: playwright's synchronous interface has an event loop of its own in this thread while the
browser is open, so the browser is closed with the last test of this folder, before any asynchronous test of another.

With ``TUNESMITH_PAGE=<folder>`` the page built into that folder is shown instead of the committed one.
"""

import mimetypes
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.page.answers import Answers
from tests.page.furnished import LOUD, make_talkative_adapter
from tests.server import Server, serving

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
SLOW, FAST = 8_000, -1  # bytes a second; 900 tokens are then under way for eleven seconds, however fast the engine is
_SLOWEST_MS = 30_000  # longest wait for anything on the page, on a machine that is busy

expect.set_options(timeout=_SLOWEST_MS)


class Opener(Protocol):
    """What ``open_page`` is."""

    def __call__(
        self,
        path: str = "/app/",
        *,
        language: Literal["zh-CN", "en-US"] = "zh-CN",
        theme: Literal["light", "dark"] = "light",
        width: int = 1280,
        allowed: str | None = None,
    ) -> Page: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a home folder of its own, shared by the tests of one file."""
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="package")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that several files share where nothing depends on what the others leave: their ``page_server``.

    It has an adapter named ``LOUD``, whose answers are long.
    """
    home = tmp_path_factory.mktemp("home")
    make_talkative_adapter(home, LOUD)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, f"none of {', '.join(_NAMES)} is on this machine"
    with sync_playwright() as play:
        # a container's /dev/shm is often too small for it
        opened = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(page_server: Server, browser: Browser) -> Iterator[Opener]:
    """``open_page(path="/app/", *, language, theme, width, allowed)``: a page of a browser that has been nowhere yet.

    What the browser complains of in its console (refused by the security policy, failed answers, exceptions) fails the
    test at its end, but for what the regular expression ``allowed`` finds. So does an answer of the server that is not as
    the server describes it.
    """
    contexts, complaints, answers = [], [], Answers(page_server.url)

    def opened(
        path: str = "/app/",
        *,
        language: str = "zh-CN",
        theme: Literal["light", "dark"] = "light",
        width: int = 1280,
        allowed: str | None = None,
    ) -> Page:
        context = browser.new_context(
            base_url=page_server.url,
            locale=language,
            color_scheme=theme,
            reduced_motion="reduce",
            viewport={"width": width, "height": 800},
        )
        contexts.append(context)
        context.set_default_timeout(_SLOWEST_MS)
        if built := os.environ.get("TUNESMITH_PAGE"):
            context.route(re.compile("/app/"), lambda route: _show(route, Path(built)))
        page = context.new_page()

        def complain(text: str) -> None:
            if allowed is None or not re.search(allowed, text):
                complaints.append(text)

        page.on("console", lambda said: complain(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complain(str(error)))
        answers.watch(page)
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, "the browser complains:\n" + "\n".join(complaints)
    assert not (told := answers.findings()), "the server answers otherwise than it says:\n" + "\n".join(told)


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], list[str]]:
    """``axe(page)``: what axe-core finds serious or critical on it, one line a rule with the elements it means."""
    source = AXE.read_text()

    def found(page: Page) -> list[str]:
        # a script element would be refused by the page's own policy
        if not page.evaluate("'axe' in window"):
            page.evaluate(source)
        result: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes']]}"
            for each in result["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    return found


def _show(route: Route, built: Path) -> None:
    """Answer with the file in ``built``, under the policy that the server sends."""
    name = route.request.url.split("/app/", 1)[1].partition("?")[0]
    file = built / name
    if name and file.is_file():
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        route.fulfill(body=file.read_bytes(), content_type=media_type)
        return
    if "." in name:  # of the committed page, where a redirect led to it past this function
        route.continue_()
        return
    headers = route.fetch().headers
    [nonce] = re.findall(r"'nonce-([\w-]+)'", headers["content-security-policy"])
    kept = {key: value for key, value in headers.items() if key not in ("content-length", "content-encoding")}
    route.fulfill(body=(built / "index.html").read_text().replace("__NONCE__", nonce), headers=kept)


def line_of(page: Page) -> Callable[[int], None]:
    """How many bytes a second arrive from now on: ``SLOW``, or ``FAST`` as ever."""
    wire = page.context.new_cdp_session(page)

    def runs_at(speed: int) -> None:
        line = {"offline": False, "latency": 0, "downloadThroughput": speed, "uploadThroughput": -1}
        wire.send("Network.emulateNetworkConditions", line)

    return runs_at
