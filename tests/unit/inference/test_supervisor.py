"""The supervisor over real engine processes: crashes, adapters that come and go, unloading, and leaving clients."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.tiny_model import make_tiny_adapter, make_tiny_base
from tunesmith.datasets.example import Message
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Delta, Request, Sampling
from tunesmith.inference.sockets import remove_dead_sockets, socket_folder
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.models.model import Model
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE, ONE, TWO, THREE = (Model("tiny", adapter) for adapter in (None, "adapters/one", "adapters/two", "adapters/three"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    base = make_tiny_base(root / "models" / "tiny", endless=True, context=8192)
    for seed, name in enumerate(("one", "two", "three"), start=1):
        make_tiny_adapter(base, root / "adapters" / name, seed=seed)
    return Home(root)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def supervisor(home: Home) -> AsyncIterator[Supervisor]:
    engines = supervise(home)
    yield engines
    await engines.close()


def supervise(home: Home, **changes: float) -> Supervisor:
    settings = Settings(home.root, threads=1, engine_start_s=60, **changes)  # type: ignore[arg-type]
    return Supervisor(Registry(home), home, settings)


def ask(text: str, model: Model = BASE, tokens: int = 24) -> Request:
    return Request((Message("user", text),), model, Sampling(tokens, 0.0, 1.0, 0, 1.0))


def endless(text: str = "hello", model: Model = BASE) -> Request:
    """A row that takes a second and more: as long as the context lasts."""
    return ask(text, model, 8000)


async def say(engines: Supervisor, *requests: Request) -> list[str]:
    return [answer.text for answer in await collect(engines.generate(requests), rows=len(requests))]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.01)


def process_of(engines: Supervisor, base: str = "tiny") -> int:
    (pid,) = [status.pid for status in engines.status() if status.base == base]
    assert pid is not None
    return pid


async def until_healthy(engines: Supervisor, true: Callable[[Any], bool]) -> None:
    """Wait until what the worker's own ``/health`` says is ``true``."""
    process = engines._seats["tiny"].process
    assert process is not None
    async with asyncio.timeout(20):
        while not true(await process.client.ask("GET", "/health", None, dict)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_callers_that_come_together_start_one_engine(supervisor: Supervisor) -> None:
    await asyncio.gather(*(supervisor.ensure("tiny") for _ in range(5)))
    first = process_of(supervisor)
    await asyncio.gather(say(supervisor, ask("hello")), supervisor.ensure("models/tiny"))
    assert process_of(supervisor) == first
    (status,) = supervisor.status()
    assert (status.state, status.device, status.rows) == ("ready", "cpu", 0)
    assert status.rss > 1 << 20


async def test_the_socket_and_its_log_are_the_owners_alone(supervisor: Supervisor, home: Home) -> None:
    await supervisor.ensure("tiny")
    (address,) = socket_folder(home.engines).glob("*.sock")
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.engines.stat().st_mode) == 0o700
    assert (home.engines / "tiny.log").is_file()


async def test_a_killed_engine_tells_its_callers_and_serves_the_next_one(supervisor: Supervisor) -> None:
    before = (await say(supervisor, ask("hello")))[0]
    heard: list[str] = []
    with pytest.raises(Unavailable) as cut:
        async with aclosing(supervisor.generate([endless()])) as events:
            async for event in events:
                assert isinstance(event, Delta)
                heard.append(event.text)
                if len(heard) == 3:
                    os.kill(process_of(supervisor), signal.SIGKILL)
    assert "-9" in cut.value.en
    assert "重试" in cut.value.zh
    assert await say(supervisor, ask("hello")) == [before]
    assert supervisor.status()[0].rows == 0


async def test_an_engine_that_keeps_crashing_is_given_time(home: Home) -> None:
    engines = supervise(home)
    try:
        for _ in range(2):
            await engines.ensure("tiny")
            pid = process_of(engines)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: engines.status()[0].state == "crashed")
        with pytest.raises(Unavailable) as refused:
            await engines.ensure("tiny")
        assert refused.value.details["retry_after_s"] > 0
    finally:
        await engines.close()


