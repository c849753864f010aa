"""The wall clock as a port, so that tests and leases can hold it still."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The current time with the UTC zone, to the microsecond."""
    return datetime.now(UTC)
