"""What comes straight from this machine, and what only looks like it."""

import socket
from typing import Any

import pytest
from fastapi import Request

from tunesmith.http.nearby import check_nearby, open_to_network
from tunesmith.kernel.problems import Forbidden


def asked(client: tuple[str, int] | None = ("127.0.0.1", 5000), **headers: str) -> Request:
    given = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope: dict[str, Any] = {
        "type": "http",
        "client": client,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    return Request(scope)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "[::1]", "127.0.0.1"])
def test_a_request_to_this_machines_own_names_passes(host: str) -> None:
    check_nearby(asked(host=host))
    check_nearby(asked(host=host, origin=f"http://{host}"))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "tunesmith.example.com"},
        {"host": "192.0.2.1:8000"},
        {"host": "localhost.example.com:8000"},
        {"host": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "https://app.example.com"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"x_forwarded_for": "127.0.0.1"},
        {"x_real_ip": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"},
        {"x_forwarded_proto": "https"},
    ],
)
def test_what_came_through_a_proxy_or_from_another_page_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match="straight from this machine") as refused:
        check_nearby(asked(**headers))
    assert "--require-token" in refused.value.zh


@pytest.mark.parametrize("client", [None, ("", 0), ("192.0.2.7", 5000), ("::ffff:192.0.2.7", 5000), ("fe80::1", 5000)])
def test_a_peer_that_is_not_this_machine_is_refused(client: tuple[str, int] | None) -> None:
    with pytest.raises(Forbidden):
        check_nearby(asked(client))


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_server_that_listens_for_others_lets_nobody_pass(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert not open_to_network()
    with socket.create_server((address, 0), family=family):
        assert open_to_network()
        with pytest.raises(Forbidden, match="open to the network"):
            check_nearby(asked())
    check_nearby(asked())
