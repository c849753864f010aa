"""Tokens, and every way to forge one."""

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.accounts.conftest import START, WallClock, segment, signed, unfold
from tunesmith.accounts.tokens import LIFETIME_S, MAX_TOKEN_BYTES, Claim, Tokens, not_signed_in, token_key
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Unauthenticated, Unavailable

KEY = bytes(range(32))
HEADER = {"alg": "HS256", "typ": "JWT"}
NOW = int(START.timestamp())


@pytest.fixture
def tokens(clock: WallClock) -> Tokens:
    return Tokens(KEY, clock)


def claims(**changes: Any) -> dict[str, Any]:
    """What an issued token says, with changes; a claim changed to ... is left out."""
    said = {"iss": "tunesmith", "aud": "tunesmith", "sub": "ada", "iat": NOW, "exp": NOW + LIFETIME_S}
    said |= {"jti": "0" * 32, "ver": 3} | changes
    return {claim: value for claim, value in said.items() if value is not ...}


def assert_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        tokens.read(token)
    assert (refused.value.zh, refused.value.en) == (not_signed_in().zh, not_signed_in().en)
    assert refused.value.details == {}
    assert refused.value.__cause__ is None


def test_a_token_says_whose_it_is_and_of_which_epoch(tokens: Tokens) -> None:
    assert tokens.read(tokens.issue("王小明", 7)) == Claim("王小明", 7)


def test_a_token_holds_the_claims_of_the_contract_and_nothing_else(tokens: Tokens) -> None:
    header, said = unfold(tokens.issue("ada", 3))
    assert header == HEADER
    assert len(said.pop("jti")) == 32
    assert said == {"iss": "tunesmith", "aud": "tunesmith", "sub": "ada", "iat": NOW, "exp": NOW + 3600, "ver": 3}


def test_no_two_tokens_are_the_same(tokens: Tokens) -> None:
    assert tokens.issue("ada", 3) != tokens.issue("ada", 3)


def test_a_token_made_by_hand_with_the_right_key_is_read(tokens: Tokens) -> None:
    """Or the forgeries below would be refused for being badly made."""
    assert tokens.read(signed(HEADER, claims(), KEY)) == Claim("ada", 3)


def test_an_unsigned_token_is_refused(tokens: Tokens) -> None:
    for name in ("none", "None", "NONE", "nOnE", ""):
        head = segment({"alg": name, "typ": "JWT"})
        assert_refused(tokens, f"{head}.{segment(claims())}.")
        assert_refused(tokens, signed({"alg": name, "typ": "JWT"}, claims(), KEY))
    assert_refused(tokens, f"{segment(HEADER)}.{segment(claims())}.")


@pytest.mark.parametrize(
    "algorithm", ["RS256", "ES256", "PS256", "EdDSA", "HS384", "HS512", "hs256", "HS256 ", None, 1]
)
def test_no_other_algorithm_is_taken_even_with_the_right_signature(tokens: Tokens, algorithm: Any) -> None:
    assert_refused(tokens, signed({"alg": algorithm, "typ": "JWT"}, claims(), KEY))


def test_a_longer_hash_with_its_own_name_is_refused(tokens: Tokens) -> None:
    assert_refused(tokens, signed({"alg": "HS512", "typ": "JWT"}, claims(), KEY, hashlib.sha512))


@pytest.mark.parametrize(
    "more",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "0"},
        {"crit": ["exp"]},
        {"crit": []},
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["AAAA"]},
        {"cty": "JWT"},
        {"b64": False},
        {"zip": "DEF"},
    ],
)
def test_a_header_that_says_more_is_refused_even_with_the_right_signature(tokens: Tokens, more: dict[str, Any]) -> None:
    assert_refused(tokens, signed(HEADER | more, claims(), KEY))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256"}, {"typ": "JWT"}, {"alg": "HS256", "typ": "jwt"}, {"alg": "HS256", "typ": "at+jwt"}, {}, [], None,
        b"", b"{", b'{"alg":"none","alg":"HS256","typ":"JWT"}', b"[" * 2000, b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_one_we_make_is_refused(tokens: Tokens, header: Any) -> None:
    assert_refused(tokens, signed(header, claims(), KEY))


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "exp", "iat", "jti", "ver"])
def test_every_claim_is_required(tokens: Tokens, claim: str) -> None:
    assert_refused(tokens, signed(HEADER, claims(**{claim: ...}), KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"}, {"iss": "Tunesmith"}, {"iss": ["tunesmith"]}, {"iss": None},
        {"aud": "somebody"}, {"aud": ["tunesmith"]}, {"aud": ["tunesmith", "other"]}, {"aud": None}, {"aud": {}},
        {"sub": 7}, {"sub": None}, {"sub": ["ada"]},
        {"exp": NOW}, {"exp": NOW - 1}, {"exp": 0}, {"exp": -1},
        {"exp": NOW + LIFETIME_S + 1}, {"exp": 10**18},
        {"exp": str(NOW + 60)}, {"exp": NOW + 60.5}, {"exp": True}, {"exp": None}, {"exp": float("inf")},
        {"exp": float("nan")}, {"exp": [NOW + 60]},
        {"iat": NOW + 11, "exp": NOW + 3000}, {"iat": str(NOW)}, {"iat": None}, {"iat": True}, {"iat": float("-inf")},
        {"jti": None}, {"jti": 5},
        {"ver": "3"}, {"ver": None}, {"ver": 3.0}, {"ver": True},
        {"nbf": NOW + 60}, {"admin": True},
    ],
)  # fmt: skip
def test_a_claim_that_is_wrong_is_refused_even_with_the_right_signature(
    tokens: Tokens, changes: dict[str, Any]
) -> None:
    assert_refused(tokens, signed(HEADER, claims(**changes), KEY))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"1", b'"x"', b"{", b"[" * 2000, b"\xff", b'{"exp":1e400}'])
