"""Taking an adapter off this machine, unless somebody is asked by it."""

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.kernel.db import Database
from tunesmith.kernel.files import sync
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.models.model import Adapter
from tunesmith.models.version_store import VersionStore
from tunesmith.models.versions import Shelf

_REMOVED = ".removed-"


class Removal:
    """Removes adapters. Blocking; share between threads.

    Args:
        served: the models that are served, each with the adapter it wears, by its name under home.
    """

    def __init__(
        self, database: Database, shelf: Shelf, served: Callable[[], Sequence[tuple[str, str | None]]]
    ) -> None:
        self._store, self._shelf, self._served = VersionStore(database), shelf, served

    def remove(self, name: str) -> Adapter:
        """Delete the adapter's folder; its versions keep their numbers.

        An alias that points at a version of it keeps it: what clients ask for by that name must not vanish unsaid.

        Raises:
            NotFound, Invalid: there is none of that name, or it is no adapter.
            Conflict: an alias points at it, or a model is served with it; which, and what to do.
        """
        adapter = self._shelf.adapter(name)
        with self._store.nobody_moves():  # and nothing is written in here: a database may have one writer at a time
            pointing = [move.alias for move, to in self._store.newest_moves() if _within(to.adapter, adapter.name)]
            served = [name for name, worn in self._served() if worn and _within(worn, adapter.name)]
            if pointing:
                raise _pointed_at(adapter.name, pointing)
            if served:
                raise _in_service(adapter.name, served)
            # whole or gone: a folder half deleted might still be an adapter
            gone = adapter.path.with_name(f"{_REMOVED}{secrets.token_hex(6)}-{adapter.path.name[:200]}")
            try:
                adapter.path.rename(gone)
            except FileNotFoundError:
                raise NotFound(
                    f"LoRA 适配器不存在：{adapter.name}", f"no adapter {adapter.name} under the home folder"
                ) from None
            sync(gone.parent)
        _sweep(gone.parent)
        return adapter


def _within(found: str, name: str) -> bool:
    """It is the adapter ``name``, or lies in its folder, as checkpoints do."""
    return found == name or found.startswith(f"{name}/")


def _sweep(folder: Path) -> None:
    """Delete what was removed, now or by a process that was killed before it had deleted all."""
    for rest in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(rest, ignore_errors=True)


def _pointed_at(adapter: str, aliases: Sequence[str]) -> Conflict:
    named, first = ", ".join(aliases), aliases[0]
    return Conflict(
        f"别名 {named} 指向 {adapter}，未删除：请先让它指向别的版本（tunesmith models rollback {first} 或 promote），"
        f"或删除该别名（tunesmith models unalias {first}）",
        f"{adapter} was kept: {named} points at it. Point the alias elsewhere first (tunesmith models rollback {first}, "
        f"or promote), or remove it (tunesmith models unalias {first})",
        adapter=adapter,
        aliases=list(aliases),
    )


def _in_service(adapter: str, names: Sequence[str]) -> Conflict:
    named = ", ".join(names)
    return Conflict(
        f"模型 {named} 正以 {adapter} 提供服务，未删除：请先卸载（POST /models/unload）",
        f"{adapter} was kept: {named} is served with it. Unload that first (POST /models/unload)",
        adapter=adapter,
        served=list(names),
    )
