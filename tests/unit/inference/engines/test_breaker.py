"""When an upstream is left alone, and when it is tried again."""

from tunesmith.inference.engines.breaker import Breaker


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Breaker:
    breaker = Breaker(clock=time)
    for _ in range(5):
        breaker.failed()
    return breaker


def test_four_failures_in_a_row_change_nothing_and_the_fifth_opens_it() -> None:
    breaker = Breaker(clock=Time())
    for _ in range(4):
        breaker.failed()
        assert (breaker.open, breaker.wait_s()) == (False, 0.0)
    breaker.failed()
    assert (breaker.open, breaker.wait_s()) == (True, 5.0)


def test_only_failures_in_a_row_count() -> None:
    breaker = Breaker(clock=Time())
    for _ in range(20):
        breaker.failed()
        breaker.connected()
    assert not breaker.open


def test_after_five_seconds_one_caller_tries_for_everybody() -> None:
    time = Time()
    breaker = opened(time)
    time.now += 4.5
    assert breaker.wait_s() == 0.5
    time.now += 0.5
    assert breaker.wait_s() == 0.0
    assert breaker.wait_s() == 5.0, "the others wait for what the first one finds"
    assert breaker.open


def test_an_answer_closes_it_and_one_more_failure_keeps_it_open() -> None:
    time = Time()
    breaker = opened(time)
    time.now += 5
    assert breaker.wait_s() == 0.0
    time.now += 1
    breaker.failed()
    assert breaker.wait_s() == 5.0, "from the failure on, not from the try"
    time.now += 5
    assert breaker.wait_s() == 0.0
    breaker.connected()
    assert (breaker.open, breaker.wait_s()) == (False, 0.0)
    breaker.failed()
    assert not breaker.open, "it counts from the beginning"


def test_a_try_that_never_says_how_it_went_holds_nobody_for_ever() -> None:
    time = Time()
    breaker = opened(time)
    for _ in range(3):
        time.now += 5
        assert breaker.wait_s() == 0.0
