"""Getting in without a password, or with another's name."""

import base64
import hashlib
import hmac
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.attacks.conftest import API, PASSWORD, Attacker, refused, token_of
from tests.server import Server


def encoded(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(claims: dict[str, Any], key: bytes, header: dict[str, Any] | None = None, hash_: str = "sha256") -> str:
    signed = f"{encoded(header or {'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.new(key, signed.encode(), hash_).digest())}"


@pytest.fixture(scope="module")
def claims(server: Server) -> dict[str, Any]:
    """Claims of a good token."""
    payload = token_of(server, "mallory").split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return found


@pytest.fixture(scope="module")
def key(server: Server) -> bytes:
    """The server's own key: even who holds it cannot bend the other rules."""
    return (server.home / "secrets" / "token.key").read_bytes()


def enter(server: Server, authorization: str) -> requests.Response:
    return requests.get(f"{server.url}{API}/models", headers={"Authorization": authorization}, timeout=60)


def test_the_forge_of_these_tests_makes_good_tokens(server: Server, claims: dict[str, Any], key: bytes) -> None:
    assert enter(server, f"Bearer {forged(claims, key)}").status_code == 200


HEADERS = {
    "alg none": {"alg": "none", "typ": "JWT"},
    "alg None": {"alg": "None", "typ": "JWT"},
    "alg empty": {"alg": "", "typ": "JWT"},
    "alg rs256": {"alg": "RS256", "typ": "JWT"},
    "alg hs512": {"alg": "HS512", "typ": "JWT"},
    "alg a list": {"alg": ["HS256"], "typ": "JWT"},
    "no alg": {"typ": "JWT"},
    "kid traversal": {"alg": "HS256", "typ": "JWT", "kid": "../../../dev/null"},
    "kid sql": {"alg": "HS256", "typ": "JWT", "kid": "' OR 1=1 --"},
    "crit": {"alg": "HS256", "typ": "JWT", "crit": ["x"], "x": 1},
    "b64 false": {"alg": "HS256", "typ": "JWT", "b64": False, "crit": ["b64"]},
    "jku": {"alg": "HS256", "typ": "JWT", "jku": "http://127.0.0.1:1/keys"},
    "jwk": {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "AAAA"}},
    "x5u": {"alg": "HS256", "typ": "JWT", "x5u": "http://127.0.0.1:1/keys"},
    "zip": {"alg": "HS256", "typ": "JWT", "zip": "DEF"},
}


@pytest.mark.parametrize("label", HEADERS)
def test_token_header(server: Server, claims: dict[str, Any], key: bytes, label: str) -> None:
    refused(enter(server, f"Bearer {forged(claims, key, HEADERS[label])}"), 401)
    unsigned = forged(claims, key, HEADERS[label]).rpartition(".")[0] + "."
    refused(enter(server, f"Bearer {unsigned}"), 401)


