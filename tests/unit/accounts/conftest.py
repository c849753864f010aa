"""Accounts on a real database, with clocks that a test moves and a hash that is quick and counted."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pwdlib.hashers.argon2 import Argon2Hasher

from tunesmith.accounts.passwords import Passwords
from tunesmith.accounts.service import AccountService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PASSWORD = "correct horse"


class WallClock:
    """The date, standing still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Seconds:
    """A monotonic clock, standing still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class CountingHasher(Argon2Hasher):
    """Real argon2id with the least work there is; remembers which hashes were looked at."""

    def __init__(self, passes: int = 1) -> None:
        super().__init__(time_cost=passes, memory_cost=8, parallelism=1)
        self.made = 0
        self.verified: list[str] = []
        self._lock = threading.Lock()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        with self._lock:
            self.made += 1
        return super().hash(password, salt=salt)

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        with self._lock:
            self.verified.append(str(hash))
        return super().verify(password, hash)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated database as a file's bytes: migrating takes longer than a test."""
    file = tmp_path_factory.mktemp("empty") / "tunesmith.db"
    made = Database(f"sqlite:///{file}")
    made.migrate()
    with made.write() as connection:
        connection.exec_driver_sql("SELECT 1")
    made.close()
    return file.read_bytes()


@pytest.fixture
def database(home: Home, empty_database: bytes) -> Iterator[Database]:
    file = home.root / "tunesmith.db"
    file.write_bytes(empty_database)
    opened = Database(f"sqlite:///{file}")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def accounts(
    database: Database, home: Home, clock: WallClock, seconds: Seconds, hasher: CountingHasher
) -> AccountService:
    return AccountService(database, home, clock, seconds=seconds, passwords=Passwords(hasher))


def segment(value: Any) -> str:
    """Part of a token: JSON in base64url without padding; bytes as they are."""
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unfold(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a token, signature unread."""
    header, claims, _ = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return json.loads(header), json.loads(claims)


def signed(header: Any, claims: Any, key: bytes, hash: Callable[..., Any] = hashlib.sha256) -> str:
    """A token whose signature is right for that key, whatever its header says."""
    text = f"{segment(header)}.{segment(claims)}"
    return f"{text}.{segment(hmac.new(key, text.encode(), hash).digest())}"
