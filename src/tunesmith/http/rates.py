"""How often anybody may ask: so many requests in a moving window, counted exactly (no fixed minutes to game).

A moving window keeps the time of every hit and forgets it when it is as old as the window. In memory those times come
from a clock that never goes back. In Redis they are the server's time of day: a step forward of a whole window frees
everyone at once, a step back keeps refusing for one window at most (Redis forgets an untouched key by its own clock),
and servers whose clocks differ count each other's hits that much early or late.
"""

import ipaddress
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog
from starlette.types import Scope

from tunesmith.kernel.problems import Invalid, TooMany, Unsupported
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

Kind = Literal["training", "inference", "other"]
MOST_KEYS = 100_000
_REDIS_TIMEOUT_S = 2.0
_REDIS_AGAIN_S = 5.0  # between two questions to a Redis that does not answer
_REDIS_CONNECTIONS = 32  # requests beyond wait their turn: an error would be taken for a Redis that is down
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands with one limit.

    Attributes:
        allowed: the request may go on.
        limit: requests in a window.
        remaining: how many of them are left.
        reset: when the oldest one counted leaves the window, in whole seconds since 1970; now if none is counted.
        retry_after: whole seconds until then, at least 1.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: int
    retry_after: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What an answer carries of it."""
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % self.reset),
        ]

    def problem(self) -> TooMany:
        """What a request over the limit is refused with."""
        return TooMany(
            f"请求过于频繁（上限 {self.limit} 次），请在 {self.retry_after} 秒后重试",
            f"too many requests (the limit is {self.limit}); try again in {self.retry_after} seconds",
            limit=self.limit,
            retry_after=self.retry_after,
        )


@dataclass(frozen=True, slots=True)
class _Book:
    """Counted hits, and the clock their times are in."""

    limiter: "MovingWindowRateLimiter"
    clock: Callable[[], float]
    time_of_day: Callable[[], float]

    async def read(self, item: "RateLimitItem", kind: str, who: str, *, take: bool) -> Standing:
        """Where ``who`` stands; ``take`` counts one more hit if there is room."""
        taken = await self.limiter.hit(item, kind, who) if take else None
        stats = await self.limiter.get_window_stats(item, kind, who)
        left = max(0, stats.remaining)
        allowed = left > 0 if taken is None else taken
        wait = max(0.0, stats.reset_time - self.clock()) if left < item.amount else 0.0
        return Standing(
            allowed=allowed,
            limit=item.amount,
            remaining=left if allowed else 0,
            reset=math.ceil(self.time_of_day() + wait),
            retry_after=max(1, math.ceil(wait)),
        )


class Rates:
    """The limits of every kind of request.

    Args:
        items: how many in how long, by kind.
        memory: counts of this process.
        shared: counts of all servers, in Redis; while it does not answer, ``memory`` counts.
    """

    def __init__(self, items: Mapping[Kind, "RateLimitItem"], memory: _Book, shared: _Book | None = None) -> None:
        self._items, self._memory, self._shared = items, memory, shared
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
        if shared is not None:
            from redis.exceptions import RedisError

            self._failures += (RedisError,)
        self._down = False
        self._ask_at = 0.0  # by the monotonic clock

    @staticmethod
    def of(
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> "Rates":
        """The limits in the settings, counted in memory or in ``settings.redis_url``.

        Args:
            clock: seconds that never go back, for counting in memory.
            time_of_day: seconds since 1970, for the headers.

        Raises:
            Unsupported: a Redis URL is set and the package ``redis`` is missing.
            Invalid: the URL is none of Redis.
        """
        from limits import RateLimitItemPerHour, RateLimitItemPerMinute
        from limits.aio.strategies import MovingWindowRateLimiter

        from tunesmith.http.windows import Windows

        items: dict[Kind, RateLimitItem] = {
            "training": RateLimitItemPerHour(settings.rate_training),
            "inference": RateLimitItemPerMinute(settings.rate_inference),
            "other": RateLimitItemPerMinute(settings.rate_other),
        }
        memory = _Book(MovingWindowRateLimiter(Windows(MOST_KEYS, clock)), clock, time_of_day)
        if settings.redis_url is None:
            return Rates(items, memory)
        return Rates(items, memory, _Book(MovingWindowRateLimiter(_redis(settings.redis_url)), time.time, time_of_day))

    async def hit(self, who: str, kind: Kind) -> Standing:
        """Count a request of ``who`` if there is room for it, and say where that leaves them."""
        return await self._read(who, kind, take=True)

    async def look(self, who: str, kind: Kind) -> Standing:
        """Where ``who`` stands; nothing is counted."""
        return await self._read(who, kind, take=False)

    async def close(self) -> None:
        """Give the connections back."""
        if self._shared is not None:
            await self._shared.limiter.storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def _read(self, who: str, kind: Kind, *, take: bool) -> Standing:
        item = self._items[kind]
        if self._shared is None or (self._down and time.monotonic() < self._ask_at):
            return await self._memory.read(item, kind, who, take=take)
        # of a Redis that hangs one request at a time finds out, the others do not wait
        self._ask_at = time.monotonic() + _REDIS_AGAIN_S
        try:
            standing = await self._shared.read(item, kind, who, take=take)
        except self._failures as error:
            self._ask_at = time.monotonic() + _REDIS_AGAIN_S
            if not self._down:
                self._down = True
                _log.error("rate limits: Redis does not answer, counting in memory", error=type(error).__name__)
            return await self._memory.read(item, kind, who, take=take)
        if self._down:
            self._down = False
            _log.info("rate limits: Redis answers again")
        return standing


def by_name(name: str) -> str:
    """The key of somebody we know."""
    return f"user:{name}"


def by_address(scope: Scope) -> str:
    """The key of whoever sits at the other end of the connection.

    ``X-Forwarded-For`` and ``Forwarded`` are not read: whoever asks writes them. An IPv6 address counts as its /64,
    since one customer gets at least that many (RFC 6177).
    """
    client = scope.get("client")
    host = client[0] if client else "-"
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        mapped = address.ipv4_mapped  # IPv4 on a socket that takes both
        host = str(mapped) if mapped else f"{int(address) >> 64:x}/64"
    return f"address:{host}"


def _redis(url: str) -> "RedisStorage":
    from limits.aio.storage import RedisStorage

    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Disconnected
    except ImportError:
        raise Unsupported(
            "设置了 TUNESMITH_REDIS_URL，但缺少 redis 包：pip install 'tunesmith[redis]'",
            "TUNESMITH_REDIS_URL is set but the package redis is missing: pip install 'tunesmith[redis]'",
            field="redis_url",
        ) from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_REDIS_CONNECTIONS,
            timeout=2 * _REDIS_TIMEOUT_S,
            socket_timeout=_REDIS_TIMEOUT_S,
            socket_connect_timeout=_REDIS_TIMEOUT_S,
            # once more at once: after a restart of Redis every pooled connection is dead
            retry=Retry(NoBackoff(), 1, (Disconnected,)),
        )
    except ValueError:
        # the URL may hold a password: it is not shown
        raise Invalid(
            "TUNESMITH_REDIS_URL 应形如 redis://主机:6379/0",
            "TUNESMITH_REDIS_URL must look like redis://host:6379/0",
            field="redis_url",
        ) from None
    return RedisStorage(
        "async+redis://",  # the pool knows where
        implementation="redispy",
        key_prefix="tunesmith:rates",
        connection_pool=pool,  # type: ignore[arg-type]
    )
