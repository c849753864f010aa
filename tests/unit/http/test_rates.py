import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.http.rates import MOST_KEYS, Kind, Rates, by_address, by_name
from tunesmith.http.windows import Windows
from tunesmith.kernel.problems import Invalid, TooMany, Unsupported
from tunesmith.settings import Settings

NOON = 1_678_291_200


class Clock:
    """Both clocks of a machine: one that only runs, and the time of day, which somebody may set."""

    def __init__(self) -> None:
        self.ran, self.set = 1000.0, NOON - 1000.0

    def monotonic(self) -> float:
        return self.ran

    def time_of_day(self) -> float:
        return self.ran + self.set


def rates_at(clock: Clock, **limits: int) -> Rates:
    settings = Settings(home=Path("/nowhere"), **{f"rate_{kind}": number for kind, number in limits.items()})
    return Rates.of(settings, clock=clock.monotonic, time_of_day=clock.time_of_day)


@pytest.mark.parametrize("kind, limit, window", [("training", 10, 3600), ("inference", 60, 60), ("other", 120, 60)])
async def test_the_documents_limits_let_exactly_so_many_through_in_any_window(
    kind: Kind, limit: int, window: int
) -> None:
    clock = Clock()
    rates = rates_at(clock)
    for number in range(limit):
        standing = await rates.hit("user:a", kind)
        assert (standing.allowed, standing.limit, standing.remaining) == (True, limit, limit - number - 1)
        assert standing.reset == NOON + window
        clock.ran += 0.1
    refused = await rates.hit("user:a", kind)
    assert (refused.allowed, refused.remaining, refused.reset) == (False, 0, NOON + window)
    clock.ran = 1000 + window - 0.001
    assert not (await rates.hit("user:a", kind)).allowed
    clock.ran = 1000 + window
    assert (await rates.hit("user:a", kind)).allowed
    assert not (await rates.hit("user:a", kind)).allowed  # the second one was made 0.1 s after the first


async def test_a_refused_request_does_not_count() -> None:
    clock = Clock()
    rates = rates_at(clock, other=1)
    await rates.hit("user:a", "other")
    clock.ran += 59
    assert not (await rates.hit("user:a", "other")).allowed
    clock.ran += 1
    assert (await rates.hit("user:a", "other")).allowed


async def test_looking_counts_nothing_and_says_now_when_nothing_is_counted() -> None:
    clock = Clock()
    clock.ran += 0.5
    rates = rates_at(clock, other=2)
    for _ in range(5):
        seen = await rates.look("user:a", "other")
        assert (seen.allowed, seen.remaining, seen.reset) == (True, 2, NOON + 1)  # whole seconds, rounded up
    await rates.hit("user:a", "other")
    await rates.hit("user:a", "other")
    seen = await rates.look("user:a", "other")
    assert (seen.allowed, seen.remaining, seen.reset) == (False, 0, NOON + 61)


async def test_whoever_waits_as_long_as_told_gets_through() -> None:
    clock = Clock()
    clock.ran += 0.25
    rates = rates_at(clock, other=1)
    await rates.hit("user:a", "other")
    clock.ran += 59.9
    refused = await rates.hit("user:a", "other")
    assert refused.retry_after == 1
    clock.ran += refused.retry_after
    assert (await rates.hit("user:a", "other")).allowed
    refused = await rates.hit("user:a", "other")
    clock.ran = refused.reset - clock.set
    assert (await rates.hit("user:a", "other")).allowed


async def test_users_addresses_and_kinds_count_apart() -> None:
    rates = rates_at(Clock(), training=1, inference=1, other=1)
    for who in (by_name("a"), by_name("b"), by_name("a/other"), "address:a"):
        for kind in ("training", "inference", "other"):
            assert (await rates.hit(who, kind)).allowed  # type: ignore[arg-type]


async def test_a_step_of_the_clock_neither_frees_nor_locks_out() -> None:
    clock = Clock()
    rates = rates_at(clock, other=1)
    await rates.hit("user:a", "other")
    for step in (-86400.0, 2 * 86400.0):
        clock.set += step
        refused = await rates.hit("user:a", "other")
        assert not refused.allowed and refused.reset == clock.time_of_day() + 60
    clock.ran += 60
    assert (await rates.hit("user:a", "other")).allowed


