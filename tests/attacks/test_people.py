"""Becoming an admin, or keeping others out, by what manages users and keys."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.attacks.conftest import API, OPEN_LIMITS, PASSWORD, Attacker, token_of
from tests.server import Server, add_user, serving

ADMIN = {"name": "intruder", "password": PASSWORD, "admin": True}
CHANGES: list[tuple[str, str, Any]] = [
    ("POST", "/users", ADMIN),
    ("PATCH", "/users/root", {"disabled": True}),
    ("PATCH", "/users/mallory", {"disabled": False}),
    ("PUT", "/users/root/password", {"password": "chosen by mallory"}),
    ("POST", "/keys", {"user": "root"}),
    ("GET", "/users", None),
    ("GET", "/keys?everybody=true", None),
    ("GET", "/keys?user=root", None),
]
ELSEWHERE = ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:1", "https://app.example.com"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a token."""
    home = tmp_path_factory.mktemp("guarded")
    for name, admin in (("root", True), ("second", True), ("mallory", False), ("alice", False)):
        add_user(home, name, PASSWORD, admin=admin)
    with serving(home, OPEN_LIMITS, ["--require-token"]) as running:
        yield running


@pytest.fixture(scope="module")
def insider(guarded: Server) -> Attacker:
    """A member who means harm."""
    return Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, 'mallory')}", "Accept-Language": "en"})


