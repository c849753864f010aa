"""A run at a provider: one job, whatever is refused, unanswered or unheard of; and nothing is done that was not asked."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from tests.unit.training.hosted.worlds import World, opened, worlds
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, TimedOut, Unavailable
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.hosted.provider import TrainingFile
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.run import State

DOWN = Unavailable("连接不上", "no connection")
LATE = TimedOut("超时", "no answer in time")
REFUSED = [
    Forbidden("密钥不被接受", "the key is not accepted", raw={"error": "401"}),
    Forbidden("余额不足", "its credit is used up", raw={"error": "402"}),
    NotFound("模型已停用", "the model is retired", raw={"error": "404"}),
    Invalid("参数无效", "bad parameters", raw={"error": "422"}),
    Forbidden("", "", raw=None),
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


async def test_a_run_is_uploaded_created_looked_at_and_completed(world: World) -> None:
    run = world.start(validation=True)
    await world.passes(2)
    assert world.provider.calls[:6] == ["upload", "upload done", "upload", "upload done", "create", "create done"]
    [job] = world.provider.jobs()
    news = world.news(run)
    assert job["tag"] == news.tag == f"ts-{run.id[:26]}" and job["parameters"] == {"epochs": 2}
    assert job["files"] == [f"file-{news.tag}", f"file-{news.tag}-v"]
    assert (news.job_id, news.word, news.pending) == ("job-1", "pending", True) and world.state(run) == "running"
    await world.passes(4, apart_s=15)
    found, news = world.runs.get(run.id), world.news(run)
    assert found.state is State.COMPLETED and found.progress.step == 2 and found.ended_at is not None
    assert news.output_model == f"me/{news.tag}" and news.cost is not None and news.cost.amount == 1.25
    assert news.tokens == 1000 and news.raw["word"] == "completed" and len(news.events) == 3
    await world.passes(3, apart_s=60)
    assert world.provider.calls.count("create") == 1 and world.provider.calls.count("look") == 3


async def test_a_job_is_looked_at_every_fifteen_seconds_and_not_at_every_pass(world: World) -> None:
    world.provider.script = ("running",)
    world.start()
    await world.passes(2 + 2 * 60)
    assert world.provider.calls.count("look") == 4


async def test_many_runs_are_under_way_at_a_provider_though_this_machine_has_room_for_one(world: World) -> None:
    runs = [world.start() for _ in range(5)]
    await world.passes(2)
    assert len(world.provider.jobs()) == 5 and {world.state(run) for run in runs} == {"running"}


@pytest.mark.parametrize("problem", REFUSED, ids=["401", "402", "404", "422", "nothing said"])
@pytest.mark.parametrize("verb", ["upload", "create"])
async def test_an_order_that_is_refused_fails_its_run_with_clear_words_and_the_raw_answer(
    world: World, problem: Problem, verb: str
) -> None:
    world.provider.refusals[verb] = [problem]
    run = world.start()
    await world.passes(3)
    found = world.runs.get(run.id)
    assert found.state is State.FAILED and found.error and found.error_zh
    assert problem.en in found.error and problem.zh in found.error_zh
    assert world.news(run).raw == (problem.details["raw"] or {"raw": None})
    await world.passes(5, apart_s=600)
    assert world.provider.jobs() == []


async def test_a_provider_that_is_away_is_tried_again_ever_more_seldom_and_says_why(world: World) -> None:
    world.provider.refusals["upload"] = [DOWN] * 5
    run = world.start()
    await world.passes(2)
    assert world.state(run) == "running" and world.executor.trouble(run.id) == ("连接不上", "no connection")
    version = world.runs.get(run.id).version
    await world.passes(2 * 154)  # 5 + 10 + 20 + 40 + 80 s is when the sixth try is due
    assert world.provider.calls.count("upload") == 5 and world.runs.get(run.id).version == version
    await world.passes(4)
    assert len(world.provider.jobs()) == 1 and world.executor.trouble(run.id) is None


async def test_how_long_a_provider_asks_to_be_left_alone_it_is(world: World) -> None:
    world.provider.refusals["upload"] = [Unavailable("忙", "busy", retry_after=60)]
    world.start()
    await world.passes(2 * 59)
    assert world.provider.calls.count("upload") == 1
    await world.passes(4)
    assert world.provider.calls.count("upload") == 2


async def test_a_job_that_was_made_though_nobody_heard_of_it_is_found_and_not_made_again(world: World) -> None:
    world.provider.refusals["create done"] = [LATE]
    run = world.start()
    await world.passes(2)
    assert len(world.provider.jobs()) == 1 and world.news(run).job_id is None
    await world.passes(20)
    assert world.news(run).job_id == "job-1" and world.provider.calls.count("create") == 1


async def test_no_job_is_asked_for_again_before_the_providers_list_had_time_to_show_the_first(world: World) -> None:
    world.provider.refusals["create"] = [LATE]
    run = world.start()
    await world.passes(2 * 119)
    assert world.provider.calls.count("create") == 1 and world.provider.calls.count("find") >= 3
    await world.passes(2 * 60)
    assert world.provider.calls.count("create") == 2 and len(world.provider.jobs()) == 1
    assert world.news(run).job_id == "job-1"


async def test_after_too_many_requests_nothing_was_done_and_nothing_is_looked_for(world: World) -> None:
    world.provider.refusals["create"] = [Unavailable("过多", "too many", upstream_status=429)]
    world.start()
    await world.passes(12)
    assert world.provider.calls.count("find") == 0 and len(world.provider.jobs()) == 1


async def test_what_exists_already_is_looked_for(world: World) -> None:
    world.provider.refusals["create done"] = [Conflict("已存在", "it exists already")]
    run = world.start()
    await world.passes(14)
    assert world.news(run).job_id == "job-1" and world.state(run) == "running"


async def test_a_key_that_is_lost_after_a_job_was_asked_for_loses_no_job(world: World) -> None:
    world.provider.refusals |= {"create done": [LATE], "find": [REFUSED[0]], "look": [REFUSED[0], REFUSED[2]]}
    world.provider.script = ("running",)
    run = world.start()
    await world.passes(2 * 10)
    assert world.state(run) == "running" and world.executor.trouble(run.id) is not None
    await world.passes(2 * 120)
    assert world.news(run).job_id == "job-1" and world.executor.trouble(run.id) is None


async def test_a_state_that_goes_backwards_or_was_never_seen_changes_nothing_but_the_word(world: World) -> None:
    world.provider.script = ("running", "pending", "levitating", "completed", "running")
    run = world.start()
    await world.passes(1)
    seen = []
    for _ in range(8):
        await world.passes(1, apart_s=15)
        news = world.news(run)
        seen.append((news.word, news.known, news.pending, world.state(run)))
    assert seen == [
        *[("running", True, False, "running")] * 2,
        ("pending", True, False, "running"),
        ("levitating", False, False, "running"),
        *[("completed", True, False, "completed")] * 4,
    ]


async def test_what_a_failed_job_says_is_the_runs_error(world: World) -> None:
    world.provider.script = ("error",)
    run = world.start()
    await world.passes(3, apart_s=15)
    found = world.runs.get(run.id)
    assert found.state is State.FAILED and found.error == "Scripted (fake): it did not converge"


async def test_canceling_reaches_the_job(world: World) -> None:
    world.provider.script = ("running",)
    run = world.start()
    await world.passes(3)
    world.training.cancel(run.id)
    await world.passes(1)
    assert world.state(run) == "canceled" and world.provider.calls.count("stop") == 1


async def test_canceling_before_anything_was_asked_for_makes_no_job(world: World) -> None:
    world.provider.refusals["upload"] = [DOWN]
    run = world.start()
    await world.passes(2)
    world.training.cancel(run.id)
    await world.passes(2)
    assert world.state(run) == "canceled" and world.provider.jobs() == []


async def test_canceling_reaches_a_job_whose_id_was_never_learned(world: World) -> None:
    world.provider.refusals |= {"create done": [LATE], "find": [DOWN]}
    run = world.start()
    await world.passes(2)
    world.training.cancel(run.id)
    await world.passes(1)
    assert world.state(run) == "running"  # it may be training and costing: this is not over
    later = world.again()
    await later.passes(1)
    assert later.state(run) == "canceled" and later.provider.calls.count("stop") == 1
    later.training.release()
    later.database.close()


async def test_a_cancel_that_cannot_be_said_is_said_later(world: World) -> None:
    world.provider.script, world.provider.refusals["stop"] = ("running",), [DOWN]
    run = world.start()
    await world.passes(2)
    world.training.cancel(run.id)
    await world.passes(2)
    assert world.state(run) == "running"
    await world.passes(12)
    assert world.state(run) == "canceled"


async def test_canceling_ends_an_upload_that_takes_long(world: World) -> None:
    class Slow(ScriptedProvider):
        async def upload(self, tag: str, file: TrainingFile) -> str:
            await asyncio.Event().wait()
            return "never"

    world = opened(world.home, Slow(world.provider.books), world.clock, Timing(patience_s=0.05))
    run = world.start()
    await world.passes(2)
    world.training.cancel(run.id)
    async with asyncio.timeout(60):
        while world.state(run) != "canceled":
            await world.passes(1)
            await asyncio.sleep(0)
    assert world.provider.jobs() == []
    world.training.release()
    world.database.close()


async def test_asking_only_reads(world: World) -> None:
    run = world.start()
    assert await world.executor.ask(run) is None
    await world.passes(2)
    run = world.runs.get(run.id)
    del world.provider.calls[:]
    before = world.provider.books.read_bytes()
    report = await world.executor.ask(replace(run, cancel_requested=True))
    assert report is not None and report.state is State.RUNNING
    assert world.provider.calls == ["look", "events"]
    assert b'"stop"' not in world.provider.books.read_bytes()[len(before) :]


async def test_an_older_report_does_not_undo_what_was_learned_since(world: World) -> None:
    world.provider.script = ("running",) * 9
    run = world.start()
    await world.passes(2, apart_s=15)
    await world.passes(1)
    asked = await world.executor.ask(world.runs.get(run.id))
    assert asked is not None and asked.progress.step > world.runs.get(run.id).progress.step
    now = world.runs.get(run.id)
    world.runs.save(replace(now, progress=asked.progress), was=now)
    await world.passes(3)
    assert world.runs.get(run.id).progress == asked.progress


async def test_of_two_servers_that_both_take_a_run_for_theirs_one_asks_for_the_job(world: World) -> None:
    run = world.start()
    other = world.again()
    kept = world.store.begin(run.id, world.provider.name, "Town", {})
    world.provider.at = lambda point: (
        None if point != "upload done" else world.store.save(kept, replace(kept.news, tried_at=world.clock()))  # type: ignore[func-returns-value]
    )
    await world.executor.submit(run)
    await world.executor.poll(replace(run, state=State.RUNNING))
    assert world.provider.calls.count("create") == 0  # the other has written down that it will
    other.training.release()
    other.database.close()


async def test_a_file_that_is_gone_fails_the_run_and_calls_nobody(world: World) -> None:
    run = world.start()
    (world.home.root / "data" / "train.jsonl").unlink()
    await world.passes(2)
    assert world.state(run) == "failed" and world.provider.calls == []


async def test_a_bug_of_a_provider_is_no_reason_to_ask_it_at_every_pass(world: World) -> None:
    def broken(point: str) -> None:
        raise TypeError("broken")

    world.provider.at = broken
    run = world.start()
    with structlog.testing.capture_logs() as told:
        await world.passes(8)
    assert [each["exc_info"] is not None for each in told] == [True]
    assert world.provider.calls == ["upload"] and world.state(run) == "running"
