"""Keys of providers from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.cli.test_users import Terminal
from tests.upstreams.together_api import LLAMA, QWEN, TogetherApi
from tunesmith.cli.session import opened

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENROUTER_API_KEY", "TOGETHER_API_KEY", "FIREWORKS_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def used(home: Path) -> str | None:
    """The key a server on that home folder would use."""
    with opened(home) as services:
        return services.vault.get("openrouter")


def test_a_key_is_set_listed_replaced_and_forgotten(tunesmith: Invoke, home: Path) -> None:
    assert json.loads(tunesmith("providers", "list", "--json").stdout)["keys"] == []
    done = tunesmith("providers", "set-key", "openrouter", "--key-stdin", stdin=KEY + "\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "stored the key of openrouter\n", "")
    assert used(home) == KEY

    [held] = json.loads(tunesmith("providers", "list", "--json").stdout)["keys"]
    assert set(held) == {"provider", "source", "set_by", "set_at", "hint", "opens"}
    assert (held["provider"], held["source"], held["set_by"], held["hint"]) == ("openrouter", "stored", "local", "cdef")
    assert "…cdef" in tunesmith("providers", "list").stdout

    again = tunesmith("providers", "set-key", "openrouter", "--key-stdin", "--json", stdin=f"  {KEY}X\r\n")
    assert json.loads(again.stdout)["hint"] == "defX"
    assert used(home) == KEY + "X"

    assert tunesmith("providers", "forget-key", "openrouter").stdout == "removed the key of openrouter\n"
    assert used(home) is None
    assert tunesmith("providers", "forget-key", "openrouter").stdout == "no key of openrouter was stored\n"
    told = json.loads(tunesmith("providers", "forget-key", "openrouter", "--json").stdout)
    assert told == {"provider": "openrouter", "forgotten": False}


def test_the_environments_key_is_listed_and_said_to_win(
    tunesmith: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    done = tunesmith("providers", "set-key", "openrouter", "--key-stdin", stdin="another-key-of-openrouter")
    assert done.exit_code == 0 and "environment" in done.stderr
    assert used(home) == KEY
    listed = json.loads(tunesmith("providers", "list", "--json").stdout)["keys"]
    assert [(key["source"], key["hint"]) for key in listed] == [("environment", "cdef"), ("stored", "uter")]
    assert "stays in use" in tunesmith("providers", "forget-key", "openrouter").stderr
    assert used(home) == KEY


@pytest.mark.parametrize("given", ["", "\n", "  \r\n"])
def test_an_empty_key_is_wrong_usage(tunesmith: Invoke, given: str) -> None:
    refused = tunesmith("providers", "set-key", "openrouter", "--key-stdin", stdin=given)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    "given", ["short", "two words of it", "two\nlines\n", "密钥密钥密钥密钥", "x" * 513, "x" * 10_000]
)
def test_what_no_key_can_be_is_one_clear_problem_that_does_not_quote_it(tunesmith: Invoke, given: str) -> None:
    result = tunesmith("providers", "set-key", "openrouter", "--key-stdin", "--json", stdin=given)
    error = error_of(result)
    assert (error["kind"], error["details"]) == ("invalid", {"field": "key"})
    assert given not in result.output
    assert json.loads(tunesmith("providers", "list", "--json").stdout)["keys"] == []


def test_bytes_that_are_no_text_are_no_key(home: Path) -> None:
    command = [sys.executable, "-m", "tunesmith.cli", "providers", "set-key", "openrouter", "--key-stdin"]
    done = subprocess.run([*command, "--home", str(home)], input=b"\xff" * 20, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)


def test_a_key_is_never_an_argument(tunesmith: Invoke, home: Path) -> None:
    for arguments in (["openrouter", KEY], ["openrouter", "--key", KEY], ["openrouter", "--key-stdin", KEY]):
        assert tunesmith("providers", "set-key", *arguments, stdin=KEY).exit_code == 2
    assert used(home) is None


def test_without_a_terminal_the_key_must_be_on_standard_input(tunesmith: Invoke) -> None:
    refused = tunesmith("providers", "set-key", "openrouter", stdin=KEY)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "--key-stdin" in refused.stderr


def test_on_a_terminal_the_key_is_asked_for_and_never_shown(home: Path) -> None:
    with Terminal(home, "providers", "set-key", "openrouter") as terminal:
        terminal.answer("key of openrouter: ", KEY)
        code, out, err, shown = terminal.end()
    assert (code, out) == (0, "stored the key of openrouter\n"), err
    assert KEY not in shown + err
    assert used(home) == KEY


@pytest.mark.parametrize("verb", [["set-key", "nobody"], ["forget-key", "nobody"]])
def test_an_unknown_provider_is_refused_before_a_key_is_asked_for(tunesmith: Invoke, verb: list[str]) -> None:
    error = error_of(tunesmith("providers", *verb, "--json"))
    assert (error["kind"], error["details"]) == ("invalid", {"field": "provider"})
    assert "openrouter" in error["message"]


def test_a_key_that_does_not_open_any_more_is_listed_as_such(tunesmith: Invoke, home: Path) -> None:
    tunesmith("providers", "set-key", "openrouter", "--key-stdin", stdin=KEY)
    (home / "secrets" / "vault.key").write_bytes(os.urandom(32))
    shown = tunesmith("providers", "list")
    assert shown.exit_code == 0 and "cannot be opened" in shown.stdout
    assert json.loads(tunesmith("providers", "list", "--json").stdout)["keys"][0]["opens"] is False


def test_no_verb_tells_the_key(tunesmith: Invoke) -> None:
    said = [
        tunesmith("providers", "set-key", "openrouter", "--key-stdin", "--json", stdin=KEY),
        tunesmith("providers", "set-key", "openrouter", "--key-stdin", stdin=KEY),
        tunesmith("providers", "list", "--json"),
        tunesmith("providers", "list"),
        tunesmith("providers", "forget-key", "openrouter", "--json"),
    ]
    for result in said:
        assert result.exit_code == 0
        assert KEY[:-4] not in result.output


def test_keys_of_those_that_tune_are_kept_too_and_who_has_none_is_said(tunesmith: Invoke, ready: Path) -> None:
    for name in ("together_ai", "fireworks_ai"):
        assert tunesmith("providers", "set-key", name, "--key-stdin", stdin=KEY).exit_code == 0
    told = json.loads(tunesmith("providers", "list", "--json").stdout)
    assert {key["provider"] for key in told["keys"]} == {"together_ai", "fireworks_ai"} == set(told["tunes"])
    assert told["without_key"] == ["openrouter"]
    assert "no key" in tunesmith("providers", "list").stdout


def test_models_that_can_be_tuned_are_asked_for_and_what_cannot_be_asked_is_told(
    tunesmith: Invoke, ready: Path, together: TogetherApi
) -> None:
    told = json.loads(tunesmith("providers", "models", "--json").stdout)["providers"]
    assert [each["id"] for each in told] == ["together_ai", "fireworks_ai", "local"]
    assert {model["id"] for model in told[0]["models"]} == {LLAMA, QWEN}
    assert "FIREWORKS_API_KEY" in told[1]["problem"] and not told[1]["enabled"]
    shown = tunesmith("providers", "models", "TOGETHER_AI")
    assert shown.exit_code == 0 and LLAMA in shown.stdout
    without = tunesmith("providers", "models", "fireworks_ai")
    assert without.exit_code == 1 and "FIREWORKS_API_KEY" in without.stderr
    assert error_of(tunesmith("providers", "models", "nobody", "--json"))["kind"] == "invalid"


def test_parameters_are_listed_with_their_ranges(tunesmith: Invoke, ready: Path) -> None:
    told = json.loads(tunesmith("providers", "parameters", "together_ai", "--json").stdout)["parameters"]
    assert {"epochs", "lora_rank"} <= {each["name"] for each in told}
    assert "lora_rank" in tunesmith("providers", "parameters", "fireworks_ai").stdout
    assert error_of(tunesmith("providers", "parameters", "openrouter", "--json"))["kind"] == "invalid"