@pytest.fixture(scope="module")
def root(guarded: Server) -> Attacker:
    return Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, 'root')}"})


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants no token, for this machine alone, with one page elsewhere that may use the models."""
    home = tmp_path_factory.mktemp("local")
    add_user(home, "root", PASSWORD, admin=True)
    with serving(home, {"TUNESMITH_CORS_ORIGINS": "https://app.example.com"}) as running:
        yield running


def people(root: Attacker) -> Any:
    return [root.send("GET", path).json() for path in ("/users", "/keys?everybody=true")]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_a_member_manages_nobody(insider: Attacker, root: Attacker, method: str, path: str, body: Any) -> None:
    before = people(root)
    for options in ({"json": body}, {"json": body, "headers": {"X-Forwarded-For": "127.0.0.1"}}):
        answer = insider.send(method, path, **options)
        assert answer.status_code == 403, answer.text
        assert "only admins" in answer.text
    assert people(root) == before


def test_a_member_does_not_learn_which_users_there_are(insider: Attacker) -> None:
    for method, path, body in (
        ("PATCH", "/users/{}", {"disabled": True}),
        ("PUT", "/users/{}/password", {"password": PASSWORD}),
        ("GET", "/keys?user={}", None),
    ):
        told = [insider.send(method, path.format(name), json=body) for name in ("alice", "nobody", "root", "local")]
        assert len({(each.status_code, each.text) for each in told}) == 1
    told = [insider.send("POST", "/users", json={**ADMIN, "name": name}) for name in ("alice", "nobody", "local", "")]
    told += [insider.send("POST", "/keys", json={"user": name}) for name in ("alice", "nobody")]
    assert {each.status_code for each in told} == {403}
    assert len({each.text for each in told[:4]}) == len({each.text for each in told[4:]}) == 1


def test_another_members_key_is_neither_seen_nor_revoked(guarded: Server, insider: Attacker, root: Attacker) -> None:
    made = root.send("POST", "/keys", json={"user": "alice", "label": "canary"}).json()
    answers = [insider.send("DELETE", f"/keys/{id}") for id in (made["id"], "0" * 12, made["key"], "..%2fusers", "%00")]
    assert {each.status_code for each in answers} == {404}
    assert made["key"] not in "".join(each.text for each in answers)
    assert "canary" not in insider.send("GET", "/keys?revoked=true").text
    assert guarded.get("/models", headers={"Authorization": f"Bearer {made['key']}"}).status_code == 200


def test_roles_are_not_to_be_had_by_saying_more(guarded: Server, insider: Attacker, root: Attacker) -> None:
    body = {"label": "x", "admin": True, "role": "admin", "id": "0" * 12, "key": "tsk_mine"}
    made = insider.send("POST", "/keys", json=body).json()
    assert made["user"] == "mallory" and made["key"] != "tsk_mine"
    session = guarded.get("/session", headers={"Authorization": f"Bearer {made['key']}"}).json()
    assert (session["user"], session["admin"]) == ("mallory", False)
    root.send("PATCH", "/users/alice", json={"disabled": False, "role": "admin", "admin": True})
    assert [each["role"] for each in people(root)[0]["users"] if each["name"] == "alice"] == ["member"]


def test_all_admins_at_once_do_not_lock_everybody_out(guarded: Server, root: Attacker) -> None:
    second = Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, 'second')}"})
    asks = [(root, "second"), (second, "root")] * 4
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda ask: ask[0].send("PATCH", f"/users/{ask[1]}", json={"disabled": True}), asks))
    in_ = [name for name in ("root", "second") if _login(guarded, name) == 200]
    assert len(in_) == 1
    left = Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, in_[0])}"})
    assert left.send("PATCH", f"/users/{in_[0]}", json={"disabled": True}).status_code == 409
    for name in ("root", "second"):
        assert left.send("PATCH", f"/users/{name}", json={"disabled": False}).status_code == 200
    root.headers["Authorization"] = f"Bearer {token_of(guarded, 'root')}"  # the old one went with being disabled


def test_a_disabled_users_tokens_and_keys_stop_and_make_nothing_more(guarded: Server, root: Attacker) -> None:
    assert root.send("POST", "/users", json={"name": "eve", "password": PASSWORD, "admin": True}).status_code == 200
    eve = Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, 'eve')}"})
    key = eve.send("POST", "/keys", json={}).json()["key"]
    root.send("PATCH", "/users/eve", json={"disabled": True})
    for bearer in (eve.headers["Authorization"], f"Bearer {key}"):
        for method, path, body in CHANGES:
            answer = requests.request(
                method, guarded.url + path, json=body, headers={"Authorization": bearer}, timeout=60
            )
            assert answer.status_code == 401
    assert root.send("POST", "/keys", json={"user": "eve"}).status_code == 409


def test_guessing_ones_own_old_password_is_slowed_like_logging_in(guarded: Server, root: Attacker) -> None:
    root.send("POST", "/users", json={"name": "victim", "password": PASSWORD})
    stolen = Attacker(guarded, {"Authorization": f"Bearer {token_of(guarded, 'victim')}"})

    def guess(number: int) -> int:
        body = {"old_password": f"guess {number}", "new_password": "chosen by mallory"}
        return stolen.send("PUT", "/session/password", json=body).status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(guess, range(30)))
    assert statuses.count(403) <= 4 and set(statuses) == {403, 429}
    body = {"old_password": PASSWORD, "new_password": "chosen by mallory"}
    assert stolen.send("PUT", "/session/password", json=body).status_code == 429


@pytest.mark.parametrize("origin", ELSEWHERE)
@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_a_page_elsewhere_manages_nobody_on_a_server_without_tokens(
    local: Server, origin: str, method: str, path: str, body: Any
) -> None:
    """Also one that may use the models: whoever is made an admin stays one."""
    asked = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    for headers in (asked, {"Origin": origin}, {**asked, "Content-Type": "text/plain"}):
        answer = requests.request(method, local.url + path, json=body, headers=headers, timeout=60)
        assert answer.status_code == 403, answer.text
    assert [each["name"] for each in local.get("/users").json()["users"]] == ["root"]
    assert local.get("/keys?everybody=true&revoked=true").json()["keys"] == []


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"])
def test_what_came_through_a_proxy_manages_nobody_on_a_server_without_tokens(local: Server, header: str) -> None:
    for method, path, body in CHANGES:
        answer = requests.request(method, local.url + path, json=body, headers={header: "127.0.0.1"}, timeout=60)
        assert answer.status_code == 403, answer.text
    assert local.get("/users").status_code == 200


def test_a_server_open_to_the_network_lets_nobody_manage_users(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("open")
    add_user(home, "root", PASSWORD, admin=True)
    with serving(home, OPEN_LIMITS, ["--host", "0.0.0.0", "--insecure-open"]) as server:
        token = f"Bearer {token_of(server, 'root')}"
        for method, path, body in [*CHANGES, ("GET", "/keys", None), ("DELETE", "/keys/" + "0" * 12, None)]:
            for headers in ({}, {"Authorization": token}, {"Host": "localhost"}):
                answer = requests.request(method, server.url + path, json=body, headers=headers, timeout=60)
                assert answer.status_code == 403, answer.text
                assert "--require-token" in answer.text
        assert server.post(f"{API}/login", {"username": "intruder", "password": PASSWORD}).status_code == 401
        assert _login(server, "root") == 200


def test_passwords_and_keys_are_in_no_answer_log_or_file(guarded: Server, root: Attacker) -> None:
    canary = "a canary of a password"
    told = [
        root.send("POST", "/users", json={"name": "quiet", "password": canary}),
        root.send("POST", "/users", json={"name": "quiet", "password": canary}),
        root.send("POST", "/users", json={"name": "b a d", "password": canary}),
        root.send("POST", "/users", json={"name": "quiet2", "password": [canary]}),
        root.send("PUT", "/users/quiet/password", json={"password": canary}),
        root.send("PUT", "/users/nobody/password", json={"password": canary}),
        root.send("PUT", "/session/password", json={"old_password": canary, "new_password": canary}),
        root.send("GET", "/users"),
    ]
    assert [each.status_code for each in told] == [200, 409, 400, 400, 200, 404, 403, 200]
    key = root.send("POST", "/keys", json={"user": "quiet"}).json()["key"]
    told += [root.send("DELETE", f"/keys/{key}"), root.send("GET", "/keys?everybody=true&revoked=true")]
    files = [file.read_bytes() for file in guarded.home.rglob("*") if file.is_file()]
    for secret in (canary, key[17:]):
        assert not any(secret in each.text for each in told)
        assert not any(secret.encode() in each for each in files)
    log = guarded.log()
    assert "user_added" in log and "key_made" in log and "$argon2" not in log


def _login(server: Server, name: str) -> int:
    return server.post(f"{API}/login", {"username": name, "password": PASSWORD}).status_code
