"""Starting the server: addresses, ports, and who may reach it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tunesmith.cli.serve import is_loopback, listening, url_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False)],
)  # fmt: skip
def test_only_loopback_addresses_count_as_closed(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_port_in_use_is_a_conflict_that_names_it(tunesmith: Invoke, home: Path) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        error = error_of(tunesmith("serve", "--port", str(port), "--json"))
    assert error["kind"] == "conflict"
    assert error["details"]["port"] == port
    assert not home.exists()


def test_a_host_without_address_is_invalid(tunesmith: Invoke) -> None:
    assert error_of(tunesmith("serve", "--host", "no such host.invalid", "--json"))["kind"] == "invalid"


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_the_url_is_one_a_person_can_open(host: str, shown: str) -> None:
    with listening("127.0.0.1", 0) as bound:
        assert url_of(host, bound) == f"http://{shown}:{bound.getsockname()[1]}"


def test_two_ports_answer_and_sigterm_ends_with_0(home: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tunesmith.cli", "serve", "--port", "0", "--port", "0", "--json", "--home", str(home)],
        env=os.environ | {"TUNESMITH_LANG": "en"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        assert len(set(ready["urls"])) == 2
        for url in ready["urls"]:
            with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
                assert json.load(answer)["status"] == "healthy"
        server.send_signal(signal.SIGTERM)
        rest, log = server.communicate(timeout=30)
        assert (server.returncode, rest) == (0, ""), log
    finally:
        server.kill()
        server.communicate()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", _port(ready["urls"][0]))):
        pass


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
