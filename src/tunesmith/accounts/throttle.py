"""Growing delays after failed sign-ins, in memory and bounded.

Failures are counted for an account from one address, for an address, and for an account from everywhere. A try counts
as a failure from the moment it begins and is taken back when it succeeds, so that guesses sent all at once are counted
as well as guesses sent one by one (OWASP Authentication Cheat Sheet, login throttling). Whoever is refused for tries
that are still being looked at is told so, and may ask again as soon as those have ended.
"""

import ipaddress
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from tunesmith.kernel.problems import TooMany

MAX_ENTRIES = 10_000  # of each kind
FORGET_S = 3600.0  # quiet so long beyond the last delay, and it never happened


class Rule(NamedTuple):
    """From the failure number ``free`` on each doubles the delay: 2, 4, 8 ... seconds, at most ``longest_s``."""

    free: int
    longest_s: float

    def delay(self, failures: int) -> float:
        """Seconds to wait after that many failures; 0 for the first few."""
        beyond = failures - self.free + 1
        return 0.0 if beyond < 1 else min(2.0 ** min(beyond, 30), self.longest_s)


PAIR = Rule(4, 900.0)  # an account from one address
ADDRESS = Rule(20, 900.0)
ACCOUNT = Rule(10, 60.0)  # from everywhere: short, or a stranger could lock somebody out


@dataclass(slots=True)
class _Count:
    failures: int = 0
    open: int = 0  # of them, tries whose passwords are still being looked at
    until: float = -math.inf  # nothing is looked at before


class _Counts:
    """Failures of one kind by key; the key that failed longest ago makes room for a new one."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def refusing(self, key: str, now: float) -> list[_Count]:
        """The count that forbids a try now, if it does."""
        count = self._counts.get(key)
        return [count] if count and count.until > now else []

    def begin(self, key: str, now: float) -> "_Try":
        """Count one more failure, which may still turn out to be none."""
        count = self._counts.pop(key, None)
        if count is None or now > count.until + FORGET_S:
            count = _Count(until=now)
        self._counts[key] = count
        if len(self._counts) > MAX_ENTRIES:
            self._counts.popitem(last=False)
        before, count.failures, count.open = count.until, count.failures + 1, count.open + 1
        count.until = after = now + self._rule.delay(count.failures)

        def take_back() -> None:
            count.failures -= 1
            if count.until == after:  # nobody else has failed since
                count.until = before
            if count.failures == 0 and self._counts.get(key) is count:
                self.clear(key)

        return _Try(count, take_back)

    def clear(self, key: str) -> None:
        """Forget every failure."""
        self._counts.pop(key, None)


class _Try(NamedTuple):
    """What one try did to a count."""

    held: _Count
    take_back: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to sign in: a failure, unless it is said to be something else. Its end is to be told once."""

    pair: str
    address: str
    account: str
    tries: tuple[_Try, ...] = field(repr=False)


class Unsettled(TooMany):
    """Not yet, and only because of tries that have not ended: had they succeeded, this one would be looked at."""


class Throttle:
    """Says whether a password may be looked at now; safe from several threads.

    Args:
        clock: seconds that never step, whatever the wall clock does.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs, self._addresses, self._accounts = _Counts(PAIR), _Counts(ADDRESS), _Counts(ACCOUNT)

    def __len__(self) -> int:
        """Entries held, of every kind."""
        return len(self._pairs) + len(self._addresses) + len(self._accounts)

    def begin(self, account: str, address: str) -> Attempt:
        """Count a try.

        Args:
            account: a user name that could be somebody's, of bounded length; the same text for all that could not.
            address: whence it comes, as the socket says.

        Raises:
            Unsettled: other tries have to end first. The try is not counted.
            TooMany: not yet; ``retry_after`` in its details is in whole seconds. The try is not counted.
        """
        place = network(address)
        pair = f"{place} {account}"  # no network holds a space
        with self._lock:
            now = self._clock()
            counts = ((self._pairs, pair), (self._addresses, place), (self._accounts, account))
            refusing = [count for kind, key in counts for count in kind.refusing(key, now)]
            if refusing and all(count.open for count in refusing):
                raise _unsettled()
            if refusing:
                raise _later(math.ceil(max(count.until for count in refusing) - now))
            return Attempt(pair, place, account, tuple(kind.begin(key, now) for kind, key in counts))

    def failed(self, attempt: Attempt) -> None:
        """The password was wrong, or whoever sent it left before it was known."""
        with self._lock:
            self._end(attempt)

    def succeeded(self, attempt: Attempt) -> None:
        """Forget the failures of that account, there and everywhere; other accounts' from that address stay."""
        with self._lock:
            self._end(attempt, take_back=True)
            self._pairs.clear(attempt.pair)
            self._accounts.clear(attempt.account)

    def withdraw(self, attempt: Attempt) -> None:
        """The password was not looked at after all."""
        with self._lock:
            self._end(attempt, take_back=True)

    def _end(self, attempt: Attempt, *, take_back: bool = False) -> None:
        for one in attempt.tries:
            one.held.open -= 1
            if take_back:
                one.take_back()


def network(address: str) -> str:
    """What one person holds of addresses: an IPv4 address, or the 64 bits before an IPv6 host (RFC 4291)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a socket of this machine, or a test's client
        return address[:64].replace(" ", "_")
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _later(seconds: int) -> TooMany:
    return TooMany(
        f"登录失败次数过多，请在 {seconds} 秒后再试",
        f"too many failed sign-ins; try again in {seconds} s",
        retry_after=seconds,
    )


def _unsettled() -> Unsettled:
    return Unsettled(
        "正在处理同一账户或地址的其他登录，请稍后重试",
        "other sign-ins of this account or address are being checked; try again in a moment",
        retry_after=1,
    )
