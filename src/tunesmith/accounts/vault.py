"""Keys of providers: from the environment, else the database, where they lie sealed.

Sealed is AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits, under a key that lies in the home folder and not
in the database: whoever has only one of the two, or a backup of it, has no provider's key. The provider's name is sealed
in as associated data, so a row moved to another provider does not open.
"""

import asyncio
import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Literal

import sqlalchemy as sa
import structlog

from tunesmith.accounts.keyfile import kept_key, read_key
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Invalid, Problem, Unavailable

PROVIDERS = ("openrouter", "together_ai", "fireworks_ai")
FRESH_S = 5.0  # so long a key set by another process may go unseen
_WRITTEN = re.compile("[!-~]{8,512}")
_NONCE_BYTES, _TAG_BYTES = 12, 16
_HINT = 4  # letters
_HINTED = 24  # letters a key must have for its last ones to give nothing away
_log = structlog.get_logger(__name__)

_table = sa.Table(
    "provider_keys",
    metadata,
    sa.Column("provider", sa.String, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),  # nonce, ciphertext, tag
    sa.Column("set_by", sa.String, nullable=False),
    sa.Column("set_at", sa.String, nullable=False),
)

# SQLite and PostgreSQL both read it
_PUT = (
    "INSERT INTO provider_keys (provider, sealed, set_by, set_at) VALUES (:provider, :sealed, :set_by, :set_at)"
    " ON CONFLICT (provider)"
    " DO UPDATE SET sealed = excluded.sealed, set_by = excluded.set_by, set_at = excluded.set_at"
)


