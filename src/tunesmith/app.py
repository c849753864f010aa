"""The composition root: the only file that names implementations, and the server they make.

``compose`` wires the services that the command line and the server share; ``create_app`` puts the dialects over them.
Nothing here imports torch: models run in processes of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.accounts.service import AccountService
from tunesmith.datasets.children import Children
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.compare_chat import routes as compare_chat
from tunesmith.dialects.gpt_service import routes as gpt_service
from tunesmith.dialects.platform_v1 import routes as platform_v1
from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.evaluation.service import EvaluationService
from tunesmith.http.door import Door, KindOf
from tunesmith.http.rates import Rates
from tunesmith.http.request_id import RequestId
from tunesmith.inference.chat import Chat
from tunesmith.inference.served import ServedModels
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.notes import ModelNotes
from tunesmith.models.registry import Registry
from tunesmith.models.usage import UsageJournal
from tunesmith.settings import Settings
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

_COUNTED_EVERY_S = 60.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """Every capability, wired."""

    settings: Settings
    home: Home
    database: Database
    accounts: AccountService
    registry: Registry
    notes: ModelNotes
    usage: UsageJournal
    engines: Supervisor
    chat: Chat
    served: ServedModels
    datasets: DatasetService
    uploads: UploadService
    training: TrainingService
    evaluation: EvaluationService

    async def close(self) -> None:
        """End the engines and the connections; runs in training go on by themselves."""
        await self.evaluation.close()
        await self.engines.close()
        await asyncio.to_thread(self.usage.close)
        self.database.close()


def compose(settings: Settings) -> Services:
    """The services on one home folder, its database brought up to date.

    Raises:
        Problem: the home folder or the database cannot be used.
    """
    home = Home(settings.home)
    database = Database(settings.database_url or f"sqlite:///{home.root}/tunesmith.db")
    database.migrate()
    registry = Registry(home, settings.hf_home)
    usage = UsageJournal(home.usage, database)
    worker = Children()
    datasets = DatasetService(database, home, worker=worker)
    engines = Supervisor(registry, home, settings)
    executors = {"local": LocalExecutor(home, registry, settings)}
    return Services(
        settings=settings,
        home=home,
        database=database,
        accounts=AccountService(database, home),
        registry=registry,
        notes=ModelNotes(database, usage),
        usage=usage,
        engines=engines,
        chat=Chat(engines, usage.used),
        served=ServedModels(database, registry, engines),
        datasets=datasets,
        uploads=UploadService(database, home, settings, worker=worker),
        training=TrainingService(
            RunStore(database), executors, registry, home, settings, may_read=datasets.check_may_read
        ),
        evaluation=EvaluationService(database, home, engines),
    )


def create_app(services: Services, *, wants_token: bool) -> ASGIApp:
    """The server: every dialect on one port.

    Args:
        wants_token: whether the dialects whose documents know no token want one all the same.
    """
    services.accounts.start()
    settings, identify = services.settings, services.accounts.identify
    rates = Rates.of(settings)

    def door(kind_of: KindOf) -> Door:
        """Where callers are known, they are counted as in platform-v1, or its limits could be walked round."""
        return Door.of(
            settings,
            identify=identify if wants_token else None,
            open_routes={("GET", "/health")},
            rates=rates if wants_token else None,
            kind_of=kind_of,
        )

    compare = compare_chat.build(
        services.chat,
        tuned=lambda: (
            services.served.tuned(
                settings.finetuning_base_model, settings.finetuning_lora_path, settings.finetuning_model_name
            ).model
        ),
        current=lambda: services.served.current().model,
        door=door(compare_chat.kind_of),
    )
    gpt = gpt_service.build(
        gpt_service.Services(
            chat=services.chat,
            served=services.served,
            training=services.training,
            evaluation=services.evaluation,
            registry=services.registry,
            device_of=lambda base: _device_of(services.engines, base),
            environment=settings.environment,
        ),
        door(gpt_service.kind_of),
    )
    platform = _platform(services, rates)
    app = Starlette(lifespan=_lifespan(services, rates))
    app.router.default = _Dialects({"/api/v1": platform, "/ai": compare}, gpt)
    return RequestId(app)


class _Dialects:
    """Hands a request to the dialect its path begins with.

    Starlette's Mount would not: its pattern matches neither the bare prefix nor a path with a line break in it, and
    what it does not match is answered in no dialect's shape.
    """

    def __init__(self, by_prefix: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._by_prefix, self._rest = by_prefix, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        for prefix, app in self._by_prefix.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                await app({**scope, "root_path": prefix}, receive, send)
                return
        await self._rest(scope, receive, send)


def _platform(services: Services, rates: Rates) -> FastAPI:
    settings = services.settings
    catalog = Catalog(
        services.registry, services.served, services.training, services.notes, settings.finetuning_base_model
    )
    return platform_v1.build(
        platform_v1.Services(
            accounts=services.accounts,
            training=services.training,
            chat=services.chat,
            catalog=catalog,
            datasets=services.datasets,
            uploads=services.uploads,
            max_upload_bytes=settings.max_upload_bytes,
        ),
        Door.of(
            settings,
            identify=services.accounts.identify,
            open_routes=platform_v1.OPEN,
            rates=rates,
            kind_of=platform_v1.kind_of,
        ),
    )


def _device_of(engines: Supervisor, base: str) -> str:
    """Where the base model's engine runs, or would: asked of the process, else guessed without importing torch."""
    running = next((status.device for status in engines.status() if status.base == base and status.device), None)
    return running or ("cuda" if Path("/dev/nvidia0").exists() else "cpu")


def _lifespan(services: Services, rates: Rates) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        loops = [
            asyncio.create_task(services.training.run_forever()),
            asyncio.create_task(_count_usage(services.usage)),
        ]
        await asyncio.to_thread(services.uploads.reconcile)
        await asyncio.to_thread(services.datasets.reconcile)
        await services.evaluation.recover()
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await rates.close()
            await services.close()

    return life


async def _count_usage(usage: UsageJournal) -> None:
    while True:
        await asyncio.sleep(_COUNTED_EVERY_S)
        try:
            await asyncio.to_thread(usage.fold)
        except Exception:
            _log.exception("usage_not_counted")  # the journal keeps what could not be counted