async def test_a_parallel_burst_gets_exactly_the_limit() -> None:
    rates = rates_at(Clock(), inference=60)
    standings = await asyncio.gather(*(rates.hit("user:a", "inference") for _ in range(500)))
    assert sum(each.allowed for each in standings) == 60
    assert sorted(each.remaining for each in standings if each.allowed) == list(range(60))


async def test_the_refusal_says_how_long_to_wait_in_both_languages() -> None:
    rates = rates_at(Clock(), training=1)
    await rates.hit("user:a", "training")
    problem = (await rates.hit("user:a", "training")).problem()
    assert isinstance(problem, TooMany) and problem.details == {"limit": 1, "retry_after": 3600}
    assert "3600" in problem.zh and "3600" in problem.en


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),  # or all of IPv4 would share one /64
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_customer_counts_as_one(one: str, other: str, same: bool) -> None:
    keys = {by_address({"client": (address, port)}) for port, address in enumerate((one, other))}
    assert (len(keys) == 1) is same


def test_a_connection_without_an_address_counts_too() -> None:
    assert by_address({"client": None}) == by_address({}) != by_address({"client": ("192.0.2.1", 1)})


def test_a_name_cannot_be_taken_for_an_address() -> None:
    assert by_name("192.0.2.1") != by_address({"client": ("192.0.2.1", 1)})


async def test_a_flood_of_addresses_is_forgotten_and_the_busy_are_not() -> None:
    windows = Windows(most_keys=1000, clock=lambda: 0.0)
    for _ in range(3):
        assert await windows.acquire_entry("busy", 3, 3600)
    for number in range(20_000):
        assert await windows.acquire_entry(f"flood {number}", 120, 60)
        assert len(windows) <= 1000
    assert not await windows.acquire_entry("busy", 3, 3600)


async def test_keys_whose_window_has_passed_make_room_first() -> None:
    now = 0.0
    windows = Windows(most_keys=1_000_000, clock=lambda: now)
    for number in range(5000):
        await windows.acquire_entry(f"old {number}", 120, 60)
    now = 61.0
    for number in range(5000):
        await windows.acquire_entry(f"new {number}", 120, 60)
    assert len(windows) < 6500  # of ten thousand
    assert (await windows.get_moving_window("new 0", 120, 60))[1] == 1


def test_the_number_of_keys_is_bounded_by_default() -> None:
    assert MOST_KEYS == 100_000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
async def test_windows_agree_with_a_list_of_all_hits(steps: list[tuple[str, float]]) -> None:
    now = 0.0
    windows = Windows(most_keys=10, clock=lambda: now)
    hits: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for key, later in steps:
        now += later
        counted = [hit for hit in hits[key] if hit > now - 60]
        assert await windows.acquire_entry(key, 3, 60) is (len(counted) < 3)
        if len(counted) < 3:
            hits[key].append(now)
            counted.append(now)
        assert await windows.get_moving_window(key, 3, 60) == (counted[0], len(counted))


def test_a_redis_url_without_the_package_is_said_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(Unsupported) as caught:
        Rates.of(Settings(home=Path("/nowhere"), redis_url="redis://localhost:6379/0"))
    assert "pip install" in caught.value.en


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port/0", "memory://"])
def test_a_redis_url_that_is_none_is_said_at_start_without_its_password(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Rates.of(Settings(home=Path("/nowhere"), redis_url=url))
    assert url not in str(caught.value) and caught.value.details == {"field": "redis_url"}


async def test_a_redis_that_never_answered_counts_in_memory() -> None:
    rates = Rates.of(Settings(home=Path("/nowhere"), redis_url="redis://127.0.0.1:1/0", rate_other=3))
    standings = [await rates.hit("user:a", "other") for _ in range(5)]
    assert [each.allowed for each in standings] == [True] * 3 + [False] * 2
    await rates.close()
