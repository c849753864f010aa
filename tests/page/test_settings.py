"""Logging in where the server wants a token, being told loudly where it wants none of anybody, and managing users."""

import re
from collections.abc import Callable, Iterator

import pytest
import requests
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
    add_user(home, "max", PASSWORD)
    with serving(home, options=["--require-token"]) as running:
        yield running


def test_a_call_that_is_refused_asks_to_log_in_and_the_page_goes_on(open_page: Opener, guarded: Server) -> None:
    page = open_page(f"{guarded.url}/app/settings", language="en-US", allowed=REFUSED)
    asking = page.get_by_role("dialog", name="Log in")
    _log_in(page, "wrong")
    expect(asking.get_by_role("alert")).to_be_visible()
    _log_in(page, PASSWORD)
    expect(asking).to_be_hidden()
    expect(page.get_by_text("alice", exact=True).first).to_be_visible()
    page.reload()
    expect(page.get_by_text("alice", exact=True).first).to_be_visible()
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
    expect(page.get_by_role("alert").first).to_contain_text("open to the network without a token")
    # nor does it offer what it would refuse
    expect(page.get_by_text("managed only in a terminal of its own machine")).to_be_visible()
    expect(page.get_by_text("tunesmith users add NAME --admin")).to_be_visible()
    expect(page.get_by_role("button", name="Add a user")).to_be_hidden()


