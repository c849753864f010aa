"""A run at a provider while clocks jump, jobs vanish, answers hang and two keys open two accounts."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.training.hosted.worlds import TIMING, World, opened, worlds
from tunesmith.kernel.problems import NotFound, TimedOut, Unavailable
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.hosted.provider import HostedJob, HostedOrder, JobEvent
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.run import State

LATE = TimedOut("超时", "no answer in time")
SIGNED = "https://storage.example/logs?X-Goog-Signature=c0ffee"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


class Odd(ScriptedProvider):
    """Says more than it should, stops slowly, and may hang."""

    slow_to_stop = False
    hangs: str | None = None

    def _job(self, job_id: str) -> HostedJob:
        job = ScriptedProvider._job(self, job_id)
        if self.slow_to_stop:
            job = replace(job, word="running", state=State.RUNNING)
        raw = {**job.raw, "trainerLogsSignedUrl": SIGNED, "events": [{"message": "m" * 1000}] * 5000}
        return replace(job, raw=raw, message=f"see {SIGNED}")

    async def events(self, job_id: str) -> Sequence[JobEvent]:
        return [JobEvent(None, "note", f"{number} {SIGNED}\x1b[2J") for number in range(3000)]

    async def create(self, order: HostedOrder, training: str, validation: str | None) -> HostedJob:
        if self.hangs == "create":
            await asyncio.Event().wait()
        return await ScriptedProvider.create(self, order, training, validation)

    async def look(self, job_id: str) -> HostedJob:
        if self.hangs == "look":
            await asyncio.Event().wait()
        return await ScriptedProvider.look(self, job_id)


def odd(world: World, timing: Timing = TIMING) -> tuple[World, Odd]:
    provider = Odd(world.provider.books, script=("running",))
    return opened(world.home, provider, world.clock, timing), provider


async def closed(world: World) -> None:
    await world.executor.close()
    world.training.release()
    world.database.close()


# -- a job that is gone ----------------------------------------------------------------------------------------------


async def test_a_job_that_was_deleted_at_its_provider_says_so_and_ends_when_it_is_canceled(world: World) -> None:
    world.provider.script = ("running",)
    run = world.start()
    await world.passes(3, apart_s=15)
    world.provider.books.write_text("")
    await world.passes(3, apart_s=600)
    trouble = world.executor.trouble(run.id)
    assert world.state(run) == "running" and trouble is not None  # it may be there for another key: nothing is given up
    assert "cancel" in trouble[1] and "取消" in trouble[0]
    world.training.cancel(run.id)
    await world.passes(2)
    news = world.news(run)
    assert world.state(run) == "canceled" and world.provider.jobs() == []
    assert news.job_id == "job-1" and news.message is not None and "no such job" in news.message


async def test_a_canceled_job_that_only_one_look_misses_is_not_given_up(world: World) -> None:
    world.provider.script = ("running",)
    run = world.start()
    await world.passes(2)
    world.provider.refusals["look"] = [NotFound("没有", "none")] * 2
    world.provider.refusals["stop"] = [NotFound("没有", "none")] * 2
    world.training.cancel(run.id)
    await world.passes(1)
    assert world.state(run) == "running"  # the list still has it
    await world.passes(100)
    assert world.state(run) == "canceled" and world.provider.calls.count("stop") == 3


# -- clocks ----------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_forward_does_not_shorten_the_wait_for_a_lost_job(world: World) -> None:
    world.provider.refusals["create"] = [LATE]
    world.start()
    await world.passes(2)
    world.clock.jump(3600)
    await world.passes(12, apart_s=5)
    assert world.provider.calls.count("find") >= 2 and world.provider.calls.count("create") == 1
    await world.passes(24, apart_s=5)
    assert world.provider.calls.count("create") == 2 and len(world.provider.jobs()) == 1


async def test_a_clock_that_is_set_back_does_not_end_the_looking(world: World) -> None:
    world.provider.script = ("running",)
    world.start()
    await world.passes(3)
    world.clock.jump(-86_400)
    before = world.provider.calls.count("look")
    await world.passes(2 * 31)
    assert world.provider.calls.count("look") == before + 2


async def test_after_a_restart_a_lost_job_is_given_the_whole_time_again(world: World) -> None:
    world.provider.refusals["create"] = [LATE]
    world.start()
    await world.passes(2)
    world.clock.jump(7200)  # the machine was off, and its clock may be wrong
    later = world.again()
    await later.passes(12, apart_s=5)
    assert later.provider.calls.count("create") == 1
    await later.passes(24, apart_s=5)
    assert later.provider.calls.count("create") == 2
    await closed(later)


# -- money -----------------------------------------------------------------------------------------------------------


async def test_too_many_requests_do_not_wipe_out_that_an_earlier_request_was_not_answered(world: World) -> None:
    world.provider.refusals["create"] = [LATE, Unavailable("过多", "too many", upstream_status=429)]
    world.start()
    await world.passes(100, apart_s=5)
    calls = world.provider.calls
    second = [at for at, call in enumerate(calls) if call == "create"][1]
    third = calls.index("create", second + 1)
    assert "find" in calls[second:third] and len(world.provider.jobs()) == 1


async def test_a_refusal_after_a_request_that_was_not_answered_names_the_job_to_look_for(world: World) -> None:
    world.provider.refusals["create"] = [LATE, NotFound("文件不存在", "no such file")]
    run = world.start()
    await world.passes(50, apart_s=5)
    found = world.runs.get(run.id)
    assert found.state is State.FAILED and found.error is not None and found.error_zh is not None
    assert (
        "no such file" in found.error and world.news(run).tag in found.error and world.news(run).tag in found.error_zh
    )


async def test_asking_for_a_job_ends_before_another_may_be_asked_for(world: World) -> None:
    later, provider = odd(world, Timing(patience_s=5.0, create_s=0.2))
    provider.hangs = "create"
    run = later.start()
    async with asyncio.timeout(30):
        while later.executor.trouble(run.id) is None:
            await later.passes(1, apart_s=0)
    assert later.news(run).tried_at is not None and later.state(run) == "running"
    await closed(later)


# -- what is told ----------------------------------------------------------------------------------------------------


async def test_nothing_that_opens_anything_is_kept_and_never_much(world: World) -> None:
    later, _ = odd(world)
    run = later.start()
    await later.passes(3, apart_s=15)
    news = later.news(run)
    assert news.word == "running" and len(news.events) == 500
    assert "c0ffee" not in repr(news) and "\x1b" not in repr(news) and len(repr(news.raw)) < 200_000
    await closed(later)


async def test_asking_at_the_moment_ends_though_the_provider_says_nothing(world: World) -> None:
    later, provider = odd(world, Timing(patience_s=60.0, ask_s=0.1))
    run = later.start()
    await later.passes(2)
    provider.hangs = "look"
    async with asyncio.timeout(30):
        assert await later.executor.ask(later.runs.get(run.id)) is None
    assert later.executor.trouble(run.id) is not None
    await closed(later)


async def test_a_job_that_takes_long_to_stop_is_not_told_to_all_the_time(world: World) -> None:
    later, provider = odd(world)
    provider.slow_to_stop = True
    run = later.start()
    await later.passes(2)
    later.training.cancel(run.id)
    await later.passes(30, apart_s=2)
    assert 3 <= provider.calls.count("stop") <= 6 and provider.calls.count("look") > 15
    await closed(later)


async def test_nothing_is_remembered_of_a_run_that_has_ended(world: World) -> None:
    world.provider.refusals["upload"] = [Unavailable("忙", "busy"), NotFound("停用", "retired")]
    run = world.start()
    await world.passes(40)
    assert world.state(run) == "failed" and world.executor.trouble(run.id) is None
    assert not world.executor._watches


async def test_nothing_is_remembered_of_a_run_that_was_canceled_in_the_queue(world: World) -> None:
    run = world.start()
    world.training.cancel(run.id)
    later = world.again()
    await later.passes(2)  # a start looks whether such a run left a job behind
    assert later.state(run) == "canceled" and not later.executor._watches and later.provider.calls == []
    await closed(later)
