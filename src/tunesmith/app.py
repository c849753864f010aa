"""The composition root: the only file that names implementations, and the server they make.

``compose`` wires the services that the command line and the server share; ``create_app`` puts the dialects over them.
Nothing here imports torch: models run in processes of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from tunesmith.datasets.service import DatasetService
from tunesmith.dialects.compare_chat import routes as compare_chat
from tunesmith.dialects.gpt_service import routes as gpt_service
from tunesmith.evaluation.service import EvaluationService
from tunesmith.inference.chat import Chat
from tunesmith.inference.served import ServedModels
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore


@dataclass(frozen=True, slots=True)
class Services:
    """Every capability, wired."""

    settings: Settings
    home: Home
    database: Database
    registry: Registry
    engines: Supervisor
    chat: Chat
    served: ServedModels
    datasets: DatasetService
    training: TrainingService
    evaluation: EvaluationService

    async def close(self) -> None:
        """End the engines and the connections; runs in training go on by themselves."""
        await self.evaluation.close()
        await self.engines.close()
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
    engines = Supervisor(registry, home, settings)
    executors = {"local": LocalExecutor(home, registry, settings)}
    return Services(
        settings=settings,
        home=home,
        database=database,
        registry=registry,
        engines=engines,
        chat=Chat(engines),
        served=ServedModels(database, registry, engines),
        datasets=DatasetService(database, home),
        training=TrainingService(RunStore(database), executors, registry, home, settings),
        evaluation=EvaluationService(database, home, engines),
    )


def create_app(settings: Settings) -> ASGIApp:
    """The server: every dialect on one port."""
    services = compose(settings)
    compare = compare_chat.build(
        services.chat,
        tuned=lambda: (
            services.served.tuned(
                settings.finetuning_base_model, settings.finetuning_lora_path, settings.finetuning_model_name
            ).model
        ),
        current=lambda: services.served.current().model,
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
        )
    )
    app = Starlette(routes=[Mount("/ai", compare), Mount("/", gpt)], lifespan=_lifespan(services))
    app.router.redirect_slashes = False  # as in the dialects
    return app


def _device_of(engines: Supervisor, base: str) -> str:
    """Where the base model's engine runs, or would: asked of the process, else guessed without importing torch."""
    running = next((status.device for status in engines.status() if status.base == base and status.device), None)
    return running or ("cuda" if Path("/dev/nvidia0").exists() else "cpu")


def _lifespan(services: Services) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.create_task(services.training.run_forever())
        await asyncio.to_thread(services.datasets.reconcile)
        await services.evaluation.recover()
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await services.close()

    return life