def changed(claims: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


NOW = int(time.time())
CLAIMS = {
    "no exp": {"exp": None},
    "expired": {"exp": NOW - 60},
    "exp a string": {"exp": "soon"},
    "exp infinite": {"exp": 10**400},
    "issued in the future": {"iat": NOW + 3600},
    "no iat": {"iat": None},
    "not before tomorrow": {"nbf": NOW + 86400},
    "wrong audience": {"aud": "another"},
    "no audience": {"aud": None},
    "wrong issuer": {"iss": "another"},
    "no issuer": {"iss": None},
    "no subject": {"sub": None},
    "unknown subject": {"sub": "nobody"},
    "subject a list": {"sub": ["mallory"]},
    "another's name": {"sub": "alice' --"},
    "no jti": {"jti": None},
    "no epoch": {"ver": None},
    "another epoch": {"ver": 99},
}


@pytest.mark.parametrize("label", CLAIMS)
def test_token_claims(server: Server, claims: dict[str, Any], key: bytes, label: str) -> None:
    refused(enter(server, f"Bearer {forged(changed(claims, **CLAIMS[label]), key)}"), 401)


@pytest.mark.parametrize(
    "secret", [b"", b"secret", b"tunesmith", b"default", b"changeme", hashlib.sha256(b"tunesmith").digest()]
)
def test_weak_secrets_do_not_sign(server: Server, claims: dict[str, Any], secret: bytes) -> None:
    refused(enter(server, f"Bearer {forged(claims, secret or bytes(1))}"), 401)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic bWFsbG9yeTpwYXNzd29yZA==",
        "Bearer x y",
        "Bearer " + "a" * 20_000,
        "Bearer ' OR 1=1 --",
        "Bearer tsk_000000000000_" + "A" * 43,
        "Bearer tsk_",
        "Bearer null",
        "Bearer undefined",
        "Bearer é",
        "Token x",
    ],
)
def test_authorization_garbage(server: Server, authorization: str) -> None:
    answer = requests.get(
        f"{server.url}{API}/models", headers={"Authorization": authorization.encode("latin-1")}, timeout=60
    )
    refused(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def raw(server: Server, request: str) -> bytes:
    """What the server answers to bytes that no client library would send."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(request.encode())
        connection.settimeout(10)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_two_authorization_headers_are_refused(server: Server, mallory: Attacker) -> None:
    good = mallory.headers["Authorization"]
    for one, other in ((good, "Bearer x"), ("Bearer x", good), (good, good)):
        answer = raw(
            server,
            f"GET {API}/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: {one}\r\nAuthorization: {other}\r\n"
            "Connection: close\r\n\r\n",
        )
        assert answer.split()[1] == b"401"


@pytest.mark.parametrize(
    "path", ["/login/", "//login", "/Login", "/login%2f", "/./login", "/login;x", "/login/../models"]
)
def test_paths_that_only_look_like_the_open_one_want_a_token(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = raw(
            server,
            f"{method} {API}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )
        assert answer.split()[1] == b"401", (method, path)


@pytest.mark.parametrize("path", ["/API/v1/models", "/api/V1/models", "//api/v1/models", "/api//v1/models", "/api/v1"])
def test_other_spellings_of_the_prefix_reach_nothing(server: Server, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] in (b"401", b"404") and b"training_config" not in answer


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_other_methods_want_a_token_too(server: Server, method: str) -> None:
    answer = requests.request(method, f"{server.url}{API}/models", timeout=60)
    assert answer.status_code == 401


HOSTS = [
    "localhost/x/health?",
    "evil.example",
    "localhost@evil.example",
    "localhost#",
    "",
    "[::1",
    "localhost:99999999",
    "127.0.0.1.evil.example",
]


@pytest.mark.parametrize("host", HOSTS)
def test_badhost(server: Server, host: str) -> None:
    """CVE-2026-48710: a Host that rewrites the path some middleware looks at."""
    for path in (f"{API}/models", "/models", "/ai/chat"):
        answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert answer.split()[1] == b"400", (host, path, answer[:200])


def test_a_token_in_the_query_is_not_one(server: Server, mallory: Attacker) -> None:
    token = mallory.headers["Authorization"].split()[1]
    for name in ("token", "access_token", "api_key", "Authorization"):
        refused(requests.get(f"{server.url}{API}/models", params={name: token}, timeout=60), 401)


def test_neither_tokens_nor_passwords_are_logged(server: Server, mallory: Attacker) -> None:
    token = mallory.headers["Authorization"].split()[1]
    enter(server, f"Bearer {token}x")
    server.post(f"{API}/login", {"username": "mallory", "password": "a wrong password of mallory"})
    log = server.log()
    assert token not in log and PASSWORD not in log and "a wrong password of mallory" not in log


def test_unknown_user_and_wrong_password_are_answered_alike(server: Server) -> None:
    answers = [
        server.post(f"{API}/login", {"username": name, "password": "wrong wrong wrong"}) for name in ("alice", "nobody")
    ]
    first, second = (refused(each, 401) for each in answers)
    assert first == second


def test_a_password_is_never_cut(server: Server) -> None:
    """bcrypt would take the first 72 bytes."""
    refused(server.post(f"{API}/login", {"username": "alice", "password": PASSWORD + "x" * 100}), 401)
    refused(server.post(f"{API}/login", {"username": "alice", "password": "x" * 4000}), 401)
    refused(server.post(f"{API}/login", {"username": "alice", "password": "x" * 1_000_000}), 413)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil.example", "https://127.0.0.1"]
)
def test_a_page_elsewhere_cannot_drive_the_open_dialects(server: Server, origin: str) -> None:
    for path in ("/models/unload?model_name=x", "/train", "/ai/chat"):
        answer = requests.post(server.url + path, headers={"Origin": origin}, data="{}", timeout=60)
        assert answer.status_code == 403, (path, answer.text)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = requests.options(server.url + "/train", headers=preflight, timeout=60)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_nothing_changes_by_get(server: Server, mallory: Attacker) -> None:
    for path in ("/train", "/train/cancel/12345678-1234-5678-1234-567812345678", "/datasets/process", "/login"):
        assert mallory.send("GET", API + path).status_code == 405


def test_every_route_but_login_wants_a_token(server: Server, mallory: Attacker) -> None:
    """Walks what the server says of itself, so that a new path is covered the day it is added."""
    schema = mallory.send("GET", f"{API}/openapi.json").json()
    assert len(schema["paths"]) >= 10
    for path, methods in schema["paths"].items():
        for method in methods:
            if (method, path) != ("post", "/login"):
                answer = requests.request(method, f"{server.url}{API}{path}", timeout=60)
                assert answer.status_code == 401, (method, path)


def test_other_users_records_do_not_exist(mallory: Attacker, alice: Attacker) -> None:
    rows = [{"instruction": f"secret {n}", "input": "", "output": "x"} for n in range(20)]
    raw_id = alice.upload(json.dumps(rows).encode(), name="of alice").json()
    done = alice.post("/datasets/process", {"dataset_id": raw_id["id"], "output_name": "alices"}).json()
    for name in (
        raw_id["path"],
        f"./{raw_id['path']}",
        f"data//raw/{raw_id['path'].rpartition('/')[2]}",
        done["output_path"],
        f"/{done['output_path']}",
        f"{done['output_path']}/train",
        f"{done['output_path']}/train.jsonl",
        f"{done['output_path']}/dataset.json",
        "alices",
        "alices/test",
        "alices/all",
    ):
        assert refused(mallory.post("/train", {"dataset_path": name}), 404)["code"] == "NOT_FOUND", name
    refused(mallory.post("/datasets/process", {"dataset_id": raw_id["id"], "output_name": "stolen"}), 404)
    assert "of alice" not in mallory.send("GET", f"{API}/datasets").text
    task = alice.post("/train", {"dataset_path": done["output_path"], "config": {"num_epochs": 50}}).json()["task_id"]
    refused(mallory.send("GET", f"{API}/train/status/{task}"), 404)
    refused(mallory.post(f"/train/cancel/{task}", {}), 404)
    assert alice.post(f"/train/cancel/{task}", {}).status_code == 200
