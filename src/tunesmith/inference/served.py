"""The names models are served under, and which of them is current. Kept over restarts."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import sqlalchemy as sa

from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.home import UNPRINTABLE, parse_name
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem
from tunesmith.models.model import Adapter, Model
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.models.version_store import POINTING
from tunesmith.models.versions import Version

served_models = sa.Table(
    "served_models",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("base", sa.String, nullable=False),
    sa.Column("adapter", sa.String),
    sa.Column("is_current", sa.Boolean, nullable=False),
    sa.Column("loaded_at", sa.String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Served:
    """A model under the name its clients call it by.

    Attributes:
        version: the version that an alias led to, or that was named itself (``town@3``); else None.
    """

    name: str
    model: Model
    is_current: bool
    version: str | None = None

    @property
    def answers(self) -> str:
        """Who answers by that name: the version where one was found, else the name itself."""
        return self.version or self.name


class Engines(Protocol):
    """What serving needs of the supervisor: starting and ending engine processes."""

    async def prepare(self, model: Model) -> None:
        """Return once the engine of the model's base is ready and its adapter loaded."""
        ...

    async def stop(self, base: str, *, wait_s: float) -> None:
        """End the engine once its rows have; Conflict when they have not within ``wait_s``."""
        ...

    async def unload_adapter(self, model: Model) -> None:
        """Let the engine forget the model's adapter once no row wears it."""
        ...


class Pointers(Protocol):
    """Names that point at one version of an adapter: aliases, and versions themselves."""

    def pointed(self, text: str) -> tuple[Version, Adapter] | None:
        """The version that ``text`` names now; None where it names none, Conflict where it cannot be used."""
        ...


