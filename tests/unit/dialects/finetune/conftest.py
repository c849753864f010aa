"""The finetune document's application over real services, a home folder of its own and a stand-in of Together.

No loop runs beside it: what a server does all the time, ``Finetune.passes`` does when it is told to. The local executor
is the scripted fake, which trains nothing.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.upstreams.together_api import TogetherApi, together_api
from tunesmith.app import compose
from tunesmith.datasets.export.service import ExportService
from tunesmith.dialects.finetune import kiln_paths, routes
from tunesmith.http.door import Door
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.db import Database
from tunesmith.projects.service import ProjectService
from tunesmith.settings import Settings
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.executors.together import Together
from tunesmith.training.hosted.catalog import Catalog
from tunesmith.training.hosted.deployments import DeploymentService
from tunesmith.training.hosted.executor import HostedExecutor
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.jobs.service import JobService
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

ROWS = [
    {"instruction": f"{n}号订单在哪？", "input": "", "output": f"{n}号订单在路上。", "reasoning": f"查{n}号"}
    for n in range(1, 11)
]
NAMES = ("alice", "bob", "root")


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@dataclass
class Finetune:
    """The application, and what is behind it.

    Attributes:
        app: takes the caller's name as a token; "root" is an admin.
        kiln: Kiln's own paths of the same records.
        key: Together's, as it is set here; None is none.
    """

    app: Any
    kiln: Any
    training: TrainingService
    key: str | None

    def client(self, name: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {name}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost", headers=headers)

    async def passes(self, count: int = 1) -> None:
        for _ in range(count):
            await self.training.reconcile()


async def _identify(token: str) -> Caller:
    assert token in NAMES
    return Caller(token, admin=token == "root")


@pytest.fixture
def together() -> Iterator[TogetherApi]:
    with together_api() as api:
        yield api


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database that is up to date; making one takes longer than most tests here."""
    file = tmp_path_factory.mktemp("empty") / "tunesmith.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file.read_bytes()


@pytest.fixture
async def finetune(tmp_path: Path, together: TogetherApi, empty: bytes) -> AsyncIterator[Finetune]:
    (tmp_path / "tunesmith.db").write_bytes(empty)
    settings = Settings.read({}, home=tmp_path)
    services = compose(settings)
    write_rows(tmp_path / "data" / "客服.jsonl", ROWS)
    made = Finetune(None, None, services.training, together.key)
    provider = Together(together.v1, lambda: made.key)
    store = HostedStore(services.database)
    hosted = {provider.name: HostedExecutor(provider, store, services.home, timing=Timing(poll_s=0, patience_s=60))}
    here = ScriptedExecutor()
    made.training = TrainingService(
        RunStore(services.database),
        {"local": here, **hosted},
        services.registry,
        services.home,
        settings,
        may_read=services.datasets.check_may_read,
    )
    catalog = Catalog({provider.name: provider}, here, lambda name: made.key if name == provider.name else None)
    projects = ProjectService(services.database, utc_now)
    exports = ExportService(services.home, services.datasets.check_may_read)
    jobs = JobService(
        services.database, made.training, catalog, projects, exports, hosted, services.registry, services.home
    )
    behind = routes.Services(
        home=services.home,
        may_read=services.datasets.check_may_read,
        uploads=services.uploads,
        exports=exports,
        projects=projects,
        jobs=jobs,
        catalog=catalog,
        deployments=DeploymentService({provider.name: provider}, jobs, store, services.home, services.registry),
        max_upload_bytes=1 << 20,
    )
    door = Door.of(settings, identify=_identify, kind_of=routes.kind_of)
    made.app, made.kiln = routes.build(behind, door), kiln_paths.build(behind, door)
    yield made
    await catalog.close()
    await provider.close()
    await services.close()


@pytest.fixture
async def client(finetune: Finetune) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's."""
    async with finetune.client("alice") as client:
        yield client
