"""The composition root: the only file that names implementations, and the server they make.

``compose`` wires the services that the command line and the server share; ``create_app`` puts the dialects over them.
Nothing here imports torch: models run in processes of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.accounts.service import AccountService
from tunesmith.accounts.vault import Vault
from tunesmith.datasets.children import Children
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.chat_gateway import routes as chat_gateway
from tunesmith.dialects.compare_chat import routes as compare_chat
from tunesmith.dialects.gpt_service import ollama as gpt_ollama
from tunesmith.dialects.gpt_service import routes as gpt_service
from tunesmith.dialects.openai import routes as openai
from tunesmith.dialects.openai.models import Shelf
from tunesmith.dialects.platform_v1 import routes as platform_v1
from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.evaluation.promotion import Promotions
from tunesmith.evaluation.service import EvaluationService
from tunesmith.http import metrics
from tunesmith.http.door import Door, KindOf, all_other
from tunesmith.http.rates import Rates
from tunesmith.http.request_id import RequestId
from tunesmith.inference.chat import Chat
from tunesmith.inference.conversations import Conversations
from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.openrouter import OpenRouter, terms
from tunesmith.inference.gateway import Builtin, Gateway, Remote
from tunesmith.inference.live_list import LiveList
from tunesmith.inference.metrics import gathered
from tunesmith.inference.pulls import Pulls
from tunesmith.inference.served import ServedModels
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.aliases import Aliases
from tunesmith.models.model import Model
from tunesmith.models.notes import ModelNotes
from tunesmith.models.registry import Registry
from tunesmith.models.removing import Removal
from tunesmith.models.spending import Spending
from tunesmith.models.usage import UsageJournal
from tunesmith.models.versions import Versions
from tunesmith.settings import Settings
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.executors.standby import Standby
from tunesmith.training.plan.planning import Planner
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

_COUNTED_EVERY_S = 60.0
_OPENROUTER_LIST_S, _OLLAMA_LIST_S = 600.0, 10.0  # a list of models so old is asked for again
_LIST_WAIT_S = 5.0  # longest wait of an answer for a first list
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """Every capability, wired."""

    settings: Settings
    home: Home
    database: Database
    accounts: AccountService
    vault: Vault
    registry: Registry
    versions: Versions
    aliases: Aliases
    removal: Removal
    notes: ModelNotes
    usage: UsageJournal
    spending: Spending
    engines: Supervisor
    chat: Chat
    served: ServedModels
    openrouter: OpenRouter
    ollama: OllamaEngine | None
    pulls: Pulls | None
    conversations: Conversations
    gateway: Gateway
    datasets: DatasetService
    uploads: UploadService
    training: TrainingService
    standby: Standby
    planner: Planner
    evaluation: EvaluationService
    promotions: Promotions

    async def close(self) -> None:
        """End the engines and the connections; runs in training go on by themselves, and others may follow them."""
        await asyncio.to_thread(self.training.release)
        await self.evaluation.close()
        await self.gateway.close()
        await self.openrouter.close()
        if self.pulls is not None:
            await self.pulls.close()
        if self.ollama is not None:
            await self.ollama.close()
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
    shelf = Registry(home, settings.hf_home)
    versions = Versions(database, shelf)
    aliases = Aliases(
        database,
        versions,
        taken=lambda name: served.is_loaded(name) or shelf.knows(name),
        served=lambda name: served.is_loaded(name),
    )
    registry = Registry(home, settings.hf_home, aliases.folder_named)
    usage = UsageJournal(home.usage, database)
    worker = Children()
    datasets = DatasetService(database, home, worker=worker)
    # engines are asked for folders: which one an alias meant was decided when the request came
    engines = Supervisor(shelf, home, settings)
    chat = Chat(engines, usage.used)
    served = ServedModels(database, registry, engines, pointers=aliases)
    vault = Vault(database, home.secrets, {"openrouter": settings.openrouter_key})
    openrouter = OpenRouter(settings, lambda: vault.at_hand("openrouter"))
    ollama = OllamaEngine.at(settings.ollama_url, terms(settings.upstream)) if settings.ollama_url else None
    tags = LiveList(ollama.models, fresh_s=_OLLAMA_LIST_S, wait_s=_LIST_WAIT_S) if ollama else None
    conversations = Conversations(database)
    evaluation = EvaluationService(database, home, engines)
    standby = Standby(settings)
    training = TrainingService(
        RunStore(database),
        {"local": LocalExecutor(home, registry, settings, standby=standby)},
        registry,
        home,
        settings,
        may_read=datasets.check_may_read,
        is_alias=lambda name: aliases.find(name) is not None,
    )
    return Services(
        settings=settings,
        home=home,
        database=database,
        accounts=AccountService(database, home),
        vault=vault,
        registry=registry,
        versions=versions,
        aliases=aliases,
        removal=Removal(database, registry, lambda: [(m.name, m.model.adapter) for m in served.list()]),
        notes=ModelNotes(database, usage),
        usage=usage,
        spending=Spending(database, usage),
        engines=engines,
        chat=chat,
        served=served,
        openrouter=openrouter,
        ollama=ollama,
        pulls=Pulls(database, ollama, on_success=tags.forget) if ollama and tags else None,
        conversations=conversations,
        gateway=Gateway(
            _builtin(chat, served, registry, aliases),
            Remote(Chat(ollama), tags, settings.ollama_model) if ollama and tags else None,
            Remote(
                Chat(openrouter.engine),
                LiveList(openrouter.models, fresh_s=_OPENROUTER_LIST_S, wait_s=_LIST_WAIT_S),
                settings.openrouter_model,
            ),
            conversations,
            key=lambda: vault.current("openrouter"),
            spent=usage.spent,
        ),
        datasets=datasets,
        uploads=UploadService(database, home, settings, worker=worker),
        training=training,
        standby=standby,
        planner=Planner.of(training, home, registry, settings),
        evaluation=evaluation,
        promotions=Promotions(evaluation, registry, versions, aliases),
    )


def _builtin(chat: Chat, served: ServedModels, registry: Registry, aliases: Aliases) -> Builtin:
    """This machine's models, for the gateway."""

    def find(name: str | None) -> tuple[str, Model]:
        found = served.resolve(name)
        return found.answers, found.model

    def names() -> list[str]:
        loaded = [*(each.name for each in served.list()), *(alias.name for alias in aliases.list())]
        on_disk = [*(base.name for base in registry.bases()), *(adapter.name for adapter in registry.adapters())]
        return list(dict.fromkeys([*loaded, *on_disk]))

    return Builtin(chat, lambda name: asyncio.to_thread(find, name), lambda: asyncio.to_thread(names))


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
            gateway=services.gateway,
            ollama=_ollama(services),
            aliases=services.aliases,
            promotions=services.promotions,
            datasets=services.datasets,
            home=services.home,
            served=services.served,
            training=services.training,
            planner=services.planner,
            evaluation=services.evaluation,
            registry=services.registry,
            device_of=lambda base: _device_of(services.engines, base),
            environment=settings.environment,
        ),
        door(gpt_service.kind_of),
    )
    gateway = chat_gateway.build(
        chat_gateway.Services(
            gateway=services.gateway,
            conversations=services.conversations,
            spending=services.spending,
            vault=services.vault,
            development=settings.environment in ("dev", "development"),
        ),
        door(chat_gateway.kind_of),
    )
    platform = _platform(services, rates)
    shelf = Shelf(services.served, services.registry, services.aliases, services.removal.remove)
    sdk = openai.build(openai.Services(services.chat, shelf), door(openai.kind_of))
    life = Starlette(lifespan=_lifespan(services, rates))
    dialects = {"/api/v1": platform, "/api/chat": gateway, "/ai": compare, "/v1": sdk}
    counts = metrics.build(lambda: gathered(services.engines), door(all_other))
    app = _Dialects({**dialects, metrics.PATH: counts}, gpt, life)
    return RequestId(app)


