import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message

from tests.unit.http.asking import Answer, ask
from tunesmith.http import errors
from tunesmith.http.door import Door, caller_of
from tunesmith.http.origins import Origins
from tunesmith.http.rates import Kind, Rates
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Conflict, Problem, Unauthenticated, Unavailable
from tunesmith.settings import Settings

SETTINGS = Settings(home=Path("/nowhere"), rate_training=2, rate_inference=3, rate_other=5)
PAGE = "https://app.example.com"
ANNA = ("Authorization", "Bearer anna-token")
BERT = ("Authorization", "Bearer bert-token")
LIMITS = {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


def paint(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    return {"status": status, "message": message, "details": problem.details if problem else {}}


async def identify(token: str) -> Caller:
    if token == "database-is-down":
        raise Unavailable("不可用", "unavailable")
    if not token.endswith("-token"):
        raise Unauthenticated("令牌无效", "the token is not valid")
    return Caller(token.removesuffix("-token"))


def kind_of(method: str, path: str) -> Kind:
    return "training" if path == "/train" else "inference" if path == "/generate" else "other"


def closed(**changes: Any) -> Door:
    """A door that wants tokens, for everything but logging in and one page."""
    door = Door.of(
        SETTINGS,
        identify=identify,
        open_routes={("POST", "/login"), ("GET", "/about")},
        rates=Rates.of(SETTINGS),
        kind_of=kind_of,
    )
    return replace(door, **changes)


def behind(door: Door | None) -> ASGIApp:
    """A dialect with one path of each kind, mounted as the server does it."""
    app = FastAPI()
    errors.install(app, errors.in_json(paint), door=door)

    async def who(request: Request) -> str:
        return caller_of(request).name

    async def nobody(request: Request) -> bool:
        return "tunesmith.caller" in request.scope.get("state", {})

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            yield "data: 1\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def body(request: Request) -> int:
        return len(await request.body())

    async def bug(request: Request) -> None:
        raise ZeroDivisionError

    async def conflict(request: Request) -> None:
        raise Conflict("冲突", "conflict")

    app.add_api_route("/login", nobody, methods=["POST"])
    app.add_api_route("/about", nobody, methods=["GET"])
    for path in ("/who", "/train", "/generate"):
        app.add_api_route(path, who, methods=["GET", "POST"])
    app.add_api_route("/stream", stream, methods=["GET"], response_model=None)
    app.add_api_route("/body", body, methods=["POST"])
    app.add_api_route("/bug", bug, methods=["GET"])
    app.add_api_route("/conflict", conflict, methods=["GET"])
    outer = Starlette(routes=[Mount("/api/v1", app)])
    outer.router.redirect_slashes = False
    return outer


async def statuses(app: ASGIApp, number: int, *args: Any, **kwargs: Any) -> list[int]:
    return [(await ask(app, *args, **kwargs)).status for _ in range(number)]


# --- identity


async def test_a_token_is_wanted_and_names_the_caller() -> None:
    app = behind(closed())
    answer = await ask(app, path="/api/v1/who", headers=[ANNA])
    assert (answer.status, answer.json()) == (200, "anna")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", "Basic YW5uYTp0b2tlbg==")],
        [("Authorization", "anna-token")],
        [("Authorization", "Bearer anna-token bert-token")],
        [("Authorization", "Bearer anna-token, Bearer bert-token")],
        [("Authorization", "Bearer anna-token\x00")],
        [("Authorization", "Bearer \u00e9-token")],
        [("Authorization", "Bearer " + "a" * 1_000_000 + "-token")],
        [("Authorization", "Bearer " + "=" * 1_000_000 + "-token")],
        [ANNA, BERT],
        [ANNA, ANNA],
        [("X-Api-Key", "anna-token")],
        [("Cookie", "token=anna-token; Authorization=Bearer anna-token")],
        [("Proxy-Authorization", "Bearer anna-token")],
    ],
)
async def test_anything_but_one_bearer_token_is_401_in_the_dialects_shape(headers: list[tuple[str, str]]) -> None:
    answer = await ask(behind(closed()), path="/api/v1/who", headers=headers)
    assert (answer.status, answer["www-authenticate"], answer.json()["status"]) == (401, "Bearer", 401)
    assert answer.names >= LIMITS


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
async def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    answer = await ask(behind(closed()), path="/api/v1/who", headers=[("Authorization", f"{scheme} anna-token")])
    assert answer.status == 200


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "api_key", "Authorization"])
async def test_a_token_in_the_query_is_never_read(name: str) -> None:
    assert (await ask(behind(closed()), path=f"/api/v1/who?{name}=anna-token")).status == 401


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/login"),
        ("PUT", "/login"),
        ("OPTIONS", "/login"),
        ("HEAD", "/login"),
        ("POST", "/login/"),
        ("POST", "//login"),
        ("POST", "/Login"),
        ("POST", "/LOGIN"),
        ("POST", "/login%20"),
        ("POST", "/login%00"),
        ("POST", "/login%2f"),
        ("POST", "/%2flogin"),
        ("POST", "/login;a"),
        ("POST", "/login%3fa"),
        ("POST", "/x/../login"),
        ("POST", "/./login"),
        ("POST", "/login/../who"),
        ("POST", "/%256cogin"),
        ("POST", "/about"),
        ("GET", "/nowhere"),
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("OPTIONS", "/who"),
        ("HEAD", "/who"),
        ("TRACE", "/who"),
        ("DELETE", "/who"),
    ],
)
async def test_what_is_not_opened_by_its_own_name_wants_a_token(method: str, path: str) -> None:
    assert (await ask(behind(closed()), method, f"/api/v1{path}")).status in ((401,) if path else (401, 404))