@dataclass(frozen=True, slots=True)
class HeldKey:
    """What may be told of a key.

    Attributes:
        set_by, set_at: None for the environment's.
        hint: its last letters, where it is long enough for that.
        opens: False where what is stored cannot be opened any more; ``Vault.get`` says why.
    """

    provider: str
    source: Literal["environment", "stored"]
    set_by: str | None = None
    set_at: datetime | None = None
    hint: str | None = None
    opens: bool = True


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database held.

    Attributes:
        at: when it was asked, in seconds that never step.
    """

    secret: str | None = field(repr=False)
    at: float


class Vault:
    """Keeps the keys of providers. Share between threads; all but ``current`` and ``at_hand`` may wait for the database.

    Args:
        folder: where secrets lie; nobody else may write there.
        environ_keys: by provider; one of these wins over the stored one.
        clock: dates records.
        seconds: measures ages; never steps.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        environ_keys: Mapping[str, str | None],
        clock: Clock = utc_now,
        *,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._database, self._file = database, folder / "vault.key"
        self._environ = {provider: key for provider, key in environ_keys.items() if key}
        self._clock, self._seconds = clock, seconds
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def get(self, provider: str) -> str | None:
        """The provider's key; None where none is held. Asks the database at most every ``FRESH_S``.

        Raises:
            Unavailable: what is stored cannot be opened; the message says what to do.
        """
        known = self._fresh(provider)
        if known is None:
            with self._lock:
                known = self._fresh(provider) or _Known(at=self._seconds(), secret=self._stored(provider))
                self._known[provider] = known
        return known.secret

    async def current(self, provider: str) -> str | None:
        """``get`` for the event loop: at once while what is known is fresh, else from a thread; raises as ``get``."""
        known = self._fresh(provider)
        return known.secret if known is not None else await asyncio.to_thread(self.get, provider)

    def at_hand(self, provider: str) -> str | None:
        """What ``get`` or ``current`` gave last, however long ago; None where neither was asked. Never waits."""
        known = self._known.get(provider)
        return self._environ.get(provider) or (known.secret if known is not None else None)

    def put(self, provider: str, secret: str, by: str) -> None:
        """Store the provider's key in place of any before; this process uses it at once, others within ``FRESH_S``.

        Args:
            by: who sets it.

        Raises:
            Invalid: no provider of that name, or no possible key; what was given is not quoted.
            Unavailable: the file of the key that seals is not fit; the message says how to mend it.
        """
        check_provider(provider)
        if not _WRITTEN.fullmatch(secret):
            raise Invalid(
                "密钥应为 8 到 512 个可见的 ASCII 字符，不含空格",
                "a key has 8 to 512 printable ASCII characters without spaces",
                field="key",
            )
        row = {
            "provider": provider,
            "sealed": self._seal(provider, secret),
            "set_by": by,
            "set_at": self._clock().isoformat(),
        }
        self._change(provider, secret, sa.text(_PUT).bindparams(**row))
        _log.info("provider_key_set", provider=provider, by=by)

    def forget(self, provider: str) -> bool:
        """Remove the stored key; False where none was stored. The environment's stays.

        Raises:
            Invalid: there is no provider of that name.
        """
        check_provider(provider)
        removed = self._change(provider, None, sa.delete(_table).where(_table.c.provider == provider)) > 0
        _log.info("provider_key_forgotten", provider=provider, stored=removed)
        return removed

    def held(self) -> list[HeldKey]:
        """Every key, by provider; of a provider's two the environment's first, which is the one used."""
        found = [HeldKey(provider, "environment", hint=_hint(key)) for provider, key in self._environ.items()]
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_table)).mappings().all()
        return sorted([*found, *map(self._held, rows)], key=lambda key: (key.provider, key.source))

    def _fresh(self, provider: str) -> _Known | None:
        now = self._seconds()
        if provider in self._environ:
            return _Known(self._environ[provider], now)
        known = self._known.get(provider)
        return known if known is not None and now - known.at < FRESH_S else None

    def _stored(self, provider: str) -> str | None:
        query = sa.select(_table.c.sealed).where(_table.c.provider == provider)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar()
        return None if sealed is None else self._open(provider, bytes(sealed))

    def _held(self, row: sa.RowMapping) -> HeldKey:
        set_at, hint, opens = datetime.fromisoformat(row["set_at"]), None, True
        try:
            hint = _hint(self._open(row["provider"], bytes(row["sealed"])))
        except Problem:
            opens = False
        return HeldKey(row["provider"], "stored", row["set_by"], set_at, hint, opens)

    def _change(self, provider: str, secret: str | None, statement: sa.Executable) -> int:
        """Write, and know what was written; whoever reads meanwhile cannot keep what was there before.

        Returns:
            rows changed.
        """
        with self._lock:
            at = self._seconds()
            with self._database.write() as connection:
                changed = connection.execute(statement).rowcount
            self._known[provider] = _Known(secret, at)
        return changed

    def _seal(self, provider: str, secret: str) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only where a key is stored or read

        key, nonce = kept_key(self._file, self._unfit), secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(_exact(key)).encrypt(nonce, secret.encode(), provider.encode())

    def _open(self, provider: str, sealed: bytes) -> str:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            # never made here: a new one would open nothing, and be in the way of the old one coming back
            key = read_key(self._file, self._unfit)
        except FileNotFoundError:
            raise _shut(provider) from None
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise _shut(provider)
        try:
            text = AESGCM(_exact(key)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], provider.encode())
        except InvalidTag:
            raise _shut(provider) from None
        return text.decode()

    def _unfit(self, zh: str, en: str) -> Problem:
        return Unavailable(
            f"保管服务商密钥的 {self._file} 不可用：{zh}。修正或删除它（删除后需重新设置各服务商的密钥）",
            f"{self._file}, which seals the providers' keys, cannot be used: {en}. Mend it, or remove it and set the"
            " providers' keys again",
            path=str(self._file),
        )


def check_provider(provider: str) -> None:
    """Refuse what is no provider whose key could be kept.

    Raises:
        Invalid: there is no provider of that name.
    """
    if provider not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise Invalid(f"未知的服务商，可用：{known}", f"unknown provider; known: {known}", field="provider")


def _exact(key: bytes) -> bytes:
    """32 bytes of a key that may be longer, where somebody brought their own."""
    return hashlib.sha256(key).digest()


def _hint(secret: str) -> str | None:
    return secret[-_HINT:] if len(secret) >= _HINTED else None


def _shut(provider: str) -> Problem:
    return Unavailable(
        f"无法解开已保存的 {provider} 密钥：主目录中的 secrets/vault.key 已被更换，或数据库中的记录已被改动。"
        f"请恢复原来的 vault.key，或重新设置：tunesmith providers set-key {provider} --key-stdin",
        f"the stored key of {provider} cannot be opened: secrets/vault.key in the home folder was replaced, or the"
        f" record in the database was changed. Bring the old vault.key back, or set the key again: tunesmith providers"
        f" set-key {provider} --key-stdin",
        provider=provider,
    )