def test_an_admin_adds_a_user_whose_key_works_until_it_is_revoked(
    open_page: Opener, guarded: Server, axe: Callable[[Page], list[str]]
) -> None:
    page = open_page(f"{guarded.url}/app/settings", language="en-US", allowed=REFUSED)
    _log_in(page, PASSWORD)
    page.get_by_role("button", name="Add a user").click()
    adding = page.get_by_role("dialog", name="Add a user")
    adding.get_by_role("textbox", name="User name").fill("carol")
    adding.get_by_role("textbox", name="New password").fill(PASSWORD)
    adding.get_by_role("textbox", name="The same once more").fill(f"{PASSWORD}!")
    expect(adding.get_by_role("button", name="Add", exact=True)).to_be_disabled()
    adding.get_by_role("textbox", name="The same once more").fill(PASSWORD)
    assert axe(page) == []
    adding.get_by_role("button", name="Add", exact=True).click()
    users = page.get_by_role("table", name="Users")
    expect(users.get_by_role("row", name="carol")).to_contain_text("active")

    page.get_by_role("button", name="Make a key").click()
    making = page.get_by_role("dialog", name="Make a key")
    making.get_by_role("textbox", name="What for").fill("nightly")
    making.get_by_role("combobox", name="User").select_option("carol")
    making.get_by_role("button", name="Make", exact=True).click()
    told = page.get_by_role("dialog", name="The new key")
    key = told.locator("code").first.inner_text()
    assert re.fullmatch(r"tsk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
    assert _asking_with(guarded, key) == (200, "carol")
    page.keyboard.press("Escape")
    expect(told).to_be_visible()  # a slip does not lose it
    told.get_by_role("button", name="I have copied it").click()
    expect(told).to_be_hidden()
    assert key not in page.content()

    keys = page.get_by_role("table", name="API keys")
    page.get_by_text("Everybody’s", exact=True).click()
    expect(keys.get_by_role("row", name="nightly")).to_contain_text("carol")
    keys.get_by_role("button", name="Revoke the key nightly").click()
    sure = page.get_by_role("dialog", name="Revoke this key")
    sure.get_by_role("button", name="Cancel").click()
    assert _asking_with(guarded, key)[0] == 200
    keys.get_by_role("button", name="Revoke the key nightly").click()
    sure.get_by_role("button", name="Revoke").click()
    expect(sure).to_be_hidden()
    assert _asking_with(guarded, key)[0] == 401
    page.get_by_label("Revoked ones too").check()
    expect(keys.get_by_role("row", name="nightly")).to_contain_text("revoked")


def test_an_admin_disables_and_enables_and_cannot_lock_everybody_out(open_page: Opener, guarded: Server) -> None:
    page = open_page(f"{guarded.url}/app/settings", language="en-US", allowed=rf"{REFUSED}|409")
    _log_in(page, PASSWORD)
    users = page.get_by_role("table", name="Users")
    users.get_by_role("button", name="Disable max").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(users.get_by_role("row", name="max")).to_contain_text("disabled")
    assert _login(guarded, "max", PASSWORD) == 401
    users.get_by_role("button", name="Set password of max").click()
    setting = page.get_by_role("dialog", name="Set the password of max")
    for box in ("New password", "The same once more"):
        setting.get_by_role("textbox", name=box).fill("a password set by the admin")
    setting.get_by_role("button", name="Set password").click()
    expect(setting).to_be_hidden()
    users.get_by_role("button", name="Enable max").click()
    expect(users.get_by_role("row", name="max")).to_contain_text("active")
    assert _login(guarded, "max", "a password set by the admin") == 200
    guarded_token = page.evaluate("sessionStorage.getItem('tunesmith.token')")
    back = {"Authorization": f"Bearer {guarded_token}"}
    body = {"password": PASSWORD}
    assert requests.put(f"{guarded.url}/users/max/password", json=body, headers=back, timeout=60).status_code == 200

    users.get_by_role("button", name="Disable alice").click()
    asking = page.get_by_role("dialog")
    expect(asking).to_contain_text("This is you")
    asking.get_by_role("button", name="Disable").click()
    expect(asking.get_by_role("alert")).to_contain_text("last admin")


def test_a_member_sees_their_own_keys_alone_and_changes_their_password(open_page: Opener, guarded: Server) -> None:
    page = open_page(f"{guarded.url}/app/settings", language="en-US", allowed=REFUSED)
    _log_in(page, PASSWORD, "max")
    expect(page.get_by_text("max", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Make a key")).to_be_visible()
    expect(page.get_by_role("table", name="Users")).to_be_hidden()
    expect(page.get_by_text("Everybody’s")).to_be_hidden()

    page.get_by_role("button", name="Change password").click()
    changing = page.get_by_role("dialog", name="Change password")
    for box, text in (
        ("Old password", "not this one"),
        ("New password", "another horse altogether"),
        ("The same once more", "another horse altogether"),
    ):
        changing.get_by_role("textbox", name=box).fill(text)
    changing.get_by_role("button", name="Change", exact=True).click()
    expect(changing.get_by_role("alert")).to_contain_text("the old password is wrong")
    changing.get_by_role("textbox", name="Old password").fill(PASSWORD)
    changing.get_by_role("button", name="Change", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="Your password was changed.")).to_be_visible()
    page.reload()  # with the token that came with it
    expect(page.get_by_text("max", exact=True)).to_be_visible()
    expect(page.get_by_role("dialog", name="Log in")).to_be_hidden()
    assert _login(guarded, "max", "another horse altogether") == 200


def test_where_no_token_is_wanted_the_first_user_is_made_on_the_page(open_page: Opener, page_server: Server) -> None:
    page = open_page("/app/settings", language="zh-CN", width=360)
    expect(page.get_by_text("还没有用户")).to_be_visible()
    page.get_by_role("button", name="添加用户").click()
    adding = page.get_by_role("dialog", name="添加用户")
    adding.get_by_role("textbox", name="用户名").fill("小明")
    for box in ("新密码", "再输入一次"):
        adding.get_by_role("textbox", name=box).fill(PASSWORD)
    adding.get_by_role("checkbox", name="管理员").check()
    adding.get_by_role("button", name="添加", exact=True).click()
    expect(page.get_by_role("table", name="用户").get_by_role("row", name="小明")).to_contain_text("管理员")
    assert _login(page_server, "小明", PASSWORD) == 200
    assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def _asking_with(server: Server, key: str) -> tuple[int, str]:
    answer = server.get("/session", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code, answer.json().get("user", "")


def _login(server: Server, name: str, password: str) -> int:
    return server.post("/api/v1/login", {"username": name, "password": password}).status_code


def _log_in(page: Page, password: str, name: str = "alice") -> None:
    page.get_by_role("textbox", name="User name").fill(name)
    page.get_by_role("textbox", name="Password").fill(password)
    page.get_by_role("dialog").get_by_role("button", name="Log in").click()