class _Dialects:
    """Hands a request to the dialect its path begins with.

    Starlette's Mount would not: its pattern matches neither the bare prefix nor a path with a line break in it, and
    what it does not match is answered in no dialect's shape.

    Args:
        life: starts and ends what the dialects stand on.
    """

    def __init__(self, by_prefix: Mapping[str, ASGIApp], rest: ASGIApp, life: ASGIApp) -> None:
        self._by_prefix, self._rest, self._life = by_prefix, rest, life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._life(scope, receive, send)
            return
        path = scope["path"]
        for prefix, app in self._by_prefix.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                await app({**scope, "root_path": prefix}, receive, send)
                return
        await self._rest(scope, receive, send)


def _ollama(services: Services) -> gpt_ollama.Ollama | None:
    if services.ollama is None or services.pulls is None:
        return None
    return gpt_ollama.Ollama(services.ollama, services.pulls)


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
        longest = timedelta(seconds=2 * services.settings.upstream.total_s)
        loops = [
            asyncio.create_task(services.training.run_forever()),
            asyncio.create_task(services.standby.forever(services.training.idle)),
            asyncio.create_task(_count_usage(services.usage)),
            asyncio.create_task(_end_turns_from_before(services.conversations, longest)),
        ]
        await asyncio.to_thread(services.conversations.reconcile, longest)
        await asyncio.to_thread(services.uploads.reconcile)
        await asyncio.to_thread(services.datasets.reconcile)
        await services.evaluation.recover()
        if services.pulls is not None:
            await services.pulls.reconcile()
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await rates.close()
            await services.close()

    return life


async def _end_turns_from_before(conversations: Conversations, longest: timedelta) -> None:
    """End what a killed server had begun shortly before this one started: too young for the look at start-up."""
    await asyncio.sleep(longest.total_seconds())
    try:
        await asyncio.to_thread(conversations.reconcile, longest)
    except Exception:
        _log.exception("turns_not_ended")  # the next start does


async def _count_usage(usage: UsageJournal) -> None:
    while True:
        await asyncio.sleep(_COUNTED_EVERY_S)
        try:
            await asyncio.to_thread(usage.fold)
        except Exception:
            _log.exception("usage_not_counted")  # the journal keeps what could not be counted
