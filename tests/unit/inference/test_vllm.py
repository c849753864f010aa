"""vLLM as the engine, started and joined. No vLLM is here, but a stand-in of its wire that says words without a model."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.tiny_model import CONTEXT, make_tiny_adapter, make_tiny_base
from tests.upstreams.running import Upstream, vllm, vllm_command
from tunesmith.datasets.example import Message
from tunesmith.inference import vllm as under_test
from tunesmith.inference.collect import Answer, collect
from tunesmith.inference.engine import Request, Sampling
from tunesmith.inference.engines.vllm import VllmEngine
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.models.model import Model
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings, VllmSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")
BASE, ONE, WIDE, BROKEN = (Model("tiny", name) for name in (None, "adapters/one", "adapters/wide", "adapters/broken"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    base = make_tiny_base(root / "models" / "tiny")
    one = make_tiny_adapter(base, root / "adapters" / "one", seed=1)
    config = json.loads((one / "adapter_config.json").read_text())
    for name, changes in (("wide", {"r": 32}), ("broken", {"bias": "all"})):
        folder = shutil.copytree(one, one.parent / name)
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    shutil.copytree(base, base.parent / "other")
    return Home(root)


@asynccontextmanager
async def engines(home: Home, **how: object) -> AsyncIterator[Supervisor]:
    settings = Settings(home.root, engine_start_s=60, engine="vllm", vllm=VllmSettings(**how))  # type: ignore[arg-type]
    supervisor = Supervisor(Registry(home), home, settings)
    try:
        yield supervisor
    finally:
        await supervisor.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started(home: Home, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Supervisor]:
    command = vllm_command(tmp_path_factory.mktemp("bin"))
    async with engines(home, command=(str(command),), arguments=("--max-lora-rank", "16", "--words")) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def somebodys(home: Home) -> Iterator[Upstream]:
    """A vLLM that somebody else started."""
    with vllm(home.root / "models" / "tiny", "tiny", "--words") as upstream:
        yield upstream


def ask(model: Model = BASE, tokens: int = 12, text: str = "hello") -> Request:
    return Request((Message("user", text),), model, Sampling(tokens, 0.0, 1.0, 0, 1.0))


async def say(supervisor: Supervisor, *requests: Request) -> list[Answer]:
    return await collect(supervisor.generate(requests), rows=len(requests))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def names_of(upstream: Upstream) -> list[str]:
    """What it answers for."""
    client = VllmEngine.joined(upstream.url, None, "tiny", ())
    try:
        return [each.name for each in await client.served(within_s=30)]
    finally:
        await client.close()


def group_of(pid: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(each.pid) == pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
    return found


async def test_base_and_adapter_answer_side_by_side_and_an_answer_ends_with_the_context(started: Supervisor) -> None:
    plain, tuned, long = await say(started, ask(), ask(ONE), ask(tokens=10 * CONTEXT))
    assert plain.text and tuned.text and plain.text != tuned.text
    assert long.text.startswith(plain.text.rstrip("\ufffd"))
    assert long.done.finish == "length"
    assert long.done.prompt_tokens + long.done.completion_tokens == CONTEXT
    (status,) = started.status()
    assert (status.state, status.rows, status.adapters) == ("ready", 0, ("adapters/one",))
    assert status.rss > 1 << 20


async def test_raw_text_that_leaves_no_room_is_refused_with_the_context(started: Supervisor) -> None:
    with pytest.raises(Invalid) as refused:
        await say(started, ask(), replace(ask(), prompt="word " * 2 * CONTEXT))
    assert refused.value.details["context_length"] == CONTEXT


async def test_what_vllm_says_of_an_adapter_is_said_of_its_name(started: Supervisor) -> None:
    with pytest.raises(Unsupported) as wide:
        await say(started, ask(WIDE))
    assert "--max-lora-rank 32" in wide.value.en and "--max-lora-rank 32" in wide.value.zh
    with pytest.raises(Invalid) as broken:
        await say(started, ask(BROKEN))
    assert "adapters/broken" in broken.value.en and "bias" in broken.value.en
    assert "#" not in broken.value.en


async def test_its_metrics_are_passed_on_and_its_processes_are_not(started: Supervisor) -> None:
    await started.ensure("tiny")
    (page,) = await started.pages(within_s=10)
    assert page.text is not None and b"vllm:num_requests_running" in page.text
    assert page.rss > 1 << 20


async def test_it_is_started_quietly_and_learns_no_keys(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    told = tmp_path / "told.json"
    command = tmp_path / "vllm"
    command.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(told)!r}, 'w'))\n"
        "sys.exit('ValueError: no such device')\n"
    )
    command.chmod(0o755)
    async with engines(home, command=(str(command),), arguments=("--gpu-memory-utilization", "0.4")) as supervisor:
        with pytest.raises(Unavailable) as refused:
            await supervisor.ensure("other")
    assert "ValueError: no such device" in refused.value.en and "engines/other.log" in refused.value.zh
    arguments, environ = json.loads(told.read_text())
    assert arguments[:3] == ["serve", str(home.root / "models" / "other"), "--served-model-name=other"]
    assert arguments[-2:] == ["--gpu-memory-utilization", "0.4"]
    assert environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True" and environ["VLLM_NO_USAGE_STATS"] == "1"
    assert not [name for name in environ if name.startswith(("OPENROUTER", "TUNESMITH"))]


async def test_a_machine_without_vllm_is_told_what_is_missing(home: Home) -> None:
    async with engines(home, command=("no-such-vllm",)) as supervisor:
        with pytest.raises(Unavailable, match="TUNESMITH_VLLM_COMMAND"):
            await supervisor.ensure("tiny")


async def test_one_that_is_killed_is_started_again_and_nothing_of_it_is_left(started: Supervisor) -> None:
    (before,) = await say(started, ask(ONE))
    pid = started.status()[0].pid
    assert pid is not None
    server = next(each for each in psutil.Process(pid).children() if "vllm_skin" in " ".join(each.cmdline()))
    server.kill()
    await until(lambda: started.status()[0].state == "crashed")
    assert group_of(pid) == []
    assert (await say(started, ask(ONE)))[0].text == before.text


async def test_a_guarded_command_does_not_outlive_who_asked_for_it(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'tunesmith.inference.guard', str(os.getpid()), "
        "'sh', '-c', 'sleep 600 & echo ready; sleep 600'], start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nsys.stdin.read()\n"
    )
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=pipe, stdout=pipe)
    assert parent.stdout is not None
    group = int(await parent.stdout.readline())
    assert len(group_of(group)) >= 3
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await until(lambda: group_of(group) == [])


@pytest.mark.parametrize(("command", "code"), [("sleep 600 & exit 3", 3), ("sleep 600 & kill -9 $$", -signal.SIGKILL)])
async def test_a_guard_ends_as_its_command_does_and_leaves_nothing_of_it(command: str, code: int) -> None:
    guard = [sys.executable, "-P", "-m", "tunesmith.inference.guard", str(os.getpid()), "sh", "-c", command]
    process = await asyncio.create_subprocess_exec(*guard, start_new_session=True)
    assert await process.wait() == code
    await until(lambda: group_of(process.pid) == [])


async def test_one_that_runs_already_is_joined_and_left_as_it_was(home: Home, somebodys: Upstream) -> None:
    async with engines(home, url=somebodys.url + "/v1") as supervisor:
        plain, tuned = await say(supervisor, ask(), ask(ONE))
        assert plain.text != tuned.text
        assert len(await names_of(somebodys)) == 2
        (status,) = supervisor.status()
        assert (status.state, status.pid, status.rss) == ("ready", None, 0)
        await say(supervisor, replace(ask(), owner="amy"))
        told = [(body["model"].partition("@")[0], body.get("cache_salt")) for body in somebodys.report()["asked"]]
        assert told == [("tiny", None), ("adapters/one", None), ("tiny", "amy")]
        with pytest.raises(NotFound, match="does not serve other but tiny"):
            await supervisor.ensure("other")
    assert await names_of(somebodys) == ["tiny"]


async def test_one_that_forgets_our_adapters_is_joined_again(
    home: Home, somebodys: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_WATCH_EVERY_S", 0.05)
    async with engines(home, url=somebodys.url) as supervisor:
        (before,) = await say(supervisor, ask(ONE))
        other = VllmEngine.joined(somebodys.url, None, "tiny", ())
        for name in (await names_of(somebodys))[1:]:
            await other.unload_adapter(name)
        await other.close()
        await until(lambda: supervisor.status()[0].state == "crashed")
        assert (await say(supervisor, ask(ONE)))[0].text == before.text


async def test_a_joined_one_that_cannot_take_adapters_says_what_to_change(home: Home, somebodys: Upstream) -> None:
    hidden = replace(Registry(home).adapter("adapters/one"), path=Path("/on/another/machine"))
    client = VllmEngine.joined(somebodys.url, None, "tiny", ())
    with pytest.raises(Unsupported, match="same path"):
        await client.load_adapter("wire", hidden)
    with pytest.raises(Problem):
        await client.unload_adapter("wire")
    await client.close()
    fixed = {"upstream_status": 404}
    said = NotFound("vLLM 请求失败: 404 Not Found", "vLLM refused the request: 404 Not Found", **fixed)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in client._why_not_loaded(said, hidden).zh


async def test_one_that_does_not_run_is_said_not_to(home: Home) -> None:
    async with engines(home, url="http://127.0.0.1:9") as supervisor:
        with pytest.raises(Unavailable, match="TUNESMITH_VLLM_URL"):
            await supervisor.ensure("tiny")
