"""The server: every dialect on one port, over the services of ``app``, and what runs beside them while it is up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import structlog
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.app import Services
from tunesmith.dialects.chat_gateway import routes as chat_gateway
from tunesmith.dialects.compare_chat import routes as compare_chat
from tunesmith.dialects.finetune import kiln_paths
from tunesmith.dialects.finetune import routes as finetune
from tunesmith.dialects.gpt_service import ollama as gpt_ollama
from tunesmith.dialects.gpt_service import routes as gpt_service
from tunesmith.dialects.openai import routes as openai
from tunesmith.dialects.openai.models import Shelf
from tunesmith.dialects.platform_v1 import routes as platform_v1
from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.http import metrics
from tunesmith.http.door import Door, KindOf, all_other
from tunesmith.http.rates import Rates
from tunesmith.http.request_id import RequestId
from tunesmith.inference.conversations import Conversations
from tunesmith.inference.metrics import gathered
from tunesmith.inference.supervisor import Supervisor
from tunesmith.models.usage import UsageJournal
from tunesmith.web import page

_COUNTED_EVERY_S = 60.0
_log = structlog.get_logger()


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
            uploads=services.uploads,
            home=services.home,
            served=services.served,
            training=services.training,
            planner=services.planner,
            evaluation=services.evaluation,
            registry=services.registry,
            versions=services.versions,
            notes=services.notes,
            accounts=services.accounts,
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
    hosted = services.hosted.names.list
    shelf = Shelf(services.served, services.registry, services.aliases, services.removal.remove, hosted)
    sdk = openai.build(openai.Services(services.chat, shelf), door(openai.kind_of))
    life = Starlette(lifespan=_lifespan(services, rates))
    behind = finetune.Services(
        home=services.home,
        may_read=services.datasets.check_may_read,
        uploads=services.uploads,
        exports=services.exports,
        projects=services.projects,
        jobs=services.jobs,
        catalog=services.hosted.catalog,
        deployments=services.hosted.deployments,
        max_upload_bytes=settings.max_upload_bytes,
    )
    tuning = finetune.build(behind, door(finetune.kind_of))
    kiln = dict.fromkeys(kiln_paths.PREFIXES, kiln_paths.build(behind, door(finetune.kind_of)))
    dialects = {"/api/v1": platform, "/api/finetune": tuning, "/api/chat": gateway, "/ai": compare, "/v1": sdk}
    counts = metrics.build(lambda: gathered(services.engines), door(all_other))
    beside = {metrics.PATH: counts, page.PATH: page.build(Door.of(settings))}
    app = _Dialects({**dialects, **kiln, **beside}, gpt, life)
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
        if page.wants_page(scope):
            await page.to_page(scope, receive, send)
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
