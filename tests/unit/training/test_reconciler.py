"""One of several servers moves a run forward: its lease's holder, until it ends, lets go, hangs or dies."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.training.test_service import DONE, RECIPE, STEP, Bases, World, make_world
from tunesmith.settings import Settings
from tunesmith.training.executor import Report
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.run import Run, State
from tunesmith.training.service import TrainingService

LEASE_S = 30.0


class Clock:
    """Stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store._database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Counting(ScriptedExecutor):
    """Knows how often it was asked after a run."""

    polls = 0

    async def poll(self, run: Run) -> Report:
        self.polls += 1
        return await super().poll(run)


class Server:
    """One of several on the world's home and database, with an executor object of its own."""

    def __init__(self, world: World, clock: Clock, room: int = 1, script: tuple[Report, ...] = (STEP,)) -> None:
        self.executor = Counting(script=script)
        settings = Settings(home=world.home.root, concurrent_runs=room, lease_s=LEASE_S)
        self.service = TrainingService(
            world.store, {"local": self.executor}, Bases(), world.home, settings, clock=clock
        )

    async def passes(self, count: int = 1) -> int:
        """Reconcile so often; how often it asked after a run in that time."""
        before = self.executor.polls
        for _ in range(count):
            await self.service.reconcile()
        return self.executor.polls - before


async def test_a_run_is_followed_by_the_server_that_started_it_alone(world: World, clock: Clock) -> None:
    one, other = Server(world, clock), Server(world, clock)
    run = world.service.start(RECIPE)
    await one.passes()
    for _ in range(20):  # longer than a lease lasts: it is renewed
        assert await one.passes() == 1 and await other.passes() == 0
        clock.on(LEASE_S / 4)
    world.service.cancel(run.id)
    await other.passes()
    assert other.executor.canceled == [] and world.states() == ["running"]
    await one.passes()
    assert one.executor.canceled == [run.id] and world.states() == ["canceled"]


async def test_a_lease_is_renewed_long_before_it_is_over_and_not_at_every_pass(world: World, clock: Clock) -> None:
    one = Server(world, clock)
    world.service.start(RECIPE)
    await one.passes(2)
    ends = set()
    for _ in range(30):
        await one.passes()
        [(_, lease)] = world.store.leased()
        assert lease is not None and lease.until - clock() > timedelta(seconds=LEASE_S / 2)
        ends.add(lease.until)
        clock.on(1)
    assert len(ends) < 6


async def test_a_server_that_hangs_loses_its_runs_when_its_leases_are_over_and_what_it_says_then(
    world: World, clock: Clock
) -> None:
    hung, other = Server(world, clock, script=(STEP,)), Server(world, clock)
    run = world.service.start(RECIPE)
    await hung.passes(2)
    clock.on(LEASE_S - 1)
    assert await other.passes() == 0
    waking, asked = asyncio.Event(), asyncio.Event()

    async def hang(run: Run) -> Report:
        asked.set()
        await waking.wait()
        return Report(State.FAILED, error="it saw something long ago", error_zh="旧事")

    clock.on(-LEASE_S / 2)
    hung.executor.poll = hang  # type: ignore[method-assign]
    late = asyncio.create_task(hung.passes())
    await asyncio.wait_for(asked.wait(), 10)
    clock.on(2 * LEASE_S)
    assert await other.passes() == 1
    waking.set()
    await late
    assert world.states() == ["running"]  # what it says is not recorded: the run is another's
    other.executor.script = (DONE,)
    await other.passes()
    assert world.service.get(run.id).state is State.COMPLETED


async def test_who_ends_in_good_order_is_followed_at_once(world: World, clock: Clock) -> None:
    one, other = Server(world, clock), Server(world, clock)
    world.service.start(RECIPE)
    await one.passes(2)
    one.service.release()
    assert list((world.home.runs / "holders").iterdir()) == []
    assert await other.passes() == 1 and await one.passes() == 0
    other.service.release()
    assert await one.passes() == 1  # it may begin again
    one.service.release()


async def test_together_they_run_no_more_than_one_alone_may(world: World, clock: Clock) -> None:
    servers = [Server(world, clock, room=2, script=(STEP, STEP, DONE)) for _ in range(3)]
    ids = [world.service.start(RECIPE).id for _ in range(7)]
    while set(world.states()) != {"completed"}:
        await asyncio.gather(*(server.passes() for server in servers))
        assert world.states().count("running") <= 2
    assert sorted(id for server in servers for id in server.executor.submitted) == sorted(ids)


async def test_a_run_that_cannot_be_started_here_may_be_started_by_another(world: World, clock: Clock) -> None:
    from tunesmith.kernel.problems import Unavailable

    one, other = Server(world, clock), Server(world, clock)
    one.executor.refusal = Unavailable("忙", "busy")
    world.service.start(RECIPE)
    await one.passes()
    await other.passes()
    assert other.executor.submitted and world.states() == ["running"]


_HOLDS = """
import asyncio, sys
from pathlib import Path
from tests.unit.training.test_reconciler import Clock, Server, make_world
world = make_world(Path(sys.argv[1]))
asyncio.run(Server(world, Clock()).passes(2))
print("holds", flush=True)
sys.stdin.readline()
"""


def test_a_server_that_is_killed_is_followed_at_once_and_one_that_only_stands_still_is_not(
    world: World, clock: Clock, tmp_path: Path
) -> None:
    world.service.start(RECIPE)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _HOLDS, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "holds\n"
        other = Server(world, clock)
        assert asyncio.run(other.passes(3)) == 0  # it lives, though it does nothing
        first.kill()
        first.wait()
        assert asyncio.run(other.passes()) == 1  # no time has passed
    assert len(list((world.home.runs / "holders").iterdir())) == 1  # nothing is left of the dead


async def test_the_holder_is_named_with_its_host_and_process(world: World, clock: Clock) -> None:
    import os
    import socket

    world.service.start(RECIPE)
    await Server(world, clock).passes()
    [(_, lease)] = world.store.leased()
    assert lease is not None and lease.holder.startswith(f"{socket.gethostname()}/{os.getpid()}/")