@pytest.mark.parametrize("path", ["/login", "/%6cogin", "/login?next=/who", "/log%69n?token=x"])
async def test_the_router_and_the_door_read_one_and_the_same_path(path: str) -> None:
    # the server decodes the path once, for both
    answer = await ask(behind(closed()), "POST", f"/api/v1{path}")
    assert (answer.status, answer.json()) == (200, False)  # nobody, whatever the header says


@pytest.mark.parametrize("host", ["x/api/v1/login?", "localhost/api/v1/login?", "localhost/login#"])
async def test_a_host_header_that_spells_an_open_path_opens_nothing(host: str) -> None:
    answer = await ask(behind(closed()), "POST", "/api/v1/who", host=host)
    assert (answer.status, answer.json()["details"]) == (400, {"field": "host"})
    answer = await ask(behind(closed()), "POST", "/api/v1/who", [("X-Original-URL", "/api/v1/login")])
    assert answer.status == 401


async def test_head_passes_the_same_door_as_get() -> None:
    app = behind(closed())
    assert (await ask(app, "HEAD", "/api/v1/about")).status == 200
    assert (await ask(app, "HEAD", "/api/v1/who", [ANNA])).status == 200


async def test_an_open_path_knows_nobody_even_with_a_token() -> None:
    assert (await ask(behind(closed()), path="/api/v1/about", headers=[ANNA])).json() is False


async def test_an_open_door_lets_everybody_in_as_local() -> None:
    answer = await ask(behind(Door.of(SETTINGS)), path="/api/v1/who", headers=[ANNA, ANNA])
    assert (answer.status, answer.json()) == (200, LOCAL.name)
    assert not LIMITS & answer.names


async def test_asking_who_calls_where_no_door_is_is_a_bug() -> None:
    assert (await ask(behind(None), path="/api/v1/who")).status == 500
    with pytest.raises(LookupError):
        caller_of(Request({"type": "http"}))


async def test_a_database_that_is_down_is_not_a_wrong_token() -> None:
    answer = await ask(behind(closed()), path="/api/v1/who", headers=[("Authorization", "Bearer database-is-down")])
    assert answer.status == 503 and answer.names >= LIMITS


