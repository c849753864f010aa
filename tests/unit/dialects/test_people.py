"""``/users`` and ``/keys``: what the page and a script may do with accounts, and who may not."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp
from tools.openapi import descriptions

from tests.described import Described
from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings

PASSWORD = "correct horse battery staple"
OTHER = "another horse altogether"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = compose(Settings(tmp_path_factory.mktemp("home"), rate_other=100_000))
    made.accounts.add("root", PASSWORD, "admin")
    made.accounts.add("ann", PASSWORD)
    made.accounts.add("ben", PASSWORD)
    yield made
    made.accounts.close()
    made.database.close()


class Asking:
    """Somebody who asks; who has a name has a key."""

    def __init__(self, services: Services, name: str | None = None, *, wants_token: bool = True) -> None:
        transport = httpx.ASGITransport(_app(services, wants_token=wants_token))
        headers = {"Accept-Language": "en"}
        if name is not None:
            headers["Authorization"] = f"Bearer {services.accounts.create_key(name).secret}"
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers)

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self._client.request(method, path, json=body, **options)

    async def done(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self(method, path, body)
        assert answer.status_code == 200, answer.text
        findings = DESCRIBED.findings(method, path.partition("?")[0], answer.json())
        assert not findings, findings
        return answer.json()


DESCRIBED = Described(descriptions())
_apps: dict[tuple[int, bool], ASGIApp] = {}


def _app(services: Services, *, wants_token: bool) -> ASGIApp:
    """The server, made once: that takes longer than a test."""
    key = id(services), wants_token
    if key not in _apps:
        _apps[key] = create_app(services, wants_token=wants_token)
    return _apps[key]


# users


async def test_an_admin_adds_a_user_who_logs_in_is_disabled_and_let_in_again(services: Services) -> None:
    root = Asking(services, "root")
    made = (await root.done("POST", "/users", {"name": "cid", "password": PASSWORD}))["user"]
    assert (made["name"], made["role"], made["disabled"], made["last_login_at"]) == ("cid", "member", False, None)
    issued = await services.accounts.login("cid", PASSWORD, "192.0.2.1")
    listed = {each["name"]: each for each in (await root.done("GET", "/users"))["users"]}
    assert listed["cid"]["last_login_at"] is not None
    assert set(listed) >= {"root", "ann", "ben", "cid"}

    cid, by_token = Asking(services, "cid"), {"Authorization": f"Bearer {issued.token}"}
    assert (await cid("GET", "/models")).status_code == 200
    assert (await cid("GET", "/models", headers=by_token)).status_code == 200
    assert (await root.done("PATCH", "/users/cid", {"disabled": True}))["user"]["disabled"] is True
    assert (await cid("GET", "/models")).status_code == 401
    assert (await cid("GET", "/models", headers=by_token)).status_code == 401
    assert (await root.done("PATCH", "/users/cid", {"disabled": False}))["user"]["disabled"] is False
    assert (await cid("GET", "/models")).status_code == 200
    assert (await cid("GET", "/models", headers=by_token)).status_code == 401  # tokens do not come back

    await root.done("PUT", "/users/cid/password", {"password": OTHER})
    await services.accounts.login("cid", OTHER, "192.0.2.1")


async def test_an_admin_made_here_is_one(services: Services) -> None:
    root = Asking(services, "root")
    await root.done("POST", "/users", {"name": "dan", "password": PASSWORD, "admin": True})
    assert (await Asking(services, "dan").done("GET", "/users"))["total_count"] >= 4
    await root.done("PATCH", "/users/dan", {"disabled": True})


async def test_the_last_admin_who_may_sign_in_stays(services: Services) -> None:
    root = Asking(services, "root")
    answer = await root("PATCH", "/users/root", {"disabled": True})
    assert answer.status_code == 409
    assert "last admin" in answer.text
    await root.done("GET", "/users")


@pytest.mark.parametrize("name", ["ann", "ANN", "ａnn"])
async def test_a_name_that_is_taken_is_a_conflict(services: Services, name: str) -> None:
    answer = await Asking(services, "root")("POST", "/users", {"name": name, "password": PASSWORD})
    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"name": "local", "password": PASSWORD}, "belongs to the command line"),
        ({"name": "a b", "password": PASSWORD}, "a user name is"),
        ({"name": "eve", "password": "short"}, "a password has"),
        ({"name": "eve", "password": "x" * 5000}, "password"),
        ({"name": "eve"}, "the field password is missing"),
        ({"name": "eve", "password": PASSWORD, "admin": "yes"}, "admin"),
        ({"name": "eve", "password": ["canary of a password"]}, "password"),
    ],
)
async def test_what_is_no_user_is_refused_and_its_password_not_repeated(
    services: Services, body: dict[str, Any], says: str
) -> None:
    answer = await Asking(services, "root")("POST", "/users", body)
    assert answer.status_code == 400
    assert says in answer.text
    assert "canary" not in answer.text
    assert str(body.get("password", PASSWORD)) not in answer.text
    assert "eve" not in [user.name for user in services.accounts.list()]


async def test_who_is_not_there_is_not_found_by_an_admin(services: Services) -> None:
    root = Asking(services, "root")
    assert (await root("PATCH", "/users/nobody", {"disabled": True})).status_code == 404
    assert (await root("PUT", "/users/nobody/password", {"password": OTHER})).status_code == 404
    assert (await root("GET", "/keys?user=nobody")).status_code == 404
    assert (await root("POST", "/keys", {"user": "nobody"})).status_code == 404


async def test_refusals_are_told_in_both_languages(services: Services) -> None:
    ann = Asking(services, "ann")
    assert "only admins" in (await ann("GET", "/users")).text
    assert "只有管理员" in (await ann("GET", "/users", headers={"Accept-Language": "zh-CN"})).text


# members


@pytest.mark.parametrize("name", ["ben", "root", "ann", "nobody", "a%2Fb"])
async def test_a_member_may_not_manage_users_and_does_not_learn_which_there_are(services: Services, name: str) -> None:
    ann, before = Asking(services, "ann"), services.accounts.list()
    told = set()
    for method, path, body in (
        ("GET", "/users", None),
        ("POST", "/users", {"name": name, "password": PASSWORD}),
        ("POST", "/users", {"name": ["no name"]}),
        ("PATCH", f"/users/{name}", {"disabled": True}),
        ("PUT", f"/users/{name}/password", {"password": OTHER}),
    ):
        if "/a%2Fb" in path:
            continue
        answer = await ann(method, path, body)
        told.add((answer.status_code, answer.text))
    assert len(told) == 1
    assert told.pop()[0] == 403
    assert services.accounts.list() == before


async def test_a_member_sees_makes_and_revokes_their_own_keys_alone(services: Services) -> None:
    ann, bens = Asking(services, "ann"), services.accounts.create_key("ben", "ben's")
    made = await ann.done("POST", "/keys", {"label": "nightly"})
    assert made["user"] == "ann"
    told = await ann.done("GET", "/keys")
    assert {each["user"] for each in told["keys"]} == {"ann"}
    assert made["key"][17:] not in str(told)
    assert (await ann.done("GET", "/keys?user=ann"))["keys"] == told["keys"]

    others = [await ann("GET", f"/keys?user={name}") for name in ("ben", "nobody")]
    others += [await ann("POST", "/keys", {"user": name}) for name in ("ben", "nobody")]
    assert {(each.status_code, each.text) for each in others} == {(403, others[0].text)}
    assert (await ann("GET", "/keys?everybody=true")).status_code == 403
    missing = [await ann("DELETE", f"/keys/{id}") for id in (bens.id, "0" * 12, "x", bens.secret)]
    assert {(each.status_code, each.text) for each in missing} == {(404, missing[0].text)}
    assert not (await Asking(services, "root").done("GET", "/keys?user=ben"))["keys"][0]["revoked_at"]

    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert (await ann("GET", "/models", headers=bearer)).status_code == 200
    assert (await ann.done("DELETE", f"/keys/{made['id']}"))["key"]["revoked_at"] is not None
    assert (await ann("GET", "/models", headers=bearer)).status_code == 401
    await ann.done("DELETE", f"/keys/{made['id']}")  # twice is fine
    good = {each["id"] for each in (await ann.done("GET", "/keys"))["keys"]}
    every = {each["id"] for each in (await ann.done("GET", "/keys?revoked=true"))["keys"]}
    assert made["id"] in every - good


async def test_an_admin_sees_makes_and_revokes_the_keys_of_all(services: Services) -> None:
    root = Asking(services, "root")
    made = await root.done("POST", "/keys", {"user": "ben", "label": "for ben"})
    assert made["user"] == "ben"
    assert made["id"] in {each["id"] for each in (await root.done("GET", "/keys?user=ben"))["keys"]}
    assert {each["user"] for each in (await root.done("GET", "/keys?everybody=true"))["keys"]} >= {"root", "ben"}
    assert {each["user"] for each in (await root.done("GET", "/keys"))["keys"]} == {"root"}
    await root.done("DELETE", f"/keys/{made['id']}")


async def test_a_key_tells_when_it_was_last_used(services: Services) -> None:
    root = Asking(services, "root")
    made = await root.done("POST", "/keys", {"label": "used"})

    async def last_used() -> str | None:
        [found] = [each for each in (await root.done("GET", "/keys"))["keys"] if each["id"] == made["id"]]
        at: str | None = found["last_used_at"]
        return at

    assert await last_used() is None
    assert (await root("GET", "/models", headers={"Authorization": f"Bearer {made['key']}"})).status_code == 200
    async with asyncio.timeout(30):
        while await last_used() is None:  # noqa: ASYNC110  (what is written beside an answer tells nobody)
            await asyncio.sleep(0.01)


# one's own password


async def test_who_is_logged_in_changes_their_password_and_goes_on_with_the_new_token(services: Services) -> None:
    services.accounts.add("fay", PASSWORD)
    issued = await services.accounts.login("fay", PASSWORD, "192.0.2.1")
    fay, old = Asking(services), {"Authorization": f"Bearer {issued.token}"}
    body = {"old_password": PASSWORD, "new_password": OTHER}
    answer = await fay("PUT", "/session/password", body, headers=old)
    assert answer.status_code == 200
    assert DESCRIBED.findings("PUT", "/session/password", answer.json()) == []
    assert (await fay("GET", "/session", headers=old)).status_code == 401
    new = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert (await fay("GET", "/session", headers=new)).json()["user"] == "fay"
    await services.accounts.login("fay", OTHER, "192.0.2.1")


async def test_a_wrong_old_password_is_forbidden_slowed_and_changes_nothing(services: Services) -> None:
    services.accounts.add("gil", PASSWORD)
    gil = Asking(services, "gil")
    statuses = []
    for number in range(8):
        body = {"old_password": f"guess number {number}", "new_password": OTHER}
        answer = await gil("PUT", "/session/password", body)
        assert "guess number" not in answer.text
        assert OTHER not in answer.text
        statuses.append(answer.status_code)
    assert statuses[:4] == [403] * 4  # 401 would mean that the token is void
    assert statuses[4:] == [429] * 4
    right = await gil("PUT", "/session/password", {"old_password": PASSWORD, "new_password": OTHER})
    assert (right.status_code, "Retry-After" in right.headers) == (429, True)
    # logging in from there is slowed by the same count
    login = await gil("POST", "/api/v1/login", {"username": "gil", "password": PASSWORD})
    assert login.status_code == 429


async def test_a_new_password_that_is_none_is_refused_before_the_old_one_is_looked_at(services: Services) -> None:
    ann = Asking(services, "ann")
    for _ in range(8):
        answer = await ann("PUT", "/session/password", {"old_password": "wrong and wrong", "new_password": "short"})
        assert answer.status_code == 400


# a server that wants no token


async def test_on_this_machine_alone_everybody_manages_users_as_the_command_line_does(services: Services) -> None:
    local = Asking(services, wants_token=False)
    assert (await local.done("GET", "/users"))["total_count"] >= 3
    made = await local.done("POST", "/keys", {"user": "ann"})
    assert (await local.done("GET", "/keys")) == {"keys": [], "total_count": 0}
    await local.done("DELETE", f"/keys/{made['id']}")
    no_account = await local("POST", "/keys", {"label": "whose?"})
    assert no_account.status_code == 409
    body = {"old_password": PASSWORD, "new_password": OTHER}
    assert (await local("PUT", "/session/password", body)).status_code == 409


CALLS = [
    ("GET", "/users", None),
    ("POST", "/users", {"name": "mallory", "password": PASSWORD, "admin": True}),
    ("PATCH", "/users/ann", {"disabled": True}),
    ("PUT", "/users/root/password", {"password": OTHER}),
    ("PUT", "/session/password", {"old_password": PASSWORD, "new_password": OTHER}),
    ("GET", "/keys", None),
    ("GET", "/keys?everybody=true", None),
    ("POST", "/keys", {"user": "root"}),
    ("DELETE", "/keys/" + "0" * 12, None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_open_to_the_network_it_lets_nobody_manage_anybody(
    services: Services, method: str, path: str, body: Any
) -> None:
    before = services.accounts.list(), services.accounts.keys()
    with socket.create_server(("0.0.0.0", 0)):
        answer = await Asking(services, wants_token=False)(method, path, body)
        assert answer.status_code == 403
        assert "tunesmith users" in answer.text
    proxied = await Asking(services, wants_token=False)(method, path, body, headers={"X-Forwarded-For": "127.0.0.1"})
    assert proxied.status_code == 403
    assert (services.accounts.list(), services.accounts.keys()) == before


async def test_where_a_token_is_wanted_the_network_manages_by_token(services: Services) -> None:
    with socket.create_server(("0.0.0.0", 0)):
        root = Asking(services, "root")
        assert (await root("GET", "/users", headers={"X-Forwarded-For": "192.0.2.9"})).status_code == 200
        assert (await Asking(services)("GET", "/users")).status_code == 401
