"""A thousand streams at once through one server, clients that leave in every phase, readers that are slow.

Every upstream is a process of its own on real sockets, and says itself when its callers hang up.
"""

import asyncio
import random
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import uvicorn

from tests.e2e.talking import Talk
from tests.server import Server, serving, wait_until
from tests.upstreams.lifetime import allow_many_connections
from tests.upstreams.modes import spoken
from tests.upstreams.running import Upstream, misbehaving
from tunesmith.app import compose
from tunesmith.asgi import create_app
from tunesmith.cli.serve import listening
from tunesmith.http import sse
from tunesmith.settings import Settings

GONE_S = 10.0  # measured are milliseconds; before a comment could show the server that nobody is there
PATIENCE_S = 30.0
MODELS = {"before headers": "x/hang", "before first token": "x/hangfirst", "mid-stream": "x/slow-1000-50"}


def environ(upstream_url: str, **more: str) -> dict[str, str]:
    return {"OPENROUTER_API_KEY": "sk-or-v1-" + "e" * 32, "OPENROUTER_BASE_URL": f"{upstream_url}/api/v1", **more}


async def heard(upstream: Upstream, true: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_S) -> float:
    """Seconds until the upstream's report is as wanted."""
    began = time.monotonic()
    await asyncio.to_thread(upstream.until, true, seconds)
    return time.monotonic() - began


def sockets(server: Server) -> Counter[tuple[str, str]]:
    """The server's connections: with clients or upstreams, and their state."""
    port = urlsplit(server.url).port
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return Counter(
        ("client" if each.laddr.port == port else "upstream", each.status)
        for each in connections
        if each.status != psutil.CONN_LISTEN
    )


def clients(server: Server) -> int:
    return sum(count for (side, _), count in sockets(server).items() if side == "client")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with misbehaving() as running:
        yield running


@pytest.fixture
def fresh(upstream: Upstream) -> Upstream:
    """The upstream, with nothing seen and nobody there."""
    upstream.until(lambda report: report["open"] == 0)
    upstream.reset()
    return upstream


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), environ(upstream.url)) as running:
        yield running


@contextmanager
def many_files() -> Iterator[None]:
    """Descriptors for a thousand connections, and no lasting change."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_many_connections()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one of the thousand does: reads to the end, or leaves in a phase, after so many seconds or frames."""

    model: str
    phase: str | None = None
    after: float = 0.0
    rudely: bool = True


def plans(dice: random.Random) -> tuple[list[Plan], list[Plan]]:
    """300 that leave, 700 that read to the end."""
    leaving = []
    for _ in range(300):
        phase = dice.choice(list(MODELS))
        after = dice.randint(1, 20) if phase == "mid-stream" else dice.random()
        leaving.append(Plan(MODELS[phase], phase, after, dice.random() < 0.5))
    return leaving, [Plan(f"x/slow-{dice.randint(12, 16)}-700") for _ in range(700)]


async def play(url: str, plan: Plan, turns: asyncio.Semaphore, all_there: asyncio.Event) -> bool:
    """Whether the text was the upstream's, byte for byte; of one that leaves, as far as it came."""
    async with turns:
        talk = await Talk.begin(url, plan.model)
    try:
        assert " 200 " in await talk.head()
        if plan.phase is None:
            end = await talk.rest()
            return end.get("fullResponse") == "".join(talk.texts) == "".join(spoken(plan.model))
        if plan.phase != "mid-stream":
            await all_there.wait()
            await asyncio.sleep(plan.after)
            return True
        frames = talk.frames()
        await anext(frames)
        await all_there.wait()
        for _ in range(int(plan.after)):
            assert not (await anext(frames)).get("error")
        return "".join(spoken(plan.model)).startswith("".join(talk.texts))
    finally:
        await talk.leave(rudely=plan.rudely)


