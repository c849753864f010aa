"""Names that users may have."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.accounts.conftest import START
from tunesmith.accounts.user import User, likeness, parse_user_name
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Invalid


@pytest.mark.parametrize(
    "name", ["a", "7", "ada", "Ada.Lovelace", "ada_l-2@example.org", "王小明", "Ольга", "हिन्दी", "ไทย", "x" * 64]
)
def test_letters_of_any_script_make_a_name(name: str) -> None:
    assert parse_user_name(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".ada", "_ada", "-ada", "@ada", "a b", "a/b", "../a", "a\\b", "a\nb", "a\x00b", "a'b", "a;b", "a%b",
        "<b>", "a:b", "x" * 65, "x" * 10_000_000, "\u0301a", "a\u200bb", "a\u202eb", "a\u00adb", "a\ufe0f", "a\u3164",
        "\u3164", "a\ud800", "½", "a😀",
    ],
)  # fmt: skip
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_user_name(name)
    assert refused.value.details == {"field": "name"}


@pytest.mark.parametrize("name", ["local", "LOCAL", "Local", "ｌｏｃａｌ"])
def test_the_name_of_the_command_line_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="command line"):
        parse_user_name(name)


def test_a_name_is_kept_in_its_composed_form() -> None:
    assert parse_user_name("Jose\u0301") == "Jos\u00e9"


@pytest.mark.parametrize(("one", "other"), [("Ada", "aDA"), ("straße", "STRASSE"), ("ada", "ａｄａ"), ("Σ", "ς")])
def test_names_that_look_alike_are_alike(one: str, other: str) -> None:
    assert likeness(one) == likeness(other)


def test_names_that_differ_are_not_alike() -> None:
    assert likeness("ada") != likeness("ade")


@given(st.text(max_size=80))
def test_every_text_is_a_name_or_refused_and_a_name_stays_itself(text: str) -> None:
    try:
        name = parse_user_name(text)
    except Invalid:
        return
    assert parse_user_name(name) == name
    assert 1 <= len(name) <= 64


def test_an_admin_calls_as_admin_and_a_member_does_not() -> None:
    assert User("ada", "admin", False, START).caller == Caller("ada", admin=True)
    assert User("bob", "member", False, START).caller == Caller("bob", admin=False)
