"""Names such as ``prod`` that point at one version of an adapter, and every move they ever made.

Where an alias points is its newest row: one insert moves it, whole or not at all, and the next serial can be taken only
once, so of two who move it at the same time one is told. Servers on one database read it for each request. Removing it
is a move, too: who had decided on what it was before is told, and another of its name begins anew.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import UNPRINTABLE, parse_name
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem
from tunesmith.models.model import Adapter
from tunesmith.models.version_store import Kind, Move, VersionStore
from tunesmith.models.versions import Version, Versions

__all__ = ["Alias", "Aliases", "Kind", "Move"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ID = re.compile(r"model_[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Alias:
    """Where an alias points.

    Attributes:
        serial: of the move that brought it there; the next move must name it.
        owner: who made the alias; they and admins move it.
    """

    name: str
    version: Version
    serial: int
    owner: str
    moved_by: str
    moved_at: datetime


class Aliases:
    """Finds, moves, rolls back and removes aliases. Blocking; share between threads.

    Args:
        taken: whether something else is asked for by that name: a new alias must not take its place.
        served: whether a model is served under that name, as an alias is that was made the current model.
    """

    def __init__(
        self,
        database: Database,
        versions: Versions,
        taken: Callable[[str], bool] = lambda name: False,
        served: Callable[[str], bool] = lambda name: False,
        clock: Clock = utc_now,
    ) -> None:
        self._store, self._versions, self._clock = VersionStore(database), versions, clock
        self._taken, self._served = taken, served

    def list(self) -> list[Alias]:
        """Every alias, by name."""
        owners = self._store.first_movers()  # one that was removed meanwhile has none
        newest = self._store.newest_moves()
        return [_alias(move, version, owners[move.alias]) for move, version in newest if move.alias in owners]

    def find(self, name: str) -> Alias | None:
        """The alias of that name; None where there is none."""
        found = self._store.newest_move(name) if _NAME.fullmatch(name) else None
        owner = None if found is None else self._store.first_movers().get(name)
        return None if found is None or owner is None else _alias(*found, owner)

    def get(self, name: str) -> Alias:
        """The alias of that name.

        Raises:
            NotFound: there is none.
        """
        found = self.find(name)
        if found is None:
            shown = UNPRINTABLE.sub("?", name)[:64]
            raise NotFound(f"没有别名 {shown}", f"there is no alias {shown}", alias=shown)
        return found

    def history(self, name: str) -> Sequence[Move]:
        """Every move of the alias since it was made, the newest first.

        Raises:
            NotFound: there is no such alias.
        """
        self.get(name)
        return list(reversed(self._store.moves(name)))

    def version_named(self, text: str) -> Version | None:
        """The version that ``text`` names now: an alias, or ``town@3``; None where it is neither."""
        if _NAME.fullmatch(text):
            found = self._store.newest_move(text)
            return None if found is None else found[1]
        return self._versions.named(text)

    def pointed(self, text: str) -> tuple[Version, Adapter] | None:
        """The version that an alias or ``town@3`` names now, with its adapter; None where ``text`` is neither.

        Raises:
            Conflict: that version is gone, or its files were replaced.
        """
        version = self.version_named(text)
        return None if version is None else (version, self._versions.usable(version))

    def folder_named(self, text: str) -> str | None:
        """The name under home of the adapter that ``pointed`` finds; raises as it does."""
        found = self.pointed(text)
        return None if found is None else found[1].name

    def movable(self, name: str, caller: Caller) -> Alias | None:
        """The alias, which ``caller`` may move; None where they may make one of that name.

        Raises:
            Invalid: no alias may be called so. Forbidden: it is another's.
            Conflict: the name is of something else.
        """
        alias = self.find(name)
        if alias is None:
            self._check_new(name)
        elif not caller.sees(alias.owner):
            raise Forbidden(
                f"只有别名 {name} 的所有者或管理员可以移动或删除它",
                f"only the owner of the alias {name}, or an admin, moves or removes it",
            )
        return alias

    def move(
        self,
        name: str,
        to: Version,
        *,
        expected: int,
        kind: Kind,
        report: dict[str, Any] | None = None,
        caller: Caller = LOCAL,
    ) -> Alias:
        """Point the alias at ``to``.

        Args:
            expected: the serial the alias had when the move was decided; 0 where there was no such alias.

        Raises:
            Invalid, Forbidden: as ``movable``.
            Conflict: somebody moved it meanwhile, and nothing was changed; or ``to`` is gone or was replaced.
        """
        self.movable(name, caller)
        self._versions.usable(to)  # here already: what is read for it is remembered
        serial = (expected or self._store.last_removal(name)) + 1
        move = Move(name, serial, kind, to.ref, caller.name, self._clock(), report)
        if not self._store.add_move(move, to, still=lambda: self._versions.usable(to)):
            raise self._moved_meanwhile(name)
        return self.get(name)

    def remove(self, name: str, caller: Caller = LOCAL) -> Alias:
        """Let the alias point nowhere; who asks for it is told that there is none.

        Returns:
            Where it pointed.

        Raises:
            NotFound: there is no such alias. Forbidden: it is another's.
            Conflict: it was made the current model, or another served one; or somebody moved it meanwhile.
        """
        alias = self.get(name)
        self.movable(name, caller)
        if self._served(name):
            raise Conflict(
                f"别名 {name} 正作为模型提供服务：请先切换到别的模型，并卸载 {name}",
                f"the alias {name} is served as a model: switch to another and unload {name} first",
                alias=name,
            )
        version = alias.version
        gone = Move(name, alias.serial + 1, Kind.REMOVED, version.ref, caller.name, self._clock())
        if not self._store.add_move(gone, version):
            raise self._moved_meanwhile(name)
        return alias

    def roll_back(self, name: str, caller: Caller = LOCAL) -> Alias:
        """Point the alias at the version it had before; again, at the one before that.

        Raises:
            NotFound: there is no such alias. Forbidden: it is another's.
            Conflict: it has pointed nowhere else; or the version before is gone; or somebody moved it meanwhile.
        """
        moves = self._store.moves(self.get(name).name)
        self.movable(name, caller)
        before = _before(moves)
        if before is None:
            raise Conflict(
                f"别名 {name} 之前没有指向过别的版本，无法回退",
                f"the alias {name} has pointed at nothing before; it cannot be rolled back",
                alias=name,
            )
        version = self._versions.get(before)
        return self.move(name, version, expected=moves[-1].serial, kind=Kind.ROLLED_BACK, caller=caller)

    def _moved_meanwhile(self, name: str) -> Conflict:
        now = self.find(name)
        if now is None:
            return Conflict(
                f"别名 {name} 刚被删除，未作更改",
                f"the alias {name} was removed meanwhile; nothing was done",
                alias=name,
            )
        return Conflict(
            f"别名 {name} 刚被 {now.moved_by} 指向 {now.version.ref}，未移动；请重新比较后再试",
            f"{now.moved_by} pointed {name} at {now.version.ref} meanwhile, and it was left there: compare again",
            alias=name,
            version=now.version.ref,
        )

    def _check_new(self, name: str) -> None:
        try:
            good = _NAME.fullmatch(name) and not _ID.fullmatch(name) and str(parse_name(name, "alias"))
        except Problem:  # "nul", or a dot at its end
            good = None
        if not good:
            raise Invalid(
                f"别名无效：{ascii(name)[:80]}（1 到 63 个小写字母、数字、点、横线与下划线，以字母或数字开头）",
                f"{ascii(name)[:80]} cannot be an alias: 1 to 63 lower-case letters, digits, dots, dashes and "
                "underscores, beginning with a letter or digit",
                field="alias",
            )
        if self._taken(name):
            raise Conflict(
                f"{name} 已是某个模型的名称，不能用作别名", f"{name} is the name of a model already", field="alias"
            )


def _alias(move: Move, version: Version, owner: str) -> Alias:
    return Alias(move.alias, version, move.serial, owner, move.by, move.at)


def _before(moves: Sequence[Move]) -> str | None:
    """Where the alias pointed before it came to where it is; None where there is nothing before."""
    path: list[str] = []
    for move in moves:
        if move.kind is Kind.ROLLED_BACK:
            path.pop()
        else:
            path.append(move.ref)
    return path[-2] if len(path) > 1 else None