async def test_a_thousand_streams_at_once_of_which_three_hundred_are_cut(tmp_path: Path) -> None:
    """Nothing hangs, nothing is left over, and the other seven hundred are whole."""
    limits = {"TUNESMITH_UPSTREAM_IN_FLIGHT": "1000"}
    with many_files(), misbehaving() as upstream, serving(tmp_path, environ(upstream.url, **limits)) as server:
        await answered(server.url)
        process = psutil.Process(server.process.pid)
        files, memory = process.num_fds() - sum(sockets(server).values()), process.memory_info().rss
        leaving, staying = plans(random.Random(4))
        turns, all_there = asyncio.Semaphore(200), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            cutting, reading = (
                [group.create_task(play(server.url, each, turns, all_there)) for each in some]
                for some in (leaving, staying)
            )
            together = await heard(upstream, lambda report: report["open"] == 1000)
            all_there.set()
            assert all([await each for each in cutting])
            cut = await heard(upstream, lambda report: report["open"] <= 700, GONE_S)
            assert all([await each for each in reading])
            rest = await heard(upstream, lambda report: report["open"] == 0, GONE_S)
        report = upstream.report()
        assert report["gone_count"] == {"all": 300, **Counter(each.phase for each in leaving)}
        assert report["done"] == 701
        wait_until(lambda: not clients(server), f"{sockets(server)}", GONE_S)
        # what is kept towards the upstream is idle, for the next who asks
        assert set(sockets(server)) <= {("upstream", psutil.CONN_ESTABLISHED)}
        assert sum(sockets(server).values()) <= 701
        assert process.num_fds() - sum(sockets(server).values()) <= files + 8
        grown = process.memory_info().rss - memory
        print(
            f"together in {together:.1f} s; cut ones gone {cut:.3f} s, others {rest:.3f} s later; {grown >> 20} MiB more"
        )
        assert grown < 300 << 20

        # The limit is a thousand: had one of them left a mark in its counter, one of these would be refused.
        upstream.reset()
        again = await asyncio.gather(*(Talk.begin(server.url, "x/hangfirst") for _ in range(1000)))
        await heard(upstream, lambda report: report["open"] == 1000)
        for talk in again:
            await talk.leave()
        storm = await heard(upstream, lambda report: report["open"] == 0, GONE_S)
        print(f"a thousand that leave at once are gone {storm:.3f} s later")
        await answered(server.url)
        assert "Traceback" not in server.log()


async def answered(url: str) -> None:
    """One more is answered, wholly."""
    talk = await Talk.begin(url, "x/text")
    assert (await talk.whole())["fullResponse"] == "".join(spoken("x/text"))
    await talk.leave()


async def test_hundreds_of_answers_at_once_are_not_mixed_up(server: Server, fresh: Upstream) -> None:
    models = [f"x/text-{seed}-{40 + seed % 20}" for seed in range(300)]
    with many_files():
        talks = await asyncio.gather(*(Talk.begin(server.url, model) for model in models))
        ends = await asyncio.gather(*(talk.whole() for talk in talks))
        for talk in talks:
            await talk.leave()
    for model, talk, end in zip(models, talks, ends, strict=True):
        assert end["fullResponse"] == "".join(talk.texts) == "".join(spoken(model))
        assert (end["model"], end["done"]) == (model, True)


@pytest.mark.parametrize("rudely", [True, False])
@pytest.mark.parametrize("phase", MODELS)
async def test_a_client_that_leaves_is_heard_of_upstream(
    server: Server, fresh: Upstream, phase: str, rudely: bool
) -> None:
    talk = await Talk.begin(server.url, MODELS[phase])
    await talk.head()
    if phase == "mid-stream":
        await anext(talk.frames())
    await heard(fresh, lambda report: report["open"] == 1)
    await talk.leave(rudely=rudely)
    gone = await heard(fresh, lambda report: report["open"] == 0, GONE_S)
    print(f"{phase}: gone after {gone * 1000:.0f} ms")
    assert fresh.report()["gone_count"][phase] == 1


