"""A list that is asked for now and then."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from tunesmith.inference.model_ids import Listed
from tunesmith.kernel.live_list import LiveList
from tunesmith.kernel.problems import Problem, Unavailable

FRESH_S = 20.0
DOWN = Unavailable("没有应答", "does not answer")


class Upstream:
    """Answers when told to, with a list that tells one answer from the next."""

    def __init__(self) -> None:
        self.asked = self.left = 0
        self.now = 1000.0
        self.failure: BaseException | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def fetch(self) -> Sequence[Listed]:
        self.asked += 1
        number = self.asked
        try:
            await self.answering.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if self.failure is not None:
            raise self.failure
        return [Listed(f"answer-{number}")]


def ids(listed: Sequence[Listed]) -> list[str]:
    return [each.id for each in listed]


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def live(upstream: Upstream) -> AsyncIterator[LiveList[Listed]]:
    made = LiveList(upstream.fetch, fresh_s=FRESH_S, wait_s=60.0, clock=lambda: upstream.now)
    yield made
    await made.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_fresh_list_is_given_without_asking_again(live: LiveList[Listed], upstream: Upstream) -> None:
    assert (live.problem, live.age_s) == (None, None)
    assert ids(await live.get()) == ["answer-1"]
    upstream.now += FRESH_S - 1
    assert ids(await live.get()) == ["answer-1"]
    await settle()
    assert (upstream.asked, live.age_s) == (1, FRESH_S - 1)


async def test_an_old_list_is_given_at_once_while_one_question_for_a_newer_runs(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    await live.get()
    upstream.now += FRESH_S
    upstream.answering.clear()
    for _ in range(3):
        assert ids(await live.get()) == ["answer-1"]
        await settle()
    assert upstream.asked == 2
    upstream.answering.set()
    await settle()
    assert ids(await live.get()) == ["answer-2"]
    assert (upstream.asked, live.age_s) == (2, 0.0)


async def test_many_who_need_the_first_list_share_one_question(live: LiveList[Listed], upstream: Upstream) -> None:
    upstream.answering.clear()
    waiting = [asyncio.create_task(live.get()) for _ in range(50)]
    await settle()
    upstream.answering.set()
    assert {tuple(ids(await each)) for each in waiting} == {("answer-1",)}
    assert upstream.asked == 1


async def test_whoever_is_cancelled_while_waiting_does_not_cancel_it_for_the_others(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    upstream.answering.clear()
    first, second, listing = (asyncio.create_task(each) for each in (live.get(), live.get(), live.fresh()))
    await settle()
    first.cancel()
    listing.cancel()
    await asyncio.wait({first, listing})
    assert first.cancelled() and listing.cancelled() and upstream.left == 0
    upstream.answering.set()
    assert ids(await second) == ["answer-1"]
    assert upstream.asked == 1


async def test_the_first_list_is_waited_for_no_longer_than_said_and_comes_later(upstream: Upstream) -> None:
    upstream.answering.clear()
    live = LiveList(upstream.fetch, fresh_s=FRESH_S, wait_s=0.01, clock=lambda: upstream.now)
    assert ids(await live.get()) == []
    assert (upstream.asked, upstream.left, live.problem) == (1, 0, None)
    upstream.answering.set()
    await settle()
    assert ids(await live.get()) == ["answer-1"]
    await live.close()


async def test_who_does_not_wait_gets_what_there_is_and_sets_off_the_question(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    assert ids(await live.get(wait=False)) == []
    await settle()
    assert ids(await live.get(wait=False)) == ["answer-1"]


async def test_a_failure_keeps_the_old_list_and_is_remembered_until_a_success(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    await live.get()
    upstream.now += FRESH_S
    upstream.failure = DOWN
    await live.get()
    await settle()
    assert (ids(await live.get()), live.problem, live.age_s) == (["answer-1"], DOWN, FRESH_S)
    upstream.failure = None
    upstream.now += FRESH_S
    await live.get()
    await settle()
    assert (ids(await live.get()), live.problem) == (["answer-3"], None)


async def asked_again_after(live: LiveList[Listed], upstream: Upstream) -> float:
    """Seconds until a request makes the list be asked for again, to half a second."""
    before, began = upstream.asked, upstream.now
    while upstream.asked == before and upstream.now < began + 100:
        upstream.now += 0.5
        await live.get(wait=False)
        await settle()
    return upstream.now - began


async def test_a_dead_upstream_is_asked_ever_more_seldom_and_never_on_every_request(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    upstream.failure = DOWN
    for _ in range(5):
        assert ids(await live.get()) == []
    assert upstream.asked == 1
    assert [await asked_again_after(live, upstream) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 16.0, FRESH_S]


async def test_a_dead_upstream_is_asked_every_half_minute_at_least(upstream: Upstream) -> None:
    upstream.failure = DOWN
    live = LiveList(upstream.fetch, fresh_s=600.0, wait_s=60.0, clock=lambda: upstream.now)
    await live.get()
    assert [await asked_again_after(live, upstream) for _ in range(7)][-2:] == [30.0, 30.0]
    await live.close()


async def test_after_a_success_the_next_failure_is_the_first_again(live: LiveList[Listed], upstream: Upstream) -> None:
    upstream.failure = DOWN
    await live.get()
    assert [await asked_again_after(live, upstream) for _ in range(2)] == [1.0, 2.0]
    upstream.failure = None
    await live.fresh()
    upstream.failure = DOWN
    upstream.now += FRESH_S
    await live.get()
    await settle()
    assert await asked_again_after(live, upstream) == 1.0


async def test_a_listing_asks_for_real_though_the_list_is_fresh_or_has_just_failed(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    await live.get()
    assert ids(await live.fresh()) == ["answer-2"]
    upstream.failure = DOWN
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await live.fresh()
        assert caught.value is DOWN
    assert upstream.asked == 4
    assert ids(await live.get()) == ["answer-2"]


async def test_listings_at_once_share_one_question_and_its_failure(live: LiveList[Listed], upstream: Upstream) -> None:
    upstream.answering.clear()
    upstream.failure = DOWN
    waiting = [asyncio.create_task(live.fresh()) for _ in range(5)]
    await settle()
    upstream.answering.set()
    assert await asyncio.gather(*waiting, return_exceptions=True) == [DOWN] * 5
    assert upstream.asked == 1


async def test_what_is_forgotten_is_asked_for_again_and_a_late_answer_is_not_kept(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    await live.get()
    upstream.answering.clear()
    waiting = [asyncio.create_task(each) for each in (live.fresh(), live.fresh())]
    await settle()
    live.forget()
    assert live.age_s is None
    waiting.append(asyncio.create_task(live.get()))
    await settle()
    assert upstream.left == 1
    upstream.answering.set()
    assert [ids(await each) for each in waiting] == [["answer-3"]] * 3
    assert upstream.asked == 3


async def test_who_waits_for_the_first_list_when_it_is_forgotten_gets_the_newer_one(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    upstream.answering.clear()
    waiting = asyncio.create_task(live.get())
    await settle()
    live.forget()
    upstream.answering.set()
    assert ids(await waiting) == ["answer-2"]


async def test_an_answer_that_cannot_be_stopped_any_more_is_not_kept_once_forgotten() -> None:
    release, asked = asyncio.Event(), 0

    async def stubborn_at_first() -> Sequence[Listed]:
        nonlocal asked
        asked += 1
        number = asked
        while number == 1 and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return [Listed(f"answer-{number}")]

    live = LiveList(stubborn_at_first, fresh_s=FRESH_S, wait_s=60.0)
    await live.get(wait=False)
    await settle()
    live.forget()
    assert ids(await live.get()) == ["answer-2"]
    release.set()
    await settle()
    assert ids(await live.get()) == ["answer-2"]
    await live.close()


async def test_forgetting_forgets_the_failure_too(live: LiveList[Listed], upstream: Upstream) -> None:
    upstream.failure = DOWN
    await live.get()
    upstream.failure = None
    live.forget()
    assert live.problem is None
    assert ids(await live.get()) == ["answer-2"]


async def test_closing_stops_what_runs_and_keeps_the_list(upstream: Upstream) -> None:
    live = LiveList(upstream.fetch, fresh_s=FRESH_S, wait_s=60.0, clock=lambda: upstream.now)
    await live.get()
    upstream.now += FRESH_S
    upstream.answering.clear()
    listing = asyncio.create_task(live.fresh())
    await settle()
    await live.close()
    assert upstream.left == 1
    with pytest.raises(Unavailable):
        await listing
    assert ids(await live.get()) == ["answer-1"]
    with pytest.raises(Unavailable):
        await live.fresh()
    assert upstream.asked == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await live.close()


async def test_who_waits_for_the_first_list_is_let_go_by_closing(upstream: Upstream) -> None:
    live = LiveList(upstream.fetch, fresh_s=FRESH_S, wait_s=60.0)
    upstream.answering.clear()
    waiting = asyncio.create_task(live.get())
    await settle()
    await live.close()
    assert ids(await waiting) == []
    assert upstream.asked == upstream.left == 1


async def test_a_list_closed_before_its_question_began_asks_nothing(upstream: Upstream) -> None:
    live = LiveList(upstream.fetch, fresh_s=FRESH_S, wait_s=60.0)
    await live.get(wait=False)
    await live.close()
    assert upstream.asked == 0


async def test_a_bug_in_asking_is_a_problem_like_any_other_and_logged(
    live: LiveList[Listed], upstream: Upstream
) -> None:
    upstream.failure = KeyError("data")
    with capture_logs() as logs:
        assert ids(await live.get()) == []
    assert isinstance(live.problem, Unavailable)
    assert [log["log_level"] for log in logs] == ["error"] and logs[0]["exc_info"]
    with pytest.raises(Problem), capture_logs():
        await live.fresh()


async def test_a_question_cancelled_from_within_ends_the_waiting(live: LiveList[Listed], upstream: Upstream) -> None:
    upstream.failure = asyncio.CancelledError()
    assert ids(await live.get()) == []
    with pytest.raises(Unavailable):
        await live.fresh()
    upstream.failure = None
    assert ids(await live.get()) == ["answer-3"]


async def test_a_list_that_is_never_fresh_does_not_ask_a_dead_upstream_without_end(upstream: Upstream) -> None:
    upstream.failure = DOWN
    live = LiveList(upstream.fetch, fresh_s=0.0, wait_s=60.0)
    assert ids(await live.get()) == []
    assert upstream.asked == 1
    await live.close()


async def test_the_question_does_not_wear_the_request_that_set_it_off() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    async def fetch() -> Sequence[Listed]:
        seen.append(request.get())
        return []

    live = LiveList(fetch, fresh_s=FRESH_S, wait_s=60.0)
    request.set("one request")
    await live.get()
    assert seen == ["none"]
    await live.close()


async def test_an_empty_list_is_a_list(live: LiveList[Listed], upstream: Upstream) -> None:
    answers: list[Sequence[Listed]] = [[], [Listed("a")]]

    async def fetch() -> Sequence[Listed]:
        return answers.pop(0)

    empty = LiveList(fetch, fresh_s=FRESH_S, wait_s=60.0, clock=lambda: upstream.now)
    assert (ids(await empty.get()), ids(await empty.get()), empty.age_s) == ([], [], 0.0)
    assert len(answers) == 1
    await empty.close()