async def test_thirty_two_streams_keep_apart_while_a_third_adapter_comes_and_goes(supervisor: Supervisor) -> None:
    requests = [ask("Ada river " * (n % 7) + f"number {n}", (BASE, ONE, TWO)[n % 3], 60) for n in range(32)]
    alone = [(await say(supervisor, request))[0] for request in requests]
    assert len(set(alone)) > 16

    async def come_and_go() -> None:
        for _ in range(4):
            await say(supervisor, ask("hello", THREE, 4))
            await supervisor.unload_adapter(THREE)

    *together, _ = await asyncio.gather(*(say(supervisor, request) for request in requests), come_and_go())
    assert [text for (text,) in together] == alone
    await until_healthy(supervisor, lambda health: health["rows"] == {"running": 0, "waiting": 0})
    await until_healthy(supervisor, lambda health: health["memory"]["cache"] == 0)
    await until_healthy(supervisor, lambda health: not any("three" in name for name in health["adapters"]))


async def test_a_client_that_leaves_frees_its_rows_in_the_worker(supervisor: Supervisor) -> None:
    events = supervisor.generate([endless(f"hello {n}") for n in range(4)])
    await anext(events)
    await until_healthy(supervisor, lambda health: health["rows"] == {"running": 4, "waiting": 0})
    await events.aclose()
    await until_healthy(supervisor, lambda health: health["rows"] == {"running": 0, "waiting": 0})
    assert supervisor.status()[0].rows == 0


async def test_a_new_version_of_an_adapter_is_used_at_once_and_running_rows_keep_the_old(
    supervisor: Supervisor, home: Home
) -> None:
    changing = Model("tiny", "adapters/changing")
    folder = make_tiny_adapter(home.root / "models" / "tiny", home.root / "adapters" / "changing", seed=11)
    old = await say(supervisor, ask("hello", changing, 200))
    running = supervisor.generate([ask("hello", changing, 200)])
    first = await anext(running)
    make_tiny_adapter(home.root / "models" / "tiny", folder, seed=12)
    new = await say(supervisor, ask("hello", changing, 200))
    rest = [event async for event in running]
    assert new != old
    assert "".join(event.text for event in [first, *rest] if isinstance(event, Delta)) == old[0]
    await until(lambda: supervisor.status()[0].rows == 0)
    await until_healthy(supervisor, lambda health: sum("changing" in name for name in health["adapters"]) == 1)


async def test_unloading_waits_for_running_rows_and_gives_up_with_conflict(supervisor: Supervisor) -> None:
    async with aclosing(supervisor.generate([endless()])) as events:
        await anext(events)
        with pytest.raises(Conflict):
            await supervisor.stop("tiny", wait_s=0.05)
        assert supervisor.status()[0].state == "ready"
        waiting = asyncio.create_task(supervisor.stop("tiny", wait_s=20))
        await until(lambda: supervisor.status()[0].state == "stopping")
        with pytest.raises(Conflict):
            await say(supervisor, ask("hello"))
        pid = process_of(supervisor)
    await waiting
    assert supervisor.status() == []
    assert not psutil.pid_exists(pid)
    assert await say(supervisor, ask("hello"))  # asking again starts it again
    await supervisor.stop("tiny", wait_s=5)
    await supervisor.stop("tiny", wait_s=5)  # twice is fine


async def test_unloading_while_an_engine_starts_ends_it_and_says_so(supervisor: Supervisor) -> None:
    await supervisor.stop("tiny", wait_s=20)
    asking = asyncio.create_task(say(supervisor, ask("hello")))
    await until(lambda: bool(supervisor.status()))
    await supervisor.stop("tiny", wait_s=20)
    with contextlib.suppress(Unavailable):  # or it was quick enough to be answered
        assert await asking
    assert supervisor.status() == []


