"""Passwords: argon2id (RFC 9106), in threads of their own, at most two at once.

The parameters are the least that OWASP's Password Storage Cheat Sheet asks: 19 MiB, two passes, one lane. Two hashes
at once hold 38 MiB; a third waits, and beyond ``MAX_WAITING`` nobody waits.
"""

import asyncio
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid, TooMany

T = TypeVar("T")

MIN_LENGTH, MAX_LENGTH = 8, 1024  # characters
AT_ONCE = 2
MAX_WAITING = 64  # a second or two of work on two cores
_MEMORY_KIB, _PASSES, _LANES = 19 * 1024, 2, 1


class Hasher(Protocol):
    """A slow password hash, as pwdlib has them."""

    def hash(self, password: str) -> str:
        """The hash, with its parameters and a fresh salt."""

    def verify(self, password: str, hash: str) -> bool:
        """Whether the hash is of that password."""

    def check_needs_rehash(self, hash: str) -> bool:
        """Whether the hash was made with other parameters."""


class Passwords:
    """Hashes passwords and checks them.

    Args:
        hasher: argon2id with the parameters above when not given, imported by its first use.
    """

    def __init__(self, hasher: Hasher | None = None) -> None:
        self._hasher = hasher
        self._nobody: str | None = None
        self._waiting = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password")

    def hash(self, password: str) -> str:
        """The hash of a new password; blocks until it is made.

        Raises:
            Invalid: it has fewer than 8 or more than 1024 characters, or some that nobody can type; nothing was hashed.
        """
        text = check_password(password)
        return self._pool.submit(lambda: self._prepared()[0].hash(text)).result()

    async def hashed(self, password: str) -> str:
        """The hash of a new password, without blocking the event loop.

        Raises:
            Invalid: as ``hash``. TooMany: so many passwords wait that this one would wait for seconds.
        """
        text = check_password(password)
        return await self._in_turn(lambda: self._prepared()[0].hash(text))

    async def verify(self, password: str, hash: str | None) -> bool:
        """Whether ``hash`` is of ``password``, without blocking the event loop.

        Where there is no hash (None: nobody has that name) a fixed one is checked instead, so that both take the same
        work. A password that no user can have is wrong, whoever is asked for, and costs nothing.

        Raises:
            TooMany: so many passwords wait to be checked that this one would wait for seconds.
        """
        text = _normal(password)
        if text is None:
            return False

        def compare() -> bool:
            hasher, nobody = self._prepared()
            same = hasher.verify(text, nobody if hash is None else hash)
            return same and hash is not None

        return await self._in_turn(compare)

    async def renewed(self, password: str, hash: str) -> str | None:
        """The right password's hash with today's parameters.

        None where ``hash`` has them already, and where too many wait: the next time will do.
        """
        hasher, _ = self._prepared()
        text = _normal(password)
        if text is None or not hasher.check_needs_rehash(hash):
            return None
        with suppress(TooMany):
            return await self._in_turn(lambda: hasher.hash(text))
        return None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._waiting >= MAX_WAITING + AT_ONCE:
                raise TooMany(
                    "正在登录的人太多，请稍后再试",
                    "too many people are signing in at once; try again in a moment",
                    retry_after=1,
                )
            self._waiting += 1
        future = self._pool.submit(work)
        # counted until the work is over or dropped from the queue, not until its caller has left
        future.add_done_callback(self._count_out)
        return await asyncio.wrap_future(future)

    def _count_out(self, _: "Future[T]") -> None:
        with self._lock:
            self._waiting -= 1

    def _prepared(self) -> tuple[Hasher, str]:
        """The hasher and the hash of no password, made once, whether or not this use needs both."""
        with self._lock:
            if self._hasher is None:
                from pwdlib.hashers.argon2 import Argon2Hasher

                self._hasher = Argon2Hasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)
            if self._nobody is None:
                self._nobody = self._hasher.hash("")  # shorter than any password: it is nobody's
            return self._hasher, self._nobody


def check_password(password: str) -> str:
    """``password`` in Unicode's composed form (NFC, as in RFC 8265), so that every keyboard makes the same one.

    Raises:
        Invalid: it has fewer than 8 or more than 1024 characters, or some that nobody can type.
    """
    text = _normal(password)
    if text is None or len(text) < MIN_LENGTH:
        raise Invalid(
            f"密码应为 {MIN_LENGTH} 到 {MAX_LENGTH} 个字符，且不含控制字符",
            f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters and no control characters",
            field="password",
        )
    return text


def _normal(password: str) -> str | None:
    """NFC; None where no user can have the password. A long one is refused before anything is done to it."""
    if len(password) > MAX_LENGTH or UNPRINTABLE.search(password):
        return None
    return unicodedata.normalize("NFC", password)
