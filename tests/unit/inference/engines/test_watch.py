"""How long an answer is waited for, by a clock that the test turns."""

import asyncio
from collections.abc import Iterator

import pytest

from tunesmith.inference.engines.watch import NEVER, Patience, Watch


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time only moves when it is told to."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        async def turns() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.run_until_complete(turns())


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def watch(loop: Loop, patience: Patience) -> tuple[Watch, list[str]]:
    said: list[str] = []

    async def start() -> Watch:
        return Watch(patience, said.append, loop.time())

    return loop.run_until_complete(start()), said


def test_the_first_token_is_waited_for_so_long_and_no_longer(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=60, idle_s=5, total_s=600))
    for _ in range(59):  # what comes but is no token changes nothing
        watching.waiting()
        loop.pass_time(1)
        watching.came()
    assert said == []
    loop.pass_time(1.1)
    assert said == ["first token"]


def test_after_the_first_token_only_silence_is_too_long(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=60, idle_s=5, total_s=600))
    watching.waiting()
    loop.pass_time(1)
    watching.came()
    watching.heard()
    for _ in range(3):
        watching.waiting()
        loop.pass_time(4.5)
        watching.came()
        watching.heard()
    assert said == []
    watching.waiting()
    loop.pass_time(5.2)
    assert said == ["idle"], "five seconds after the last token, and not when the first was due"


def test_silence_is_noticed_where_the_first_token_could_have_taken_for_ever(loop: Loop) -> None:
    watching, said = watch(loop, Patience(idle_s=5))
    loop.pass_time(100)
    watching.heard()
    watching.waiting()
    loop.pass_time(4.8)
    assert said == []
    loop.pass_time(0.4)
    assert said == ["idle"]


def test_a_busy_reader_is_not_the_upstreams_silence(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=60, idle_s=5, total_s=600))
    watching.waiting()
    watching.came()
    watching.heard()
    loop.pass_time(100)  # the reader has it
    assert said == []
    watching.waiting()
    loop.pass_time(4.8)
    assert said == []
    loop.pass_time(0.4)
    assert said == ["idle"]


def test_the_whole_answer_is_waited_for_so_long_whatever_comes(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=60, idle_s=5, total_s=20))
    watching.heard()
    for _ in range(198):
        watching.waiting()
        loop.pass_time(0.1)
        watching.came()
    assert said == []
    loop.pass_time(0.4)
    assert said == ["total"]


def test_the_whole_answer_ends_before_its_first_token_where_that_is_sooner(loop: Loop) -> None:
    _, said = watch(loop, Patience(first_s=60, total_s=2))
    loop.pass_time(2.2)
    assert said == ["total"]


def test_it_is_said_once(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=1, idle_s=1, total_s=5))
    loop.pass_time(2)
    watching.heard()
    watching.waiting()
    loop.pass_time(10)
    assert said == ["first token"]


def test_after_the_end_nothing_is_said_and_no_timer_is_left(loop: Loop) -> None:
    watching, said = watch(loop, Patience(first_s=1, idle_s=1, total_s=5))
    watching.stop()
    watching.heard()
    loop.pass_time(10)
    assert said == []
    unlimited, said = watch(loop, Patience())
    unlimited.heard()
    unlimited.waiting()
    loop.pass_time(10)
    assert said == []
    assert Patience().total_s == NEVER
