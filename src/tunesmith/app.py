"""The composition root: the only file that names implementations.

``compose`` wires the services that the command line and the server (``asgi``) share. Nothing here imports torch: models
run in processes of their own.
"""

import asyncio
from dataclasses import dataclass

from tunesmith.accounts.service import AccountService
from tunesmith.accounts.vault import Vault
from tunesmith.datasets.children import Children
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.evaluation.promotion import Promotions
from tunesmith.evaluation.service import EvaluationService
from tunesmith.inference.chat import Chat
from tunesmith.inference.conversations import Conversations
from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.openrouter import OpenRouter, terms
from tunesmith.inference.gateway import Builtin, Gateway, Remote
from tunesmith.inference.live_list import LiveList
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

_OPENROUTER_LIST_S, _OLLAMA_LIST_S = 600.0, 10.0  # a list of models so old is asked for again
_LIST_WAIT_S = 5.0  # longest wait of an answer for a first list


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
