"""Who may read the metrics."""

from pathlib import Path

import pytest

from tests.unit.http.asking import ask
from tunesmith.http import metrics
from tunesmith.http.door import Door, Identify
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Unauthenticated
from tunesmith.settings import Settings

SETTINGS = Settings(home=Path("/nowhere"))


async def identify(token: str) -> Caller:
    if token not in ("anna", "root"):
        raise Unauthenticated("令牌无效", "the token is not valid")
    return Caller(token, admin=token == "root")


async def page() -> bytes:
    return b"tunesmith:engine_up 1\n"


@pytest.mark.parametrize(
    ("who", "token", "status"),
    [
        (None, None, 200),
        (identify, None, 401),
        (identify, "eve", 401),
        (identify, "anna", 403),
        (identify, "root", 200),
    ],
)
async def test_where_callers_are_known_only_admins_read_them(
    who: Identify | None, token: str | None, status: int
) -> None:
    app = metrics.build(page, Door.of(SETTINGS, identify=who))
    headers = [("Authorization", f"Bearer {token}")] if token else []
    answer = await ask(app, "GET", metrics.PATH, headers)
    assert answer.status == status
    assert (answer.body == await page()) == (status == 200)


async def test_the_page_is_plain_text_and_there_is_nothing_below_it() -> None:
    app = metrics.build(page, Door.of(SETTINGS))
    assert (await ask(app, "GET", metrics.PATH))["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (await ask(app, "GET", f"{metrics.PATH}/more")).status == 404
    assert (await ask(app, "POST", metrics.PATH)).status == 405


async def test_the_server_has_them_at_their_path(tmp_path: Path) -> None:
    from tunesmith.app import compose
    from tunesmith.asgi import create_app

    services = compose(Settings(home=tmp_path))
    try:
        answer = await ask(create_app(services, wants_token=False), "GET", metrics.PATH)
        assert (answer.status, b"# TYPE tunesmith:engine_up gauge" in answer.body) == (200, True)
        assert (await ask(create_app(services, wants_token=True), "GET", metrics.PATH)).status == 401
    finally:
        await services.close()