async def test_the_message_is_in_the_language_asked_for() -> None:
    english = await ask(behind(closed()), path="/api/v1/who", headers=[("Accept-Language", "en-GB")])
    chinese = await ask(behind(closed()), path="/api/v1/who")
    assert "a token is needed" in english.json()["message"] and "需要访问令牌" in chinese.json()["message"]


async def test_a_websocket_does_not_get_past() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/api/v1/who", "root_path": "", "headers": [], "query_string": b""}
    app = FastAPI()
    errors.install(app, errors.in_json(paint), door=closed())

    @app.websocket("/api/v1/who")
    async def chats(socket: WebSocket) -> None:
        await socket.accept()

    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# --- host, origin


async def test_a_host_that_is_not_ours_is_400_before_anything_else() -> None:
    app = behind(closed())
    for host in ("evil.example", None):
        answer = await ask(app, path="/api/v1/who", headers=[ANNA], host=host)
        assert answer.status == 400 and answer.names >= LIMITS
    assert (await ask(app, path="/api/v1/who", headers=[ANNA, ("Host", "localhost")])).status == 400


async def test_a_page_elsewhere_changes_nothing_even_on_an_open_server() -> None:
    app = behind(Door.of(SETTINGS))
    for headers in ([("Origin", "https://evil.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")]):
        answer = await ask(app, "POST", "/api/v1/who", headers)
        assert answer.status == 403 and answer.json()["status"] == 403
        assert not any(name.startswith("access-control") for name in answer.names)
        assert (await ask(app, "GET", "/api/v1/who", headers)).status == 200


async def test_no_origin_is_reflected() -> None:
    for door in (closed(), closed(origins=Origins([PAGE]))):
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            for path in ("/api/v1/who", "/api/v1/nowhere", "/api/v1/login"):
                answer = await ask(behind(door), method, path, [ANNA, ("Origin", "https://evil.example")])
                assert not any(name.startswith("access-control") for name in answer.names)


async def test_a_listed_page_reads_every_answer_failures_too() -> None:
    app = behind(closed(origins=Origins([PAGE])))
    asked: Sequence[tuple[str, str, list[tuple[str, str]], int]] = [
        ("GET", "/who", [ANNA], 200),
        ("POST", "/who", [ANNA], 200),
        ("POST", "/who", [], 401),
        ("GET", "/nowhere", [ANNA], 404),
        ("DELETE", "/who", [ANNA], 405),
        ("GET", "/bug", [BERT], 500),
        ("POST", "/body", [BERT, ("Content-Length", "99999999")], 413),
    ]
    for method, path, headers, status in asked:
        answer = await ask(app, method, f"/api/v1{path}", [*headers, ("Origin", PAGE)])
        assert (answer.status, answer["access-control-allow-origin"], answer["vary"]) == (status, PAGE, "Origin")
        assert "access-control-allow-credentials" not in answer.names


async def test_a_preflight_is_answered_before_identity_is_asked_and_counts_nothing() -> None:
    app = behind(closed(origins=Origins([PAGE])))
    asks = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    for _ in range(2):
        answer = await ask(app, "OPTIONS", "/api/v1/who", [("Origin", PAGE), *asks])
        assert (answer.status, answer.body, answer["access-control-allow-origin"]) == (204, b"", PAGE)
        assert answer["x-ratelimit-remaining"] == "5"
    answer = await ask(app, "OPTIONS", "/api/v1/who", [("Origin", "https://evil.example"), *asks])
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.names)


async def test_a_page_elsewhere_does_not_use_up_what_its_victim_may_ask() -> None:
    door = Door.of(SETTINGS, rates=Rates.of(SETTINGS), kind_of=kind_of)
    app = behind(door)
    assert set(await statuses(app, 20, "POST", "/api/v1/who", [("Origin", "https://evil.example")])) == {403}
    assert (await ask(app, "POST", "/api/v1/who")).status == 200


# --- rates