async def test_a_client_that_leaves_at_once_leaves_nothing_behind(server: Server, fresh: Upstream) -> None:
    """Cut within milliseconds of asking: before, while or after the upstream is asked."""
    dice = random.Random(5)
    talks = [await Talk.begin(server.url, "x/hang") for _ in range(60)]

    async def leave(talk: Talk) -> None:
        await asyncio.sleep(dice.random() / 20)
        await talk.leave()

    await asyncio.gather(*(leave(talk) for talk in talks))
    wait_until(lambda: not clients(server), "connections of clients are left", PATIENCE_S)
    await heard(fresh, lambda report: report["open"] == 0, GONE_S)


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that never lets anybody connect: a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def connecting(server: Server) -> int:
    return sockets(server)["upstream", psutil.CONN_SYN_SENT]


async def test_a_client_that_leaves_while_the_upstream_is_being_connected_to_stops_that(tmp_path: Path) -> None:
    with black_hole() as url, serving(tmp_path, environ(url, TUNESMITH_UPSTREAM_CONNECT_SECONDS="600")) as server:
        talks = [await Talk.begin(server.url, "x/text") for _ in range(20)]
        for talk in talks:
            await talk.head()
        wait_until(lambda: connecting(server) >= 20, f"{sockets(server)}", PATIENCE_S)
        left = time.monotonic()
        for talk in talks:
            await talk.leave()
        # one may be left: the server asks for the list of models for itself
        wait_until(lambda: connecting(server) <= 1, f"{sockets(server)}", PATIENCE_S)
        print(f"connecting: gone after {(time.monotonic() - left) * 1000:.0f} ms")
    with black_hole() as url, serving(tmp_path, environ(url, TUNESMITH_UPSTREAM_CONNECT_SECONDS="0.3")) as server:
        talk = await Talk.begin(server.url, "x/text")
        last = await asyncio.wait_for(talk.whole(), PATIENCE_S)
        await talk.leave()
        assert (last["error"], last["code"], last["message"]) == (True, 504, "AI服务连接超时，请稍后重试")


async def test_a_reader_that_stops_holds_the_upstream_back(server: Server, fresh: Upstream) -> None:
    """160 MB are on offer; what is written is what the buffers on the way hold."""
    process, source = psutil.Process(server.process.pid), psutil.Process(fresh.process.pid)
    memory = process.memory_info().rss
    talk = await Talk.begin(server.url, "x/big-20000", receive_buffer=1 << 14)
    await talk.head()

    def idle() -> bool:
        before = sum(source.cpu_times()[:2])
        time.sleep(0.5)
        return sum(source.cpu_times()[:2]) == before

    await heard(fresh, lambda report: report["open"] == 1)
    await asyncio.to_thread(wait_until, idle, "the upstream goes on writing", PATIENCE_S)
    grown = process.memory_info().rss - memory
    assert fresh.report()["open"] == 1
    await talk.leave()
    gone = await heard(fresh, lambda report: report["open"] == 0, GONE_S)
    [left] = fresh.report()["gone"]
    print(f"held back after {left['written'] >> 20} MiB, {grown >> 10} KiB more here, gone after {gone * 1000:.0f} ms")
    assert left["written"] < 40 << 20 and grown < 16 << 20


@dataclass(frozen=True, slots=True)
class Within:
    """A server in this process."""

    url: str
    server: uvicorn.Server


