from pathlib import Path

import pytest

from tunesmith.http.hosts import HostList
from tunesmith.kernel.problems import Invalid
from tunesmith.settings import Settings

HOSTS = HostList("Box.local", ["tune.example.com", "*.Team.example.com"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.20:65535",
        "[::1]",
        "[::1]:8000",
        "[2001:db8::1]:8000",
        "box.local:8000",
        "tune.example.com",
        "Tune.Example.COM:443",
        "a.team.example.com",
        "a.b.team.example.com:8000",
    ],
)
def test_addresses_and_listed_names_are_answered(host: str) -> None:
    assert HOSTS.check([host.encode()]) == host.lower()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "tune.example.com.evil.example",
        "team.example.com",  # the wildcard is for what is below
        "evilteam.example.com",
        "127.0.0.1.evil.example",
        "2130706433",  # no address as it is written today
        "0x7f.1",
        "127.1",
        "box",
    ],
)
def test_a_page_that_rebinds_its_own_name_is_refused(host: str) -> None:
    with pytest.raises(Invalid) as caught:
        HOSTS.check([host.encode()])
    assert host in caught.value.en and caught.value.details == {"field": "host"}


@pytest.mark.parametrize(
    "given",
    [
        [],
        [b""],
        [b"localhost", b"localhost"],
        [b"x/health?"],  # CVE-2026-48710
        [b"localhost/health?"],
        [b"localhost?"],
        [b"localhost#"],
        [b"user@localhost"],
        [b"localhost:"],
        [b"localhost:80:80"],
        [b"localhost:99999"],
        [b"localhost:8e3"],
        [b"localhost "],
        [b"local host"],
        [b"localhost\t"],
        [b"localhost,evil.example"],
        [b"::1"],
        [b"[::1"],
        [b"[localhost]"],
        [b"[127.0.0.1]"],
        [b"[::1%25eth0]"],
        [b"%6cocalhost"],
        ["l\u00f6calhost".encode()],
        [b"a" * 300],
    ],
)
def test_a_malformed_missing_or_repeated_host_is_refused(given: list[bytes]) -> None:
    with pytest.raises(Invalid):
        HOSTS.check(given)


@pytest.mark.parametrize("name", ["", "*", "*.", "a b", "http://a", "a:80", "a/b", "*.*.a", ".a", "10.0.0.0/8"])
def test_a_list_with_something_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        HostList("box", [name])
    assert caught.value.details == {"field": "allowed_hosts"}


def test_the_settings_name_more_hosts() -> None:
    hosts = HostList.of(Settings(home=Path("/nowhere"), allowed_hosts=("a.example",)))
    assert hosts.check([b"a.example:1"]) == "a.example:1"
    with pytest.raises(Invalid):
        hosts.check([b"b.example"])
