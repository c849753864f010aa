"""The page as the server hands it out: to browsers alone at ``/``, packed, and under a strict policy."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tunesmith.app import compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings
from tunesmith.web import page

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.AsyncClient]:
    services = compose(Settings(tmp_path_factory.mktemp("home")))
    transport = httpx.ASGITransport(create_app(services, wants_token=True))
    yield httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
    services.database.close()


async def test_a_browser_that_opens_the_root_is_sent_to_the_page_and_a_program_is_not(
    client: httpx.AsyncClient,
) -> None:
    sent = await client.get("/", headers=BROWSER)
    assert sent.status_code == 307 and sent.headers["location"] == "/app/" and "Accept" in sent.headers["vary"]
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert (await client.get("/", headers=headers)).status_code in (200, 401)


async def test_the_page_wants_no_token_and_runs_no_script_but_its_own(client: httpx.AsyncClient) -> None:
    answers = [await client.get("/app/", headers=BROWSER) for _ in range(2)]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    for answer, policy in zip(answers, policies, strict=True):
        assert answer.status_code == 200 and "script-src 'self';" in policy and "unsafe" not in policy
        [nonce] = re.findall(r"'nonce-([\w-]+)'", policy)
        assert f'content="{nonce}"' in answer.text and "__NONCE__" not in answer.text
        assert not re.search(r"(src|href)=.?(https?:)?//", answer.text)
    assert policies[0] != policies[1]


async def test_a_place_within_the_page_is_the_page_and_a_file_that_is_not_there_is_not(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/app/runs/abc")).text.startswith("<!doctype html>")
    for path in (
        "/app/assets/no.js",
        "/app/%2e%2e/page.py",
        "/app/assets/%2e%2e%2f%2e%2e%2fpage.py",
        "/app/page.py",
        "/app/x.map",
    ):
        assert (await client.get(path)).status_code == 404, path


async def test_scripts_come_packed_and_are_kept_for_ever(client: httpx.AsyncClient) -> None:
    index = (await client.get("/app/")).text
    [script] = re.findall(r'src="([^"]+\.js)"', index)
    packed = await client.get(script, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip" and "immutable" in packed.headers["cache-control"]
    assert packed.headers["content-type"].startswith("text/javascript")
    plain = await client.get(script, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == packed.content


async def test_another_host_name_gets_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/app/", headers={"Host": "evil.example"})).status_code in (400, 403)


def test_what_is_opened_first_is_small() -> None:
    index = (page.BUILT / "index.html").read_text()
    first = [page.BUILT / Path(name).relative_to("/app") for name in re.findall(r'(?:src|href)="([^"]+)"', index)]
    files = page._files()
    sizes = [len(file.packed or file.content) for file in (files[p.relative_to(page.BUILT).as_posix()] for p in first)]
    assert sum(sizes) < 300_000
