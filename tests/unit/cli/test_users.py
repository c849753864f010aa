"""Users from the command line."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tunesmith.cli.session import run_inside
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Unauthenticated

PASSWORD = "correct horse"


def signs_in(home: Path, name: str, password: str) -> bool:
    """Whether a server on that home folder lets them in."""

    async def ask(services: object) -> Caller:
        accounts = services.accounts  # type: ignore[attr-defined]
        return await accounts.identify((await accounts.login(name, password, "192.0.2.1")).token)

    try:
        return run_inside(home, ask).name == name
    except Unauthenticated:
        return False


def test_a_user_is_added_listed_disabled_enabled_and_given_another_password(tunesmith: Invoke, home: Path) -> None:
    added = tunesmith("users", "add", "ada", "--admin", "--password-stdin", "--json", stdin=PASSWORD + "\n")
    assert added.exit_code == 0, added.output
    told = json.loads(added.stdout)
    assert set(told) == {"name", "role", "disabled", "created_at", "last_login_at"}
    assert (told["name"], told["role"], told["disabled"]) == ("ada", "admin", False)
    assert tunesmith("users", "add", "bob", "--password-stdin", stdin=PASSWORD).exit_code == 0
    assert signs_in(home, "ada", PASSWORD)

    listed = json.loads(tunesmith("users", "list", "--json").stdout)["users"]
    assert [(user["name"], user["role"]) for user in listed] == [("ada", "admin"), ("bob", "member")]

    assert json.loads(tunesmith("users", "disable", "bob", "--json").stdout)["disabled"] is True
    assert not signs_in(home, "bob", PASSWORD)
    shown = tunesmith("users", "list").stdout
    assert "disabled" in shown
    assert "admin" in shown
    assert tunesmith("users", "enable", "bob").stdout == "enabled user bob\n"
    assert signs_in(home, "bob", PASSWORD)

    changed = tunesmith("users", "passwd", "bob", "--password-stdin", stdin="another horse\r\n")
    assert (changed.exit_code, changed.stdout) == (0, "changed the password of bob\n")
    assert not signs_in(home, "bob", PASSWORD)
    assert signs_in(home, "bob", "another horse")


def test_an_empty_home_has_no_users(tunesmith: Invoke) -> None:
    assert json.loads(tunesmith("users", "list", "--json").stdout) == {"users": []}
    assert tunesmith("users", "list").stdout == "(none)\n"


def test_only_the_last_line_break_is_no_part_of_the_password(tunesmith: Invoke, home: Path) -> None:
    assert tunesmith("users", "add", "ada", "--password-stdin", stdin="  密码 with blanks  \n").exit_code == 0
    assert signs_in(home, "ada", "  密码 with blanks  ")


@pytest.mark.parametrize("given", ["", "\n", "short\n", "two\nlines of it\n", "x" * 1025, "x" * 1_000_000])
def test_a_password_that_is_none_is_one_clear_problem_and_leaves_no_user(tunesmith: Invoke, given: str) -> None:
    error = error_of(tunesmith("users", "add", "ada", "--password-stdin", "--json", stdin=given))
    assert (error["kind"], error["details"]) == ("invalid", {"field": "password"})
    assert json.loads(tunesmith("users", "list", "--json").stdout) == {"users": []}


@pytest.mark.parametrize("verb", [["users", "add", "ada"], ["users", "passwd", "ada"]])
def test_without_a_terminal_the_password_must_be_on_standard_input(tunesmith: Invoke, verb: list[str]) -> None:
    if verb[1] == "passwd":
        tunesmith("users", "add", "ada", "--password-stdin", stdin=PASSWORD)
    refused = tunesmith(*verb, stdin=PASSWORD)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "--password-stdin" in refused.stderr


def test_a_password_that_is_not_utf_8_is_wrong_usage(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli", "users", "add", "ada", "--password-stdin", "--home", str(home)],
        input=b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe",
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


@pytest.mark.parametrize("name", ["local", "a/b", "a\nb", "x" * 65])
def test_a_bad_name_is_refused_before_a_password_is_asked_for(tunesmith: Invoke, name: str) -> None:
    refused = tunesmith("users", "add", name)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert error_of(tunesmith("users", "add", name, "--json"))["details"] == {"field": "name"}


def test_a_taken_name_is_a_conflict(tunesmith: Invoke) -> None:
    tunesmith("users", "add", "ada", "--password-stdin", stdin=PASSWORD)
    assert (
        error_of(tunesmith("users", "add", "Ada", "--password-stdin", "--json", stdin=PASSWORD))["kind"] == "conflict"
    )


@pytest.mark.parametrize("verb", ["disable", "enable", "passwd"])
def test_an_unknown_user_is_not_found(tunesmith: Invoke, verb: str) -> None:
    assert error_of(tunesmith("users", verb, "nobody", "--json"))["kind"] == "not_found"


def test_the_last_admin_stays(tunesmith: Invoke) -> None:
    tunesmith("users", "add", "ada", "--admin", "--password-stdin", stdin=PASSWORD)
    assert error_of(tunesmith("users", "disable", "ada", "--json"))["kind"] == "conflict"


def test_no_verb_tells_a_password_or_its_hash(tunesmith: Invoke) -> None:
    said = [
        tunesmith("users", "add", "ada", "--password-stdin", "--json", stdin=PASSWORD),
        tunesmith("users", "passwd", "ada", "--password-stdin", stdin=PASSWORD + "!"),
        tunesmith("users", "passwd", "ada", "--password-stdin", "--json", stdin=PASSWORD * 100),
        tunesmith("users", "list", "--json"),
        tunesmith("users", "list"),
    ]
    for result in said:
        assert PASSWORD not in result.output
        assert "argon2" not in result.output


class Terminal:
    """A verb with a terminal before it, its standard output and error in pipes; ended with the block."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.cli", *arguments, "--home", str(home)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TUNESMITH_LANG": "en"},
            start_new_session=True,  # else it would ask on the terminal of whoever runs the tests
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        os.close(self._ours)

    def answer(self, question: str, text: str) -> None:
        """Wait for the question, then type."""
        asked = b""
        while question.encode() not in asked:
            assert self._process.stderr is not None
            letter = self._process.stderr.read(1)
            assert letter, asked
            asked += letter
        os.write(self._ours, text.encode() + b"\n")

    def end(self) -> tuple[int, str, str, str]:
        """Exit code, standard output, the rest of standard error, and what the terminal showed of what was typed."""
        out, err = (text.decode() for text in self._process.communicate(timeout=60))
        os.set_blocking(self._ours, False)
        try:
            shown = os.read(self._ours, 4096).decode()
        except OSError:  # nothing at all
            shown = ""
        return self._process.returncode, out, err, shown


def test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown(home: Path) -> None:
    with Terminal(home, "users", "add", "ada", "--admin") as terminal:
        terminal.answer("new password for ada: ", PASSWORD)
        terminal.answer("once more: ", PASSWORD)
        code, out, err, shown = terminal.end()
    assert (code, out) == (0, "added user ada (admin)\n"), err
    assert PASSWORD not in shown + err
    assert signs_in(home, "ada", PASSWORD)


def test_two_passwords_that_differ_are_wrong_usage(home: Path, tunesmith: Invoke) -> None:
    with Terminal(home, "users", "add", "ada") as terminal:
        terminal.answer("new password for ada: ", PASSWORD)
        terminal.answer("once more: ", PASSWORD + "!")
        code, out, err, _ = terminal.end()
    assert (code, out) == (2, "")
    assert "differ" in err
    assert json.loads(tunesmith("users", "list", "--json").stdout) == {"users": []}
