"""The composition root: the only file that names implementations.

``compose`` wires the services that the command line and the server (``asgi``) share. Nothing here imports torch: models
run in processes of their own.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tunesmith.accounts.service import AccountService
from tunesmith.accounts.vault import Vault
from tunesmith.datasets.children import Children
from tunesmith.datasets.export.service import ExportService
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.evaluation.promotion import Promotions
from tunesmith.evaluation.service import EvaluationService
from tunesmith.inference.chat import Chat
from tunesmith.inference.conversations import Conversations
from tunesmith.inference.engines.hosted import HostedEngine
from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.openrouter import OpenRouter, terms
from tunesmith.inference.gateway import Builtin, Gateway, Remote
from tunesmith.inference.pulls import Pulls
from tunesmith.inference.served import ServedModels
from tunesmith.inference.supervisor import Supervisor
from tunesmith.inference.switchboard import HostedNames, Switchboard
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.live_list import LiveList
from tunesmith.models.aliases import Aliases
from tunesmith.models.model import Model
from tunesmith.models.notes import ModelNotes
from tunesmith.models.registry import Registry
from tunesmith.models.removing import Removal
from tunesmith.models.spending import Spending
from tunesmith.models.usage import UsageJournal
from tunesmith.models.versions import Versions
from tunesmith.projects.service import ProjectService
from tunesmith.settings import Settings
from tunesmith.training.executor import Executor
from tunesmith.training.executors.fireworks import Fireworks
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.executors.standby import Standby
from tunesmith.training.executors.together import Together
from tunesmith.training.hosted.catalog import Catalog
from tunesmith.training.hosted.deployments import DeploymentService
from tunesmith.training.hosted.executor import HostedExecutor
from tunesmith.training.hosted.provider import Provider
from tunesmith.training.hosted.store import HostedStore
from tunesmith.training.jobs.job import Job
from tunesmith.training.jobs.service import JobService
from tunesmith.training.plan.planning import Planner
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore

_OPENROUTER_LIST_S, _OLLAMA_LIST_S = 600.0, 10.0  # a list of models so old is asked for again
TOGETHER, FIREWORKS = "together_ai", "fireworks_ai"
_HOSTED_ROOM = 64  # runs under way at one provider
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
    hosted: "Hosted"
    projects: ProjectService
    exports: ExportService
    jobs: JobService
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
        await self.hosted.close()
        if self.pulls is not None:
            await self.pulls.close()
        if self.ollama is not None:
            await self.ollama.close()
        await self.engines.close()
        await asyncio.to_thread(self.usage.close)
        await asyncio.to_thread(self.accounts.close)
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
    vault = Vault(
        database,
        home.secrets,
        {
            "openrouter": settings.openrouter_key,
            TOGETHER: settings.together_key,
            FIREWORKS: settings.fireworks_key,
        },
    )
    local = LocalExecutor(home, registry, settings, standby=(standby := Standby(settings)))
    hosted = Hosted.of(settings, home, database, vault, registry, local, jobs=lambda: jobs)
    board = Switchboard(engines, hosted.engines)
    chat = Chat(board, usage.used)
    served = ServedModels(database, registry, engines, pointers=aliases, elsewhere=hosted.names.find)
    openrouter = OpenRouter(settings, lambda: vault.at_hand("openrouter"))
    ollama = OllamaEngine.at(settings.ollama_url, terms(settings.upstream)) if settings.ollama_url else None
    tags = LiveList(ollama.models, fresh_s=_OLLAMA_LIST_S, wait_s=_LIST_WAIT_S) if ollama else None
    conversations = Conversations(database)
    evaluation = EvaluationService(database, home, board)
    training = TrainingService(
        RunStore(database),
        {local.name: local, **hosted.executors},
        registry,
        home,
        settings,
        may_read=datasets.check_may_read,
        is_alias=lambda name: aliases.find(name) is not None,
        rooms=dict.fromkeys(hosted.executors, _HOSTED_ROOM),
    )
    projects, exports = ProjectService(database, utc_now), ExportService(home, datasets.check_may_read)
    jobs = JobService(database, training, hosted.catalog, projects, exports, hosted.executors, registry, home)
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
        hosted=hosted,
        projects=projects,
        exports=exports,
        jobs=jobs,
        conversations=conversations,
        gateway=Gateway(
            _builtin(chat, served, registry, aliases, hosted),
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


@dataclass(frozen=True, slots=True)
class Hosted:
    """What there is for training at providers, and for asking what was trained there.

    Attributes:
        executors, engines: by the provider's id.
        names: of tuned models that answer there.
    """

    executors: Mapping[str, HostedExecutor]
    engines: Mapping[str, HostedEngine]
    catalog: Catalog
    deployments: DeploymentService
    names: HostedNames

    @staticmethod
    def of(
        settings: Settings,
        home: Home,
        database: Database,
        vault: Vault,
        registry: Registry,
        local: Executor,
        jobs: Callable[[], JobService],
    ) -> "Hosted":
        """Wired; ``jobs`` is asked for when somebody asks for a tuned model."""
        store = HostedStore(database)
        providers: dict[str, Provider] = {
            TOGETHER: Together(settings.together_url, partial(vault.get, TOGETHER)),
            FIREWORKS: Fireworks(
                settings.fireworks_url, partial(vault.get, FIREWORKS), account=settings.fireworks_account
            ),
        }
        deployments = DeploymentService(providers, _Later(jobs), store, home, registry)
        asked = deployments.asked
        return Hosted(
            executors={name: HostedExecutor(provider, store, home) for name, provider in providers.items()},
            engines={
                TOGETHER: HostedEngine.together(settings, partial(vault.current, TOGETHER), asked),
                FIREWORKS: HostedEngine.fireworks(settings, partial(vault.current, FIREWORKS), asked),
            },
            catalog=Catalog(providers, local, vault.get),
            deployments=deployments,
            names=HostedNames(deployments.origin, deployments.deployed),
        )

    async def close(self) -> None:
        """Give every connection back."""
        await self.deployments.close()
        await self.catalog.close()
        for engine in self.engines.values():
            await engine.close()
        for executor in self.executors.values():
            await executor.close()  # and the provider's connections with it


@dataclass(frozen=True, slots=True)
class _Later:
    """Jobs, of which training is a part, which is made after whatever asks for jobs."""

    jobs: Callable[[], JobService]

    def get(self, job_id: str, caller: Caller) -> Job:
        return self.jobs().get(job_id, caller)


def _builtin(chat: Chat, served: ServedModels, registry: Registry, aliases: Aliases, hosted: Hosted) -> Builtin:
    """This machine's models, and those tuned at providers, for the gateway."""

    def find(name: str | None) -> tuple[str, Model]:
        found = served.resolve(name)
        return found.answers, found.model

    def names() -> list[str]:
        loaded = [*(each.name for each in served.list()), *(alias.name for alias in aliases.list())]
        on_disk = [*(base.name for base in registry.bases()), *(adapter.name for adapter in registry.adapters())]
        return list(dict.fromkeys([*loaded, *on_disk, *hosted.names.list()]))

    return Builtin(chat, lambda name: asyncio.to_thread(find, name), lambda: asyncio.to_thread(names))
