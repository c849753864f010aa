"""Servers that may be killed at any point between the record of a run and the provider's answer, as real processes.

with Servers() as servers:
    home = make_home(tmp_path / "home", provider)
    ended = servers.serve(home, provider, kill_at=7)  # SIGKILL as it passes the seventh point; None lets it end

One process imports everything and forks a server each time; that costs milliseconds instead of a second.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.settings import Settings
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.hosted import store as hosted_jobs
from tunesmith.training.hosted.executor import HostedExecutor
from tunesmith.training.hosted.provider import Provider
from tunesmith.training.hosted.store import HostedStore, Kept, tag_of
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.jobs.job import HostedNews
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

RUN = "c0ffee" + "0" * 26
TAG = tag_of(RUN)
TIMING = Timing(poll_s=0.02, stopping_s=0.02, settle_s=0.05, first_s=0.02, longest_s=0.1, patience_s=0.05)
VERBS = ("upload", "find", "create", "look")
ROW = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
PATIENCE_S = 120.0


class Servers:
    """What forks them."""

    def __enter__(self) -> "Servers":
        command = [sys.executable, "-m", "tests.hosted_server"]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()

    def serve(
        self,
        home: Path,
        provider: Mapping[str, Any],
        *,
        kill_at: int | None = None,
        kill_after_s: float | None = None,
        cancel: bool = False,
    ) -> dict[str, Any]:
        """One server from its start until the run's job is known, or until it is killed.

        Args:
            provider: ``{"books": path}`` of a scripted one, or ``{"together": url, "key": key, "model": model}``, or the
                same with ``fireworks``.
            cancel: cancels the run as soon as it runs, and ends when it has ended.

        Returns:
            ``killed``, ``points`` passed by it, in order.
        """
        asked = {"home": str(home), "provider": provider, "kill_at": kill_at, "after_s": kill_after_s, "cancel": cancel}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks servers ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_home(folder: Path, provider: Mapping[str, Any], template: Path | None = None, *, empty: bool = False) -> Path:
    """A home folder with one run recorded for the provider, or none; a copy of ``template`` where that is given."""
    if template is not None:
        shutil.copytree(template, folder)
    home = Home(folder)
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    if template is None:
        (home.root / "data").mkdir()
        (home.root / "data" / "train.jsonl").write_bytes(ROW * 3)
        (home.root / "data" / "val.jsonl").write_bytes(ROW)
        database.migrate()
    if empty:
        database.close()
        return folder
    training, executor = _services(home, database, provider, lambda point: None)
    model = str(provider.get("model", "scripted/model"))
    recipe = Recipe(model, "data/train.jsonl", validation="data/val.jsonl")
    run = training.prepared(recipe, RUN, executor.name, "town", LOCAL)
    training.record(run, None, [hosted_jobs.recorded(RUN, executor.name, "Town", {"epochs": 1})])
    database.close()
    return folder


def found(home: Path) -> tuple[Run, HostedNews]:
    """What is recorded of the run."""
    database = Database(f"sqlite:///{home}/tunesmith.db")
    try:
        kept = HostedStore(database).get(RUN)
        assert kept is not None
        return RunStore(database).get(RUN), kept.news
    finally:
        database.close()


class _Told:
    """A provider that tells of each verb before it is called and after it has answered."""

    def __init__(self, provider: Provider, at: Any) -> None:
        self._provider, self._at = provider, at

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._provider, name)
        if name not in VERBS:
            return verb

        async def told(*arguments: Any) -> Any:
            self._at(f"before {name}")
            answer = await verb(*arguments)
            self._at(f"after {name}")
            return answer

        return told


class _ToldStore(HostedStore):
    """A store that tells before it writes and after."""

    def __init__(self, database: Database, at: Any) -> None:
        super().__init__(database)
        self._at = at

    def save(self, kept: Kept, news: HostedNews) -> Kept:
        self._at("before saving")
        saved = super().save(kept, news)
        self._at("after saving")
        return saved


def _provider(told: Mapping[str, Any]) -> Provider:
    if "books" in told:
        return ScriptedProvider(Path(told["books"]))
    from tunesmith.training.executors.fireworks import Fireworks
    from tunesmith.training.executors.together import Together
    from tunesmith.training.hosted.wire import Waits

    waits = Waits(connect_s=30, answer_s=30, tries=2, again_s=0.02)
    if "fireworks" in told:
        return Fireworks(told["fireworks"], lambda: str(told["key"]), waits=waits, poll_s=0.02)
    return Together(told["together"], lambda: str(told["key"]), waits=waits, again_s=0.02)


def _services(
    home: Home, database: Database, provider: Mapping[str, Any], at: Any
) -> tuple[TrainingService, HostedExecutor]:
    made: Any = _Told(_provider(provider), at)
    executor = HostedExecutor(made, _ToldStore(database, at), home, timing=TIMING)
    bases: Any = None
    settings = Settings(home=home.root)
    training = TrainingService(
        RunStore(database), {executor.name: executor}, bases, home, settings, rooms={executor.name: 64}
    )
    training._places._is_base = lambda name: False  # type: ignore[method-assign]
    return training, executor


async def _serve(asked: Mapping[str, Any], points: int) -> None:
    """Reconcile until the job is known, or dead."""
    passed = 0

    def at(point: str) -> None:
        nonlocal passed
        os.write(points, f"{point}\n".encode())
        passed += 1
        if passed == asked["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    home = Home(Path(asked["home"]))
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    training, executor = _services(home, database, asked["provider"], at)
    store = HostedStore(database)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        await training.reconcile()
        run, kept = training.get(RUN), store.get(RUN)
        if run.state.final or (not asked["cancel"] and kept is not None and kept.news.job_id is not None):
            break
        if asked["cancel"] and run.state is State.RUNNING and not run.cancel_requested:
            training.cancel(RUN)
        await asyncio.sleep(0.005)
    await executor.close()
    training.release()
    database.close()


def _forked(asked: Mapping[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # logs go there, where the answers are written
        try:
            asyncio.run(_serve(asked, writing))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if asked["after_s"] is not None:
        time.sleep(asked["after_s"])
        os.kill(child, signal.SIGKILL)  # not waited for yet: its number is still its own, even if it has ended
    with os.fdopen(reading) as told:
        points = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a server failed; see above"
    return {"killed": os.WIFSIGNALED(status), "points": points}


if __name__ == "__main__":
    from tunesmith.training.executors import fireworks, together  # noqa: F401  (imported once, before the forks)

    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)