@pytest.mark.parametrize("path, limit", [("/train", 2), ("/generate", 3), ("/who", 5)])
async def test_every_answer_says_where_the_caller_stands(path: str, limit: int) -> None:
    app = behind(closed())
    for left in range(limit - 1, -1, -1):
        answer = await ask(app, "POST", f"/api/v1{path}", [ANNA])
        assert answer.status == 200
        assert (answer["x-ratelimit-limit"], answer["x-ratelimit-remaining"]) == (str(limit), str(left))
    answer = await ask(app, "POST", f"/api/v1{path}", [ANNA])
    assert (answer.status, answer["x-ratelimit-remaining"]) == (429, "0")
    assert int(answer["retry-after"]) == answer.json()["details"]["retry_after"] >= 1
    assert answer["x-ratelimit-reset"].isdigit()
    assert (await ask(app, "POST", f"/api/v1{path}", [BERT])).status == 200  # each for themselves


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/nowhere", 404),
        ("DELETE", "/who", 405),
        ("GET", "/conflict", 409),
        ("GET", "/bug", 500),
        ("GET", "/stream", 200),
        ("HEAD", "/who", 200),
        ("OPTIONS", "/who", 405),
    ],
)
async def test_failures_bugs_and_streams_carry_the_headers_and_count(method: str, path: str, status: int) -> None:
    app = behind(closed())
    answer = await ask(app, method, f"/api/v1{path}", [ANNA])
    assert (answer.status, answer["x-ratelimit-remaining"]) == (status, "4")


async def test_guessing_tokens_is_limited_by_address_whatever_is_asked_for() -> None:
    app = behind(closed())
    seen = []
    for number, path in enumerate(["/who", "/train", "/generate", "/nowhere", "/who", "/train", "/who"]):
        headers = [("Authorization", f"Bearer guess-{number}"), ("X-Forwarded-For", f"198.51.100.{number}")]
        seen.append(
            (await ask(app, "POST", f"/api/v1{path}", [*headers, ("Forwarded", f"for=198.51.100.{number}")])).status
        )
    assert seen == [401] * 5 + [429] * 2
    assert (await ask(app, "POST", "/api/v1/login")).status == 429  # logging in counts on the same address
    assert (await ask(app, "POST", "/api/v1/login", client=("192.0.2.2", 1))).status == 200
    # one bad neighbour (or all of them behind one proxy) locks nobody out who has a token
    assert (await ask(app, "POST", "/api/v1/who", [ANNA])).status == 200


async def test_a_token_counts_on_its_user_from_everywhere() -> None:
    app = behind(closed())
    addresses = [(f"192.0.2.{number}", 1) for number in range(6)]
    seen = [(await ask(app, "GET", "/api/v1/who", [ANNA], client=address)).status for address in addresses]
    assert seen == [200] * 5 + [429]


async def test_behind_an_open_door_addresses_count() -> None:
    app = behind(Door.of(SETTINGS, rates=Rates.of(SETTINGS), kind_of=kind_of))
    assert await statuses(app, 3, "POST", "/api/v1/train") == [200, 200, 429]
    assert (await ask(app, "POST", "/api/v1/train", client=("192.0.2.2", 1))).status == 200


async def test_the_body_of_a_refused_request_is_never_read() -> None:
    app = behind(closed())

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    seen: list[int] = []
    scope = {"type": "http", "method": "POST", "path": "/api/v1/body", "root_path": "", "query_string": b""}
    for headers in ([], [(b"host", b"localhost")], [(b"host", b"localhost"), (b"origin", b"https://evil.example")]):
        await app({**scope, "headers": headers, "client": ("192.0.2.1", 1), "state": {}}, receive, send)
    assert seen == [400, 401, 403]


async def test_a_parallel_burst_of_one_user_gets_exactly_the_limit() -> None:
    app = behind(closed())
    answers: list[Answer] = await asyncio.gather(*(ask(app, "POST", "/api/v1/generate", [ANNA]) for _ in range(50)))
    assert sorted(each.status for each in answers) == [200] * 3 + [429] * 47
