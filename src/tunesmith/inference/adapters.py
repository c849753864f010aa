"""Which adapters one engine process has loaded, and who is using them."""

import asyncio
import itertools
import re
import secrets
import time
from dataclasses import dataclass
from typing import Protocol

from tunesmith.kernel.problems import Problem
from tunesmith.models.model import Adapter

_KEPT_UNUSED = 16
_MARK = re.compile(r"@[0-9a-zA-Z.:-]*#[0-9a-f-]+")


def plain(text: str) -> str:
    """``text`` with wire names put back to the names people know."""
    return _MARK.sub("", text)


class AdapterHost(Protocol):
    """What takes adapters in: an engine's client."""

    async def load_adapter(self, wire: str, adapter: Adapter) -> None:
        """Have it ready under the name ``wire``.

        Raises:
            Invalid, Unsupported: the engine refuses it. Conflict: it was trained with another chat template.
            Unavailable: the engine is not answering.
        """
        ...

    async def unload_adapter(self, wire: str) -> None:
        """Forget it.

        Raises:
            Problem: it is not there, or the engine is not answering.
        """
        ...


@dataclass(slots=True, eq=False)
class _Loaded:
    adapter: Adapter
    loading: "asyncio.Task[None]"
    users: int = 0
    unwanted: bool = False  # unloaded when its last user is done
    used_at: float = 0.0


class LoadedAdapters:
    """Loads each version of an adapter once, under a wire name of its own, and unloads what nobody needs.

    Because no wire name is ever used twice, an old version serves the rows that started with it while a new one of the
    same adapter already serves others.
    """

    def __init__(self, host: AdapterHost) -> None:
        self._host = host
        self._loaded: dict[str, _Loaded] = {}  # by wire name
        self._numbers = itertools.count(1)
        self._mark = secrets.token_hex(3)  # an engine that was only joined may know what a former server loaded
        self._tasks: set[asyncio.Task[None]] = set()

    def names(self) -> tuple[str, ...]:
        """Names of the adapters loaded now."""
        return tuple(sorted({entry.adapter.name for entry in self._loaded.values() if entry.loading.done()}))

    async def take(self, adapter: Adapter) -> str:
        """The wire name of this version of ``adapter``, loaded; it stays until given back.

        Raises:
            Invalid, Unsupported: the engine refuses it. Conflict: it was trained with another chat template.
            Unavailable: the engine is not answering.
        """
        wire, entry = self._find(adapter) or self._load(adapter)
        entry.users += 1
        try:
            await asyncio.shield(entry.loading)
        except BaseException as error:
            entry.users -= 1
            if isinstance(error, Problem):
                self._loaded.pop(wire, None)
            raise
        return wire

    def give_back(self, wire: str) -> None:
        """One user fewer."""
        entry = self._loaded.get(wire)
        if entry is None:
            return
        entry.users -= 1
        entry.used_at = time.monotonic()
        self._tidy()

    async def forget(self, name: str) -> None:
        """Unload every version of an adapter: those in use when they are not any more, the others before returning."""
        for entry in self._loaded.values():
            entry.unwanted = entry.unwanted or entry.adapter.name == name or entry.adapter.path.name == name
        await asyncio.gather(*self._tidy())

    def _find(self, adapter: Adapter) -> tuple[str, _Loaded] | None:
        for wire, entry in self._loaded.items():
            if entry.adapter == adapter and not entry.unwanted:
                return wire, entry
        return None

    def _load(self, adapter: Adapter) -> tuple[str, _Loaded]:
        for older in self._loaded.values():
            older.unwanted = older.unwanted or older.adapter.name == adapter.name
        wire = f"{adapter.name}@{adapter.version[:12]}#{self._mark}-{next(self._numbers)}"
        task = asyncio.create_task(self._host.load_adapter(wire, adapter))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._loaded[wire] = _Loaded(adapter, task)
        return wire, self._loaded[wire]

    def _tidy(self) -> list["asyncio.Task[None]"]:
        """Unload what is unwanted and unused, and the longest unused beyond a few."""
        unused = [(wire, entry) for wire, entry in self._loaded.items() if not entry.users and entry.loading.done()]
        unused.sort(key=lambda item: item[1].used_at)
        kept = [item for item in unused if not item[1].unwanted]
        surplus = {wire for wire, _ in kept[: max(0, len(kept) - _KEPT_UNUSED)]}
        tasks = []
        for wire, entry in unused:
            if entry.unwanted or wire in surplus:
                del self._loaded[wire]
                task = asyncio.create_task(self._unload(wire))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                tasks.append(task)
        return tasks

    async def _unload(self, wire: str) -> None:
        try:
            await self._host.unload_adapter(wire)
        except Problem:
            return  # the process is gone, and the adapter with it
