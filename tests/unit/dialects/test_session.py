"""``/session``: whom the server takes a client for, and whether it says so when everybody may come in."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from tunesmith import __version__
from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = compose(Settings(tmp_path_factory.mktemp("home")))
    yield made
    made.database.close()


def client(services: Services, *, wants_token: bool) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(services, wants_token=wants_token))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")


async def test_where_no_token_is_wanted_everybody_is_the_admin_of_this_machine(services: Services) -> None:
    assert (await client(services, wants_token=False).get("/session")).json() == {
        "user": "local",
        "admin": True,
        "wants_token": False,
        "open_to_network": False,
        "version": __version__,
        "home": str(services.home.root),
    }


async def test_where_one_is_wanted_it_says_whose_it_is_and_a_member_is_not_told_the_home_folder(
    services: Services,
) -> None:
    services.accounts.add("alice", "correct horse battery staple")
    key = services.accounts.create_key("alice", "").secret
    asking = client(services, wants_token=True)
    assert (await asking.get("/session")).status_code == 401
    told = (await asking.get("/session", headers={"Authorization": f"Bearer {key}"})).json()
    assert (told["user"], told["admin"], told["wants_token"], told["home"]) == ("alice", False, True, None)


async def test_a_server_that_others_can_reach_without_a_token_says_so(services: Services) -> None:
    with socket.create_server(("0.0.0.0", 0)):
        assert (await client(services, wants_token=False).get("/session")).json()["open_to_network"] is True
        key = services.accounts.create_key("alice", "").secret
        told = await client(services, wants_token=True).get("/session", headers={"Authorization": f"Bearer {key}"})
        assert told.json()["open_to_network"] is False
