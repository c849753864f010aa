"""Delays after failed sign-ins, by a clock that stands still."""

import threading
from contextlib import suppress

import pytest

from tests.unit.accounts.conftest import Seconds
from tunesmith.accounts.throttle import ACCOUNT, ADDRESS, FORGET_S, MAX_ENTRIES, PAIR, Throttle, Unsettled, network
from tunesmith.kernel.problems import TooMany

HERE = "192.0.2.1"


@pytest.fixture
def throttle(seconds: Seconds) -> Throttle:
    return Throttle(seconds)


def wait(throttle: Throttle, account: str, address: str) -> int:
    """Seconds that a refused try is told to wait."""
    with pytest.raises(TooMany) as refused:
        throttle.begin(account, address)
    assert type(refused.value) is TooMany
    after = refused.value.details["retry_after"]
    assert type(after) is int
    assert str(after) in refused.value.en
    assert str(after) in refused.value.zh
    return after


def fail(throttle: Throttle, seconds: Seconds, account: str, address: str, times: int) -> None:
    """That many failures, each as soon as it is allowed."""
    for _ in range(times):
        try:
            throttle.failed(throttle.begin(account, address))
        except TooMany as refused:
            seconds.pass_(refused.details["retry_after"])
            throttle.failed(throttle.begin(account, address))


def test_three_failures_of_an_account_from_an_address_cost_nothing(throttle: Throttle) -> None:
    for _ in range(4):
        throttle.failed(throttle.begin("ada", HERE))


def test_the_delay_doubles_from_the_fourth_failure_on_up_to_a_quarter_of_an_hour(
    throttle: Throttle, seconds: Seconds
) -> None:
    fail(throttle, seconds, "ada", HERE, 3)
    waits = []
    for _ in range(13):
        throttle.failed(throttle.begin("ada", HERE))
        waits.append(wait(throttle, "ada", HERE))
        seconds.pass_(waits[-1])
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]


def test_an_address_is_slowed_from_its_twentieth_failure_on_whoever_it_tries(
    throttle: Throttle, seconds: Seconds
) -> None:
    for number in range(20):
        throttle.failed(throttle.begin(f"user{number}", HERE))
    waits = []
    for number in range(12):
        waits.append(wait(throttle, f"another{number}", HERE))
        seconds.pass_(waits[-1])
        throttle.failed(throttle.begin(f"another{number}", HERE))
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    throttle.failed(throttle.begin("user0", "192.0.2.2"))


def test_an_account_is_slowed_from_its_tenth_failure_on_wherever_from_but_never_for_long(
    throttle: Throttle, seconds: Seconds
) -> None:
    for number in range(10):
        throttle.failed(throttle.begin("ada", f"192.0.2.{number}"))
    waits = []
    for number in range(10, 40):
        waits.append(wait(throttle, "ada", f"192.0.2.{number}"))
        seconds.pass_(waits[-1])
        throttle.failed(throttle.begin("ada", f"192.0.2.{number}"))
    assert waits[:6] == [2, 4, 8, 16, 32, 60]
    assert set(waits[6:]) == {60}
    throttle.failed(throttle.begin("bob", "192.0.2.1"))


def test_a_try_that_is_refused_is_not_counted_and_does_not_prolong_the_delay(
    throttle: Throttle, seconds: Seconds
) -> None:
    fail(throttle, seconds, "ada", HERE, 4)
    for _ in range(100):
        assert wait(throttle, "ada", HERE) == 2
    seconds.pass_(2)
    throttle.failed(throttle.begin("ada", HERE))
    assert wait(throttle, "ada", HERE) == 4


def test_the_wait_is_in_whole_seconds_and_never_nothing(throttle: Throttle, seconds: Seconds) -> None:
    fail(throttle, seconds, "ada", HERE, 4)
    seconds.pass_(1.999)
    assert wait(throttle, "ada", HERE) == 1
    seconds.pass_(0.001)
    throttle.failed(throttle.begin("ada", HERE))


def test_a_success_forgets_the_pair_and_the_account(throttle: Throttle, seconds: Seconds) -> None:
    fail(throttle, seconds, "ada", HERE, 4)
    for number in range(2, 7):
        throttle.failed(throttle.begin("ada", f"192.0.2.{number}"))
    seconds.pass_(2)
    throttle.succeeded(throttle.begin("ada", HERE))
    for _ in range(4):
        throttle.failed(throttle.begin("ada", HERE))
    for number in range(10, 15):
        throttle.failed(throttle.begin("ada", f"192.0.2.{number}"))


def test_a_success_does_not_forget_what_an_address_did_to_others(throttle: Throttle, seconds: Seconds) -> None:
    """Or whoever has one account could guess at all the others for ever."""
    for number in range(19):
        throttle.failed(throttle.begin(f"user{number}", HERE))
        throttle.succeeded(throttle.begin("mallory", HERE))
    throttle.failed(throttle.begin("user19", HERE))
    assert wait(throttle, "user20", HERE) == 2
    assert wait(throttle, "mallory", HERE) == 2


def test_a_success_is_no_failure_of_the_address(throttle: Throttle) -> None:
    for number in range(100):
        throttle.succeeded(throttle.begin(f"user{number}", HERE))
    assert len(throttle) == 0


def test_a_success_does_not_prolong_what_an_address_has_waited_out(throttle: Throttle, seconds: Seconds) -> None:
    for number in range(20):
        throttle.failed(throttle.begin(f"user{number}", HERE))
    seconds.pass_(2)
    throttle.succeeded(throttle.begin("ada", HERE))
    throttle.succeeded(throttle.begin("bob", HERE))


def test_a_try_whose_password_was_not_looked_at_is_no_failure(throttle: Throttle) -> None:
    for _ in range(100):
        throttle.withdraw(throttle.begin("ada", HERE))
    assert len(throttle) == 0