class ServedModels:
    """Load, unload, switch, resolve. The shipped model is served when nothing else is.

    Args:
        pointers: asked once for each request that may name an alias; None where there are none.
        elsewhere: the model of that name that answers at a provider; None where there is none.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        engines: Engines,
        clock: Callable[[], datetime] = utc_now,
        pointers: Pointers | None = None,
        elsewhere: Callable[[str], Model | None] = lambda name: None,
    ) -> None:
        self._database, self._registry, self._engines, self._clock = database, registry, engines, clock
        self._pointers, self._elsewhere = pointers, elsewhere

    def list(self) -> list[Served]:
        """Every served model, in the order they were loaded; the shipped one when none was. One of them is current."""
        return [self._as_far_as_known(each) for each in self._loaded()]

    def current(self) -> Served:
        """The model asked when a request names none.

        Raises:
            Conflict: it is an alias, and the version it points at is gone.
        """
        served = self._loaded()
        return self._followed(next((each for each in served if each.is_current), served[-1]))

    def get(self, name: str) -> Served:
        """The served model of that name, or the version that it points at; a base model or an adapter on disk also
        answers to its own name.

        Raises:
            NotFound: neither served nor on this machine. Invalid: on this machine, but unusable, and why.
            Conflict: the version that the name points at is gone or was replaced.
        """
        found = self._find(name)
        if found is not None:
            return self._followed(found)
        return self._pointed(name) or Served(name, self._elsewhere(name) or self._on_disk(name), False)

    def is_loaded(self, name: str) -> bool:
        """Whether a model is served under exactly that name."""
        return self._find(name) is not None

    def resolve(self, name: str | None) -> Served:
        """The model a request means: the named one, or the current one."""
        return self.get(name) if name else self.current()

    async def load(self, name: str, base: str, adapter: str | None) -> Served:
        """Serve ``base`` with ``adapter`` under ``name`` and have its engine ready; current if no other is.

        Loading a name again replaces it: running answers finish on what they began with.

        Raises:
            Invalid, NotFound, Conflict: the name, the base or the adapter cannot be used, or the name is an alias.
            Unavailable: the engine did not start.
        """
        if not 1 <= len(name) <= 200 or name != name.strip() or UNPRINTABLE.search(name):
            raise Invalid(
                "model_name 应为 1 到 200 个可见字符",
                "model_name must be 1 to 200 printable characters",
                field="model_name",
            )
        model = await asyncio.to_thread(self._loadable, name, base, adapter)
        await self._engines.prepare(model)
        return await asyncio.to_thread(self._record, name, model)

    async def unload(self, name: str, *, wait_s: float = 10.0) -> None:
        """Stop serving ``name``; its engine ends when no other name needs it, and the newest other becomes current.

        Raises:
            NotFound: no model is served under that name.
            Conflict: answers were still being written after ``wait_s``; the model stays.
        """
        served = await asyncio.to_thread(self._served, name)
        others = [other.model for other in await asyncio.to_thread(self.list) if other.name != name]
        if served.model.base not in {other.base for other in others}:
            await self._engines.stop(served.model.base, wait_s=wait_s)
        elif served.model.adapter is not None and served.model not in others:
            await self._engines.unload_adapter(served.model)
        await asyncio.to_thread(self._forget, name)

    def switch(self, name: str) -> Served:
        """Make ``name`` the current model: a served one, or an alias, which is then followed wherever it moves.

        Raises:
            NotFound: no model is served under that name. Conflict: the alias points at what is gone.
        """
        pointed = None if self.is_loaded(name) else self._pointed(name)
        served = self._served(name) if pointed is None else self._record(name, pointed.model)
        with self._database.write() as connection:
            _make_current(connection, name)
        return replace(self._followed(served), is_current=True)

    def tuned(self, base: str | None, adapter: str | None, name: str | None) -> Served:
        """What compare asks: the configured pair; else the current model if it wears an adapter; else the newest
        adapter and its base.

        Args:
            base, adapter, name: FINETUNING_BASE_MODEL, FINETUNING_LORA_PATH and FINETUNING_MODEL_NAME.

        Raises:
            NotFound: the configured base or adapter is missing, or there is no adapter at all.
            Conflict: the adapter does not fit the base.
        """
        if adapter:
            found = self._registry.adapter(adapter)
            return Served(name or found.name, self._checked(base or found.base, found.name), False)
        current = self.resolve(name)
        if current.model.adapter is not None and base in (None, current.model.base):
            return current
        for found in self._registry.adapters():
            if base in (None, found.base):
                return Served(found.name, Model(found.base, found.name), False)
        raise NotFound(
            "没有可用的 LoRA 适配器：请先训练一个，或设置 FINETUNING_LORA_PATH",
            "there is no adapter yet: train one first, or set FINETUNING_LORA_PATH",
        )

    def _loaded(self) -> Sequence[Served]:
        """What is recorded; an alias among it may have moved since."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(served_models).order_by(served_models.c.loaded_at)).all()
        served = [Served(row.name, Model(row.base, row.adapter), row.is_current) for row in rows]
        return served or [Served(SHIPPED, Model(SHIPPED), True)]

    def _find(self, name: str) -> Served | None:
        return next((served for served in self._loaded() if served.name == name), None)

    def _followed(self, served: Served) -> Served:
        """Where its name is an alias, what that points at now."""
        found = self._pointed(served.name) if served.model.adapter is not None else None
        return served if found is None else replace(found, is_current=served.is_current)

    def _as_far_as_known(self, served: Served) -> Served:
        """A list must not fail because one alias points at what is gone; asking for it says why."""
        try:
            return self._followed(served)
        except Problem:
            return served

    def _pointed(self, name: str) -> Served | None:
        # a path is never an alias: most names need no look
        if self._pointers is None or ("/" in name and "@" not in name):
            return None
        found = self._pointers.pointed(name)
        if found is None:
            return None
        version, adapter = found
        try:
            base = self._registry.base(adapter.base)
        except Problem as problem:  # no NotFound: nobody else may answer in its place
            raise Conflict(
                f"{version.ref} 的基座不可用：{problem.zh}",
                f"the base of {version.ref} cannot be used: {problem.en}",
                version=version.ref,
            ) from problem
        return Served(name, Model(base.name, adapter.name), False, version.ref)

    def _loadable(self, name: str, base: str, adapter: str | None) -> Model:
        """As ``_checked``, under a name that points at nothing by itself."""
        if self._pointers is not None and self._pointed(name) is not None:
            raise Conflict(
                f"{_shown(name)} 是别名或版本，无需加载：直接使用它的名称，或切换为当前模型",
                f"{_shown(name)} is an alias or a version and need not be loaded: ask for it by name, or switch to it",
                field="model_name",
            )
        return self._checked(base, adapter)

    def _served(self, name: str) -> Served:
        served = self._find(name)
        if served is None:
            raise NotFound(f"模型未加载：{_shown(name)}", f"no model is loaded under the name {_shown(name)}")
        return served

    def _on_disk(self, name: str) -> Model:
        missing = NotFound(f"模型不存在：{_shown(name)}", f"no model {_shown(name)} is loaded or on this machine")
        try:
            parse_name(name, "model_name")
        except Invalid:
            raise missing from None
        try:
            return Model(self._registry.base(name).name)
        except NotFound:
            pass
        try:
            adapter = self._registry.adapter(name)
        except NotFound:
            raise missing from None
        return self._checked(adapter.base, adapter.name)

    def _checked(self, base: str, adapter: str | None) -> Model:
        """The model of that base and adapter, both there and made for each other."""
        model = Model(self._registry.base(base).name, self._registry.adapter(adapter).name if adapter else None)
        self._registry.check(model)
        return model

    def _record(self, name: str, model: Model) -> Served:
        with self._database.write(alone=POINTING) as connection:
            self._checked(model.base, model.adapter)  # nobody removes it from here on
            current = connection.execute(sa.select(served_models.c.name).where(served_models.c.is_current)).scalar()
            connection.execute(sa.delete(served_models).where(served_models.c.name == name))
            served = Served(name, model, current in (None, name))
            connection.execute(
                sa.insert(served_models).values(
                    name=name,
                    base=model.base,
                    adapter=model.adapter,
                    is_current=served.is_current,
                    loaded_at=self._clock().isoformat(),
                )
            )
        return served

    def _forget(self, name: str) -> None:
        with self._database.write() as connection:
            connection.execute(sa.delete(served_models).where(served_models.c.name == name))
            newest = sa.select(served_models.c.name).order_by(served_models.c.loaded_at.desc()).limit(1)
            current = sa.select(served_models.c.name).where(served_models.c.is_current)
            if connection.execute(current).scalar() is None:
                _make_current(connection, connection.execute(newest).scalar())


def _make_current(connection: sa.Connection, name: str | None) -> None:
    connection.execute(sa.update(served_models).values(is_current=served_models.c.name == name))


def _shown(name: str) -> str:
    """A name from outside, safe to print."""
    return UNPRINTABLE.sub("?", name)[:200]
