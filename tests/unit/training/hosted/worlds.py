"""A training service on a home folder whose runs go to a scripted provider, and a clock that stands still."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.unit.training.test_service import Bases
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import NotFound
from tunesmith.settings import Settings
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.hosted import store as hosted_jobs
from tunesmith.training.hosted.executor import HostedExecutor
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.jobs.job import HostedNews
from tunesmith.training.run import Recipe, Run
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

ROW = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
# whoever asks waits for the step to be done, however slow the machine
TIMING = Timing(patience_s=60.0)


class Clock:
    """Stands still until it is set forward; ``seconds`` is what no setting of the clock changes."""

    def __init__(self) -> None:
        self.now, self.passed_s = datetime(2026, 1, 2, 12, tzinfo=UTC), 0.0

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.passed_s

    def on(self, seconds: float) -> None:
        """Time passes."""
        self.jump(seconds)
        self.passed_s += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.now += timedelta(seconds=seconds)


@dataclass
class World:
    home: Home
    database: Database
    provider: ScriptedProvider
    clock: Clock
    executor: HostedExecutor
    training: TrainingService
    here: ScriptedExecutor

    @property
    def runs(self) -> RunStore:
        return RunStore(self.database, self.clock)

    @property
    def store(self) -> HostedStore:
        return HostedStore(self.database)

    def start(self, validation: bool = False) -> Run:
        """A run recorded for the provider."""
        number = len(self.runs.list(limit=None)) + 1
        run_id = f"{number:08x}{0:024x}"
        files = Recipe("meta/llama", "data/train.jsonl", validation="data/train.jsonl" if validation else None)
        run = self.training.prepared(files, run_id, self.provider.name, "town", LOCAL)
        self.training.record(run, None, [hosted_jobs.recorded(run_id, self.provider.name, "Town", {"epochs": 2})])
        return run

    async def passes(self, count: int = 1, apart_s: float = 0.5) -> None:
        """Reconcile so often, as a server does all the time."""
        for _ in range(count):
            await self.training.reconcile()
            self.clock.on(apart_s)

    def state(self, run: Run) -> str:
        return str(self.runs.get(run.id).state)

    def news(self, run: Run) -> HostedNews:
        kept = self.store.get(run.id)
        assert kept is not None
        return kept.news

    def again(self) -> "World":
        """The same home after a restart of the server: nothing of the process is left."""
        self.training.release()
        return opened(self.home, self.provider, self.clock)


def _refuse_the_servers_own(name: str, caller: Caller) -> None:
    """As for everybody who is no admin."""
    if name.startswith("runs/"):
        raise NotFound("数据不存在", f"dataset does not exist: {name}")


def opened(home: Home, provider: ScriptedProvider, clock: Clock, timing: Timing = TIMING) -> World:
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    executor = HostedExecutor(provider, HostedStore(database), home, clock, timing, clock.seconds)
    here = ScriptedExecutor()
    training = TrainingService(
        RunStore(database, clock),
        {"local": here, provider.name: executor},
        Bases(),
        home,
        Settings(home=home.root),
        clock,
        may_read=_refuse_the_servers_own,
        rooms={provider.name: 64},
    )
    return World(home, database, provider, clock, executor, training, here)


@cache
def _migrated() -> bytes:
    """A new database; migrating one for each test would cost more than the test."""
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tunesmith.db")
        database.migrate()
        database.close()
        return (Path(folder) / "tunesmith.db").read_bytes()


def worlds(folder: Path) -> Iterator[World]:
    """One of them, for a fixture."""
    home = Home(folder / "home")
    (home.root / "data").mkdir()
    (home.root / "data" / "train.jsonl").write_bytes(ROW * 3)
    (home.root / "tunesmith.db").write_bytes(_migrated())
    world = opened(home, ScriptedProvider(folder / "books.jsonl"), Clock())
    yield world
    world.training.release()
    world.database.close()
