"""The shape of API keys."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.accounts.keys import new_key, read_key, same_digest


def test_a_key_has_an_id_and_256_random_bits() -> None:
    made, _ = new_key()
    assert re.fullmatch(r"tsk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", made.secret)
    assert made.secret.startswith(f"tsk_{made.id}_")
    assert new_key()[0].secret != made.secret


def test_only_the_digest_of_the_secret_part_is_kept() -> None:
    made, digest = new_key()
    assert digest == hashlib.sha256(made.secret[17:].encode()).hexdigest()
    sent = read_key(made.secret)
    assert sent is not None
    assert sent.id == made.id
    assert same_digest(sent.digest, digest)


def test_a_key_is_not_told_by_its_representation() -> None:
    made, digest = new_key()
    sent = read_key(made.secret)
    assert made.secret[17:] not in repr(made)
    assert digest not in repr(sent)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key + "x",
        lambda key: key[:-1],
        lambda key: key.upper(),
        lambda key: " " + key,
        lambda key: key + "\n",
        lambda key: key.replace("tsk_", "sk_"),
        lambda key: key[:20] + "\u0661" + key[21:],
        lambda key: key * 100_000,
        lambda key: "",
    ],
)
def test_what_is_not_quite_a_key_is_none(change: object) -> None:
    assert read_key(change(new_key()[0].secret)) is None  # type: ignore[operator]


@given(st.text())
def test_no_text_breaks_the_reading_of_keys(text: str) -> None:
    assert read_key("tsk_" + text) is None
