"""API keys: ``tsk_<id>_<secret>``, shown once, kept as a digest.

The secret is 256 random bits, so a plain SHA-256 of it is as hard to turn round as the key is to guess; only
passwords, which people choose, need a slow hash (OWASP Password Storage Cheat Sheet).
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

PREFIX = "tsk_"
_ID = re.compile("[0-9a-f]{12}")
_WRITTEN = re.compile(f"{PREFIX}({_ID.pattern})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key, apart from the digest.

    Attributes:
        revoked_at: void since then; None while it is good.
        last_used_at: somebody came with it then, to the minute; None for nobody, and before this was kept.
    """

    id: str
    user: str
    label: str
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: the one time that it is seen.

    Attributes:
        secret: the whole key, as it is sent.
    """

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SentKey:
    """A key as somebody sent it; whether it is good is not known yet."""

    id: str
    digest: str = field(repr=False)


def new_key() -> tuple[NewKey, str]:
    """A fresh key, and the digest to keep of it."""
    id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewKey(id, f"{PREFIX}{id}_{secret}"), _digest(secret)


def read_key(text: str) -> SentKey | None:
    """The key that ``text`` is; None where it is none."""
    match = _WRITTEN.fullmatch(text)
    return SentKey(match[1], _digest(match[2])) if match else None


def is_id(text: str) -> bool:
    """Whether a key could have that id."""
    return _ID.fullmatch(text) is not None


def same_digest(one: str, other: str) -> bool:
    """Whether two digests are equal, told in a time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