def test_a_payload_that_is_no_object_is_refused_even_with_the_right_signature(tokens: Tokens, payload: bytes) -> None:
    assert_refused(tokens, signed(HEADER, payload, KEY))


def test_a_token_is_good_for_an_hour_to_the_second(tokens: Tokens, clock: WallClock) -> None:
    token = tokens.issue("ada", 3)
    clock.pass_(LIFETIME_S - 1)
    assert tokens.read(token).name == "ada"
    clock.pass_(1)
    assert_refused(tokens, token)


def test_a_clock_ten_seconds_behind_the_issuer_is_forgiven_and_no_more(tokens: Tokens, clock: WallClock) -> None:
    token = tokens.issue("ada", 3)
    clock.pass_(-10)
    assert tokens.read(token).name == "ada"
    clock.pass_(-1)
    assert_refused(tokens, token)


@pytest.mark.parametrize("key", [b"", b"\x00" * 32, b"secret", KEY[:31], KEY + b"\x01", b"tunesmith"])
def test_a_signature_with_another_key_is_refused(tokens: Tokens, key: bytes) -> None:
    assert_refused(tokens, signed(HEADER, claims(), key))


def test_a_changed_claim_breaks_the_signature(tokens: Tokens) -> None:
    header, said, signature = tokens.issue("ada", 3).split(".")
    assert unfold(f"{header}.{said}.{signature}")[1]["sub"] == "ada"
    assert_refused(tokens, f"{header}.{segment(claims(sub='root'))}.{signature}")


def test_every_changed_letter_of_a_token_is_noticed(tokens: Tokens) -> None:
    token = tokens.issue("ada", 3)
    for at, letter in enumerate(token):
        assert_refused(tokens, token[:at] + ("A" if letter != "A" else "B") + token[at + 1 :])


def test_a_token_of_a_megabyte_is_refused_before_anything_is_parsed(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jwt

    parsed: list[object] = []
    monkeypatch.setattr(jwt, "decode", lambda *given, **_: parsed.append(given))
    for size in (MAX_TOKEN_BYTES, 1 << 20):
        assert_refused(tokens, signed(HEADER, claims(sub="a" * size), KEY))
    assert_refused(tokens, "a" * (1 << 20))
    assert parsed == []


def test_a_signature_is_checked_before_the_payload_is_parsed(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed(HEADER, b'{"marker":1}', b"another key, also of 32 bytes ...")
    parsed: list[bytes] = []
    loads = json.loads

    def noticing(text: Any, **options: Any) -> Any:
        parsed.append(bytes(text) if isinstance(text, bytes) else text.encode())
        return loads(text, **options)

    monkeypatch.setattr(json, "loads", noticing)
    assert_refused(tokens, token)
    assert not any(b"marker" in text for text in parsed)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t + ".",
        lambda t: t + ".e30",
        lambda t: "." + t,
        lambda t: t + "=",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: "Bearer " + t,
        lambda t: t.replace(".", "..", 1),
        lambda t: t.replace(".", "．"),
        lambda t: t + "\ud800",
        lambda t: t[: t.rindex(".")],
        lambda t: t.replace("-", "+").replace("_", "/") + "\x00",
    ],
)
def test_a_token_with_something_around_it_is_refused(tokens: Tokens, change: Any) -> None:
    assert_refused(tokens, change(tokens.issue("ada", 3)))


@given(st.one_of(st.text(), st.text("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9._-=", max_size=300)))
def test_no_text_is_anything_but_refused(text: str) -> None:
    assert_refused(Tokens(KEY), text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=200), _json), st.binary(max_size=40))
def test_no_payload_under_our_header_is_anything_but_refused(payload: Any, signature: bytes) -> None:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    assert_refused(Tokens(KEY), f"{segment(HEADER)}.{segment(raw)}.{segment(signature)}")
    assert_refused(Tokens(KEY), signed(HEADER, raw, KEY))