async def test_an_adapter_that_cannot_be_worn_is_refused_by_its_name(supervisor: Supervisor, home: Home) -> None:
    folder = make_tiny_adapter(home.root / "models" / "tiny", home.root / "adapters" / "odd", seed=5)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"bias": "all"}))
    with pytest.raises(Unsupported) as refused:
        await say(supervisor, ask("hello", Model("tiny", "adapters/odd")))
    assert "adapter adapters/odd uses" in refused.value.en
    assert "bias" in refused.value.zh


async def test_a_model_that_cannot_be_loaded_says_why(home: Home) -> None:
    broken = home.root / "models" / "broken"
    make_tiny_base(broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    engines = supervise(home)
    try:
        with pytest.raises(Invalid) as refused:
            await engines.ensure("broken")
        assert "safetensors" in refused.value.en.lower() or "header" in refused.value.en.lower()
        with pytest.raises(NotFound):
            await engines.ensure("nowhere")
    finally:
        await engines.close()


async def test_two_base_models_answer_one_call(supervisor: Supervisor, home: Home) -> None:
    make_tiny_base(home.root / "models" / "other", seed=9)
    both = await say(supervisor, ask("hello"), ask("hello", Model("other")), ask("hello", ONE))
    assert both == [
        (await say(supervisor, request))[0]
        for request in (ask("hello"), ask("hello", Model("other")), ask("hello", ONE))
    ]
    assert len(set(both)) == 3
    with pytest.raises(Problem):
        await say(supervisor, ask("hello"), ask("word " * 2000, Model("other")))
    await supervisor.stop("other", wait_s=5)


async def test_an_engine_nobody_asks_is_ended(home: Home) -> None:
    engines = supervise(home, engine_idle_s=0.2, eager=True)
    try:
        await say(engines, ask("hello"))
        pid = process_of(engines)
        await until(lambda: not psutil.pid_exists(pid))
        await until(lambda: engines.status() == [])
        assert await say(engines, ask("hello"))
    finally:
        await engines.close()


async def test_closing_ends_every_process_and_refuses_what_comes_after(home: Home) -> None:
    before = time.time()
    engines = supervise(home)
    starting = asyncio.create_task(engines.ensure("tiny"))
    await until(lambda: bool(engines.status()))
    await engines.close()
    with pytest.raises((Unavailable, asyncio.CancelledError)):
        await starting
    with pytest.raises(Unavailable):
        await engines.ensure("tiny")
    assert not [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and before < child.create_time()
    ]


async def test_an_engine_ends_when_its_server_is_killed(home: Home, tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from typing import Any
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.home import Home
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings
async def main():
    home = Home(Path({str(home.root)!r}))
    engines = Supervisor(Registry(home), home, Settings(home.root, threads=1))
    await engines.ensure("tiny")
    print("pid", engines.status()[0].pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        while not (line := await server.stdout.readline()).startswith(b"pid "):  # log lines
            assert line
        pid = int(line.split()[1])
        assert psutil.pid_exists(pid)
    finally:
        server.kill()
        await server.communicate()
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_sockets_nobody_listens_on_are_removed_and_others_are_not(tmp_path: Path) -> None:
    dead, alive = tmp_path / "dead.sock", tmp_path / "alive.sock"
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as here:
        gone.bind(str(dead))
        here.bind(str(alive))
        here.listen(1)
        gone.close()
        remove_dead_sockets(tmp_path)
        assert not dead.exists()
        assert alive.exists()


async def test_a_long_home_gets_a_short_private_folder_for_its_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 20) / ("longer" * 20)
    short = socket_folder(deep)
    assert len(str(short)) < 80
    assert stat.S_IMODE(short.stat().st_mode) == 0o700
    assert socket_folder(deep) == short
    short.chmod(0o755)
    other = socket_folder(deep)
    assert other != short
    other.rmdir()
    short.rmdir()
