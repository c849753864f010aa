"""API keys from the command line."""

import json
import re
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tunesmith.cli.session import run_inside
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Unauthenticated

KEY = re.compile(r"tsk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def ada(tunesmith: Invoke) -> None:
    assert tunesmith("users", "add", "ada", "--password-stdin", stdin="correct horse").exit_code == 0


def owner(home: Path, key: str) -> Caller | None:
    """Whom a server on that home folder takes the bearer for."""

    async def ask(services: object) -> Caller:
        who: Caller = await services.accounts.identify(key)  # type: ignore[attr-defined]
        return who

    try:
        return run_inside(home, ask)
    except Unauthenticated:
        return None


def test_a_key_is_printed_alone_and_the_warning_beside_it(tunesmith: Invoke, home: Path) -> None:
    made = tunesmith("keys", "create", "--user", "ada", "--label", "nightly job")
    key = made.stdout.rstrip("\n")
    assert KEY.fullmatch(key)
    assert "cannot be shown again" in made.stderr
    assert key not in made.stderr
    assert owner(home, key) == Caller("ada")


def test_a_key_is_made_listed_without_its_secret_and_revoked(tunesmith: Invoke, home: Path) -> None:
    made = json.loads(tunesmith("keys", "create", "--user", "ada", "--label", "nightly job", "--json").stdout)
    assert set(made) == {"id", "key", "user"}
    assert made["user"] == "ada"
    assert made["key"].startswith(f"tsk_{made['id']}_")

    listed = tunesmith("keys", "list", "--json").stdout
    (kept,) = json.loads(listed)["keys"]
    assert set(kept) == {"id", "user", "label", "created_at", "revoked_at", "last_used_at"}
    assert (kept["id"], kept["label"], kept["revoked_at"]) == (made["id"], "nightly job", None)
    shown = tunesmith("keys", "list", "--user", "ada").stdout
    assert "nightly job" in shown
    for text in (listed, shown):
        assert made["key"][17:] not in text

    assert tunesmith("keys", "revoke", made["id"]).stdout == f"revoked key {made['id']} of ada\n"
    assert owner(home, made["key"]) is None
    again = json.loads(tunesmith("keys", "revoke", made["id"], "--json").stdout)
    assert again["revoked_at"]
    assert "revoked" in tunesmith("keys", "list").stdout


def test_only_one_users_keys_are_listed_when_asked(tunesmith: Invoke) -> None:
    tunesmith("users", "add", "bob", "--password-stdin", stdin="correct horse")
    tunesmith("keys", "create", "--user", "ada")
    tunesmith("keys", "create", "--user", "bob")
    listed = json.loads(tunesmith("keys", "list", "--user", "bob", "--json").stdout)["keys"]
    assert [key["user"] for key in listed] == ["bob"]


@pytest.mark.parametrize(
    "verb", [["create", "--user", "nobody"], ["list", "--user", "nobody"], ["revoke", "0" * 12], ["revoke", "nothing"]]
)
def test_what_is_not_there_is_not_found(tunesmith: Invoke, verb: list[str]) -> None:
    assert error_of(tunesmith("keys", *verb, "--json"))["kind"] == "not_found"


def test_a_disabled_user_gets_no_key(tunesmith: Invoke) -> None:
    tunesmith("users", "disable", "ada")
    assert error_of(tunesmith("keys", "create", "--user", "ada", "--json"))["kind"] == "conflict"


def test_a_key_needs_a_user(tunesmith: Invoke) -> None:
    assert tunesmith("keys", "create").exit_code == 2