@given(st.dictionaries(st.sampled_from(sorted(claims())), _json, min_size=1))
def test_no_wrong_claims_are_anything_but_refused(changes: dict[str, Any]) -> None:
    changes = {claim: value for claim, value in changes.items() if claims()[claim] != value or type(value) is bool}
    said = claims(**changes)
    tokens = Tokens(KEY, lambda: START)
    try:
        claim = tokens.read(signed(HEADER, json.dumps(said).encode(), KEY))
    except Unauthenticated:
        return
    assert (said["iss"], said["aud"]) == ("tunesmith", "tunesmith")
    assert claim == Claim(said["sub"], said["ver"])
    assert NOW < said["exp"] <= said["iat"] + LIFETIME_S


# the key


def test_the_key_is_made_once_with_nobody_else_reading_it_and_kept(home: Home) -> None:
    key = token_key(home.secrets)
    file = home.secrets / "token.key"
    assert len(key) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == key
    assert token_key(home.secrets) == key
    assert [entry.name for entry in home.secrets.iterdir()] == ["token.key"]


def test_two_homes_have_two_keys(tmp_path: Path) -> None:
    assert token_key(Home(tmp_path / "a").secrets) != token_key(Home(tmp_path / "b").secrets)


def test_a_token_is_good_after_a_restart(home: Home, clock: WallClock) -> None:
    token = Tokens(token_key(home.secrets), clock).issue("ada", 3)
    assert Tokens(token_key(home.secrets), clock).read(token) == Claim("ada", 3)


def test_a_permissive_umask_does_not_show_the_key(home: Home) -> None:
    before = os.umask(0)
    try:
        token_key(home.secrets)
    finally:
        os.umask(before)
    assert stat.S_IMODE((home.secrets / "token.key").stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_the_key(home: Home, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunesmith.accounts.tokens import token_key\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nprint(token_key(Path(sys.argv[1])).hex())\n"
    )
    command = [sys.executable, "-c", code, str(home.secrets)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    together = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in together:
        assert process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=60)[0].strip() for process in together}
    assert keys == {(home.secrets / "token.key").read_bytes().hex()}
    assert [entry.name for entry in home.secrets.iterdir()] == ["token.key"]


def test_whoever_comes_second_takes_the_first_ones_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race above at its worst moment: another process publishes between our look and our link."""
    link = os.link

    def too_late(source: Path, target: Path) -> None:
        other = target.with_name("other")
        other.write_bytes(b"o" * 32)
        other.chmod(0o600)
        other.rename(target)
        link(source, target)

    monkeypatch.setattr(os, "link", too_late)
    assert token_key(home.secrets) == b"o" * 32
    assert [entry.name for entry in home.secrets.iterdir()] == ["token.key"]


def test_what_a_crash_left_while_making_the_key_is_no_key(home: Home) -> None:
    (home.secrets / ".partial-000000000000-token.key").write_bytes(b"x" * 32)
    assert token_key(home.secrets) != b"x" * 32


def assert_unfit(home: Home, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason) as refused:
        token_key(home.secrets)
    assert str(home.secrets / "token.key") in refused.value.zh
    assert str(home.secrets / "token.key") in refused.value.en


@pytest.mark.parametrize("weak", [b"", b"default", b"x" * 31])
def test_a_weak_key_is_refused(home: Home, weak: bytes) -> None:
    file = home.secrets / "token.key"
    file.write_bytes(weak)
    file.chmod(0o600)
    assert_unfit(home, "shorter than 32 bytes")
    assert file.read_bytes() == weak


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o777])
def test_a_key_that_others_may_read_is_refused(home: Home, mode: int) -> None:
    token_key(home.secrets)
    (home.secrets / "token.key").chmod(mode)
    assert_unfit(home, "chmod 600")


def test_a_key_that_is_a_link_is_refused(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"x" * 32)
    target.chmod(0o600)
    (home.secrets / "token.key").symlink_to(target)
    assert_unfit(home, "cannot be opened")


def test_a_dangling_link_is_refused_and_not_followed_to_make_a_key(home: Home, tmp_path: Path) -> None:
    (home.secrets / "token.key").symlink_to(tmp_path / "nowhere")
    assert_unfit(home, "cannot be opened")
    assert not (tmp_path / "nowhere").exists()


def test_a_key_that_is_no_file_is_refused_without_waiting(home: Home) -> None:
    os.mkfifo(home.secrets / "token.key", 0o600)
    assert_unfit(home, "not a regular file")
    (home.secrets / "token.key").unlink()
    (home.secrets / "token.key").mkdir()
    assert_unfit(home, "not a regular file")


def test_the_key_is_not_told_when_it_is_refused(home: Home) -> None:
    key = token_key(home.secrets)
    (home.secrets / "token.key").chmod(0o644)
    with pytest.raises(Unavailable) as refused:
        token_key(home.secrets)
    told = f"{refused.value!r} {refused.value.zh} {refused.value.en} {refused.value.details}"
    assert key.hex() not in told
    assert repr(key) not in told
    assert base64.b64encode(key).decode() not in told