def test_withdrawing_one_try_leaves_the_failures_begun_meanwhile(throttle: Throttle) -> None:
    attempt = throttle.begin("ada", HERE)
    for _ in range(3):
        throttle.failed(throttle.begin("ada", HERE))
    throttle.withdraw(attempt)
    assert wait(throttle, "ada", HERE) == 2


def test_tries_that_begin_at_once_are_counted_before_any_of_them_ends(throttle: Throttle) -> None:
    let_in = []
    barrier = threading.Barrier(50)

    def guess() -> None:
        barrier.wait()
        with suppress(TooMany):
            let_in.append(throttle.begin("ada", HERE))

    guesses = [threading.Thread(target=guess) for _ in range(50)]
    for one in guesses:
        one.start()
    for one in guesses:
        one.join()
    assert len(let_in) == PAIR.free


def test_who_is_refused_for_tries_that_have_not_ended_is_told_so(throttle: Throttle, seconds: Seconds) -> None:
    tries = [throttle.begin("ada", HERE) for _ in range(PAIR.free)]
    with pytest.raises(Unsettled) as refused:
        throttle.begin("ada", HERE)
    assert refused.value.details == {"retry_after": 1}
    assert "failed" not in refused.value.en
    assert "失败" not in refused.value.zh
    for one in tries[:-1]:
        throttle.failed(one)
        with pytest.raises(Unsettled):
            throttle.begin("ada", HERE)
    throttle.failed(tries[-1])
    assert wait(throttle, "ada", HERE) == 2


def test_tries_that_have_not_ended_hide_no_delay_that_failures_earned(throttle: Throttle, seconds: Seconds) -> None:
    fail(throttle, seconds, "ada", HERE, PAIR.free)
    for number in range(ADDRESS.free - PAIR.free):
        throttle.begin(f"user{number}", HERE)
    assert wait(throttle, "ada", HERE) == 2
    with pytest.raises(Unsettled):
        throttle.begin("bob", HERE)


def test_a_success_lets_in_those_that_waited_for_it(throttle: Throttle) -> None:
    tries = [throttle.begin("ada", HERE) for _ in range(PAIR.free)]
    throttle.succeeded(tries[0])
    tries += [throttle.begin("ada", HERE) for _ in range(PAIR.free)]
    for one in tries[1:]:
        throttle.succeeded(one)
    assert len(throttle) == 0


def test_what_is_long_quiet_is_forgotten(throttle: Throttle, seconds: Seconds) -> None:
    fail(throttle, seconds, "ada", HERE, 9)
    seconds.pass_(PAIR.delay(9) + FORGET_S - 1)
    throttle.failed(throttle.begin("ada", HERE))
    assert wait(throttle, "ada", HERE) == 128
    seconds.pass_(128 + FORGET_S + 1)
    for _ in range(4):
        throttle.failed(throttle.begin("ada", HERE))


def test_many_names_neither_grow_it_nor_free_the_address_that_sends_them(throttle: Throttle, seconds: Seconds) -> None:
    """Names sent from one address: the address is slowed, and its slowness is never pushed out."""
    for number in range(MAX_ENTRIES + 1000):
        fail(throttle, seconds, f"user{number}", HERE, 1)
        seconds.pass_(ADDRESS.longest_s)
    assert len(throttle) <= 2 * MAX_ENTRIES + 1
    throttle.failed(throttle.begin("one more", HERE))
    assert wait(throttle, "user0", HERE) == 900


def test_many_names_from_many_addresses_keep_within_bounds(throttle: Throttle) -> None:
    for number in range(3 * MAX_ENTRIES):
        throttle.failed(throttle.begin(f"user{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(throttle) == 3 * MAX_ENTRIES


def test_names_sent_meanwhile_do_not_free_the_account_that_is_being_guessed(throttle: Throttle) -> None:
    for number in range(MAX_ENTRIES - 1):
        throttle.failed(throttle.begin(f"user{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        if number % 1000 == 0:
            throttle.failed(throttle.begin("ada", f"192.0.2.{number // 1000}"))
    assert wait(throttle, "ada", "192.0.2.77") <= ACCOUNT.longest_s


def test_who_failed_longest_ago_makes_room_and_not_who_came_first(throttle: Throttle) -> None:
    for number in range(19):
        throttle.failed(throttle.begin(f"user{number}", HERE))
    for number in range(2 * MAX_ENTRIES - 2):
        if number == MAX_ENTRIES - 1:
            throttle.failed(throttle.begin("user19", HERE))
        throttle.failed(throttle.begin(f"other{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert wait(throttle, "ada", HERE) == 2
    throttle.failed(throttle.begin("one more", "198.51.100.1"))
    throttle.failed(throttle.begin("ada", HERE))


def test_addresses_are_counted_by_what_one_person_holds() -> None:
    assert network("192.0.2.1") == "192.0.2.1"
    assert network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::1") != network("2001:db8:1:2::1")
    assert network("fe80::1%eth0") == network("fe80::2%eth1")
    assert network("testclient") == "testclient"
    assert len(network("x" * 1_000_000)) == 64
    assert network("") == ""


def test_hosts_of_one_network_are_slowed_together(throttle: Throttle) -> None:
    for host in range(1, 21):
        throttle.failed(throttle.begin(f"user{host}", f"2001:db8::{host:x}"))
    assert wait(throttle, "ada", "2001:db8::ffff") == 2


def test_an_account_and_an_address_that_read_alike_together_are_not_mixed_up(throttle: Throttle) -> None:
    for _ in range(4):
        throttle.failed(throttle.begin("b c", "a"))
    throttle.failed(throttle.begin("c", "a b"))
