"""Bearer tokens: JSON Web Tokens (RFC 7519), HMAC-SHA-256 and nothing else (RFC 8725, best current practice).

Whoever reads them also made them, so only the one header that is ever made is accepted, letter for letter, and a
payload is parsed only after its signature was found right.
"""

import base64
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.accounts.keyfile import kept_key
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.problems import Problem, Unauthenticated, Unavailable

LIFETIME_S = 3600
MAX_TOKEN_BYTES = 4096
_LEEWAY_S = 10  # clocks of two servers on one database
_WHO = "tunesmith"
_CLAIMS = frozenset({"iss", "aud", "sub", "exp", "iat", "jti", "ver"})
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
_WRITTEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a good token says.

    Attributes:
        name: the user's.
        epoch: the user's when it was issued; void when theirs is another now.
    """

    name: str
    epoch: int


class Tokens:
    """Issues and reads tokens.

    Args:
        key: at least 32 random bytes.
    """

    def __init__(self, key: bytes, clock: Clock = utc_now) -> None:
        self._key, self._clock = key, clock

    def issue(self, name: str, epoch: int) -> str:
        """A token for that user, good for an hour."""
        import jwt  # only where somebody signs in: most verbs and most starts never do

        now = int(self._clock().timestamp())
        claims: dict[str, Any] = {
            "iss": _WHO,
            "aud": _WHO,
            "sub": name,
            "iat": now,
            "exp": now + LIFETIME_S,
            "jti": secrets.token_hex(16),
            "ver": epoch,
        }
        return jwt.encode(claims, self._key, algorithm="HS256", sort_headers=True)

    def read(self, token: str) -> Claim:
        """What the token says.

        Raises:
            Unauthenticated: it is none of ours, or not good now; always with the same message.
        """
        if len(token) > MAX_TOKEN_BYTES or not _WRITTEN.fullmatch(token) or not token.startswith(f"{_HEADER}."):
            raise not_signed_in()
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=_WHO,
                issuer=_WHO,
                options={
                    "require": sorted(_CLAIMS),
                    "strict_aud": True,
                    "verify_exp": False,  # exp and iat are checked below, by the clock given
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise not_signed_in() from None
        return self._checked(claims)

    def _checked(self, claims: dict[str, Any]) -> Claim:
        name, epoch, issued, expires = (claims[claim] for claim in ("sub", "ver", "iat", "exp"))
        now = self._clock().timestamp()
        good = (
            claims.keys() == _CLAIMS
            and isinstance(name, str)
            and all(type(number) is int for number in (epoch, issued, expires))  # True and 1.5 are no times
            and issued - _LEEWAY_S <= now < expires <= issued + LIFETIME_S
        )
        if not good:
            raise not_signed_in()
        return Claim(name, epoch)


def not_signed_in() -> Unauthenticated:
    """What every bearer who is not let in is told, whatever is wrong."""
    return Unauthenticated(
        "未登录或登录已失效：请登录，并在 Authorization 头中携带令牌",
        "you are not signed in, or no longer: sign in and send the token in the Authorization header",
    )


def token_key(folder: Path) -> bytes:
    """The key of this home folder, made by whoever asks first and kept ever after.

    Args:
        folder: where secrets lie; nobody else may write there.

    Raises:
        Unavailable: the file is shorter than 32 bytes, a link or no file at all, or others may read it.
    """
    path = folder / "token.key"

    def unfit(zh: str, en: str) -> Problem:
        return Unavailable(
            f"令牌密钥 {path} 不可用：{zh}。修正或删除它（删除后会生成新的，所有人需重新登录）",
            f"the token key {path} cannot be used: {en}. Mend it, or remove it: a new one is made and everybody signs"
            " in again",
            path=str(path),
        )

    return kept_key(path, unfit)
