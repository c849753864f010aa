"""Logging in where the server wants a token, and being told loudly where it wants none of anybody."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Opener
from tests.server import Server, add_user, serving

pytestmark = pytest.mark.thorough

PASSWORD = "correct horse battery staple"
REFUSED = r"the server responded with a status of 40[13]"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a token."""
    home = tmp_path_factory.mktemp("guarded")
    add_user(home, "alice", PASSWORD, admin=True)
    with serving(home, options=["--require-token"]) as running:
        yield running


def test_a_call_that_is_refused_asks_to_log_in_and_the_page_goes_on(open_page: Opener, guarded: Server) -> None:
    page = open_page(f"{guarded.url}/app/settings", language="en-US", allowed=REFUSED)
    asking = page.get_by_role("dialog", name="Log in")
    _log_in(page, "wrong")
    expect(asking.get_by_role("alert")).to_be_visible()
    _log_in(page, PASSWORD)
    expect(asking).to_be_hidden()
    expect(page.get_by_text("alice", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_text("alice", exact=True)).to_be_visible()
    assert page.evaluate("JSON.stringify(localStorage)").find("ey") == -1
    page.get_by_role("button", name="Log out").click()
    expect(asking).to_be_visible()


def test_who_puts_logging_in_off_is_not_asked_again_and_again(open_page: Opener, guarded: Server) -> None:
    page = open_page(f"{guarded.url}/app/providers", language="en-US", allowed=REFUSED)
    page.get_by_role("button", name="Later").click()
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_text("This server wants to know who you are.")).to_be_visible()
    expect(page.get_by_role("dialog", name="Log in")).to_be_hidden()


def test_a_server_that_is_open_to_the_network_is_said_to_be(open_page: Opener, page_server: Server) -> None:
    page = open_page("/app/settings", language="en-US")
    expect(page.get_by_text("No token; only this machine can reach it")).to_be_visible()
    page.route(
        "**/session", lambda route: route.fulfill(json={**page_server.get("/session").json(), "open_to_network": True})
    )
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("open to the network without a token")


def _log_in(page: Page, password: str) -> None:
    page.get_by_label("User name").fill("alice")
    page.get_by_role("textbox", name="Password").fill(password)
    page.get_by_role("dialog").get_by_role("button", name="Log in").click()