@asynccontextmanager
async def within(home: Path, variables: dict[str, str]) -> AsyncIterator[Within]:
    """The server in this process and on this loop, where its tasks can be seen; it stops within a second."""
    app = create_app(compose(Settings.read(variables, home=home)), wants_token=False)
    config = uvicorn.Config(app, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    with listening("127.0.0.1", 0) as listener:
        serve = asyncio.create_task(running.serve([listener]))
        await asyncio.to_thread(wait_until, lambda: running.started, "the server did not start", PATIENCE_S)
        try:
            yield Within(f"http://127.0.0.1:{listener.getsockname()[1]}", running)
        finally:
            running.should_exit = True
            await serve


async def test_a_server_that_stops_ends_short_answers_whole_and_cuts_long_ones(fresh: Upstream, tmp_path: Path) -> None:
    async with within(tmp_path, environ(fresh.url)) as running:
        short, long, silent = [
            await Talk.begin(running.url, model) for model in ("x/slow-10-50", "x/slow-1000-50", "x/hang")
        ]
        await heard(fresh, lambda report: report["open"] == 3)
        running.server.should_exit = True
        assert (await short.whole())["fullResponse"] == "".join(spoken("x/slow-10-50"))
        for talk in (long, silent):
            end = await asyncio.wait_for(talk.whole(), PATIENCE_S)
            assert (end["error"], end["code"]) == (True, 503)
            assert await talk.reader.read() == b""
        assert "".join(spoken("x/slow-1000-50")).startswith("".join(long.texts)) and long.texts
        gone = await heard(fresh, lambda report: report["open"] == 0)
        print(f"gone {gone * 1000:.0f} ms later")
        for talk in (short, long, silent):
            await talk.leave()


async def test_no_task_outlives_its_stream(fresh: Upstream, tmp_path: Path) -> None:
    async with within(tmp_path, environ(fresh.url)) as running:
        warm = await Talk.begin(running.url, "x/text")
        assert (await warm.whole())["done"]
        await warm.leave()
        await heard(fresh, lambda report: report["open"] == 0)
        await asyncio.sleep(0)
        before = asyncio.all_tasks()
        talks = [await Talk.begin(running.url, model) for model in MODELS.values() for _ in range(40)]
        for talk in talks:
            await talk.head()
        whole = [await Talk.begin(running.url, f"x/text-{seed}-20") for seed in range(40)]
        bad = [
            await Talk.begin(running.url, model)
            for model in ("x/mid", "x/trunc", "x/drop", "x/err-500")
            for _ in range(10)
        ]
        await heard(fresh, lambda report: report["open"] == 120)
        assert len(asyncio.all_tasks() - before) >= 2 * 120  # they can be seen
        ends = await asyncio.gather(*(talk.whole() for talk in [*whole, *bad]))
        assert [bool(end.get("error")) for end in ends] == [False] * 40 + [True] * 40
        for talk in [*talks, *whole, *bad]:
            await talk.leave()
        gone = await heard(fresh, lambda report: report["open"] == 0)
        end = time.monotonic() + PATIENCE_S
        while left := asyncio.all_tasks() - before:
            assert time.monotonic() < end, left
            await asyncio.sleep(0.01)
        print(f"no task left after {gone:.3f} s")


async def test_comments_show_that_the_server_lives_while_the_upstream_is_silent(
    fresh: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.2)
    async with within(tmp_path, environ(fresh.url, TUNESMITH_UPSTREAM_IDLE_SECONDS="1")) as running:
        hanging, stalled = await Talk.begin(running.url, "x/hang"), await Talk.begin(running.url, "x/stall-2")
        end = await asyncio.wait_for(stalled.whole(), PATIENCE_S)
        assert (end["code"], "".join(stalled.texts)) == (504, "".join(spoken("x/stall-2")))
        assert 2 <= stalled.comments <= 5
        await hanging.head()
        while hanging.comments < 3:
            line = await asyncio.wait_for(hanging.reader.readline(), PATIENCE_S)
            hanging.comments += line == b": keep-alive\n"
        for talk in (hanging, stalled):
            await talk.leave()
        await heard(fresh, lambda report: report["open"] == 0)


async def test_a_client_that_takes_nothing_is_given_up(
    fresh: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.1)
    monkeypatch.setattr(sse, "_STUCK_S", 0.5)
    async with within(tmp_path, environ(fresh.url)) as running:
        talk = await Talk.begin(running.url, "x/big-20000", receive_buffer=1 << 14)
        await heard(fresh, lambda report: report["gone_count"]["all"] == 1)
        assert fresh.report()["gone"][0]["written"] < 40 << 20
        await talk.leave()
