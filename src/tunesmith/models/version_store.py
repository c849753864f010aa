"""The tables of numbered adapters and of the moves of aliases. Rows are added and never change, but for a hint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database, metadata

POINTING = "aliases"  # one at a time: who moves an alias, serves an adapter, or removes what may be asked for
_versions = sa.Table(
    "adapter_versions",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("adapter", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("base", sa.String, nullable=False),
    sa.Column("run_id", sa.String),
    sa.Column("made_at", sa.String, nullable=False),
    sa.UniqueConstraint("adapter", "digest", name="adapter_versions_bytes"),
)
_moves = sa.Table(
    "alias_moves",
    metadata,
    sa.Column("alias", sa.String, primary_key=True),
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("moved_by", sa.String, nullable=False),
    sa.Column("moved_at", sa.String, nullable=False),
    sa.Column("report", sa.Text),
    sa.ForeignKeyConstraint(["name", "number"], ["adapter_versions.name", "adapter_versions.number"]),
)


@dataclass(frozen=True, slots=True)
class Version:
    """One adapter, numbered among those of its name; what it holds never changes.

    Attributes:
        adapter: the folder under home that holds it.
        digest: SHA-256 of its config and weights.
        fingerprint: of its files when it was numbered (``Adapter.version``): equal files need not be read again.
        run_id: the run that made it, where it was made here.
        made_at: when its weights were written.
    """

    name: str
    number: int
    adapter: str
    digest: str
    fingerprint: str
    base: str
    run_id: str | None
    made_at: datetime

    @property
    def ref(self) -> str:
        """What people and requests call it: ``town@3``."""
        return f"{self.name}@{self.number}"


class Kind(StrEnum):
    """Why an alias moved."""

    PROMOTED = "promoted"  # it was compared, and nothing had become worse
    FORCED = "forced"  # somebody said so, whatever a comparison said
    ROLLED_BACK = "rolled_back"  # to where it had pointed before
    REMOVED = "removed"  # it points nowhere from then on; the next move makes another alias of that name


@dataclass(frozen=True, slots=True)
class Move:
    """An alias began to point at a version.

    Attributes:
        serial: its place in the history of the alias, from 1.
        ref: the version it points at from then on; a removed one pointed at it before.
        by: the caller's name.
        report: what the comparison found; see ``evaluation.promotion``. None where nothing was compared.
    """

    alias: str
    serial: int
    kind: Kind
    ref: str
    by: str
    at: datetime
    report: dict[str, Any] | None = None


class VersionStore:
    """Blocking; share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def versions(self, name: str | None = None) -> list[Version]:
        """Those of that name, or all; by name, the newest first."""
        query = sa.select(_versions).order_by(_versions.c.name, _versions.c.number.desc())
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(query if name is None else query.where(_named(name)))]

    def version(self, name: str, number: int) -> Version | None:
        """The version of that name and number, if there is one."""
        query = sa.select(_versions).where(_named(name), _versions.c.number == number)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def of_bytes(self, adapter: str, digest: str) -> Version | None:
        """The version that is that folder with those bytes, if it has been numbered."""
        query = sa.select(_versions).where(_versions.c.adapter == adapter, _versions.c.digest == digest)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def add(self, found: Version) -> Version:
        """Number an adapter next among those of its name; ``found.number`` says nothing.

        Returns:
            The version; another's, where somebody was faster.
        """
        values = {
            "name": found.name,
            "adapter": found.adapter,
            "digest": found.digest,
            "fingerprint": found.fingerprint,
            "base": found.base,
            "run_id": found.run_id,
            "made_at": found.made_at.isoformat(),
        }
        same = sa.select(_versions).where(_versions.c.adapter == found.adapter, _versions.c.digest == found.digest)
        last = sa.select(sa.func.coalesce(sa.func.max(_versions.c.number), 0)).where(_named(found.name))
        with self._database.write(alone="versions") as connection:
            if (known := connection.execute(same).one_or_none()) is not None:
                return _version(known)
            number = int(connection.execute(last).scalar_one()) + 1
            connection.execute(sa.insert(_versions).values(number=number, **values))
        return replace(found, number=number)

    def remember(self, version: Version, fingerprint: str) -> None:
        """The same bytes lie there in other files now, as after a restored backup."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(_versions)
                .where(_named(version.name), _versions.c.number == version.number)
                .values(fingerprint=fingerprint)
            )

    def newest_move(self, alias: str) -> tuple[Move, Version] | None:
        """The last move of the alias with the version it points at; None where there is no such alias."""
        query = _joined().where(_moves.c.alias == alias).order_by(_moves.c.serial.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None or row.kind == Kind.REMOVED else (_move(row), _version(row))

    def last_removal(self, alias: str) -> int:
        """The serial that removed the alias of that name; 0 where none was removed, or another has been made since."""
        query = sa.select(_moves).where(_moves.c.alias == alias).order_by(_moves.c.serial.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return row.serial if row is not None and row.kind == Kind.REMOVED else 0

    def newest_moves(self) -> list[tuple[Move, Version]]:
        """The last move of every alias, by its name."""
        last = sa.select(_moves.c.alias, sa.func.max(_moves.c.serial).label("serial")).group_by(_moves.c.alias)
        newest = last.subquery()
        is_last = sa.and_(_moves.c.alias == newest.c.alias, _moves.c.serial == newest.c.serial)
        query = _joined().join(newest, is_last).where(_moves.c.kind != Kind.REMOVED).order_by(_moves.c.alias)
        with self._database.read() as connection:
            return [(_move(row), _version(row)) for row in connection.execute(query)]

    def first_movers(self) -> dict[str, str]:
        """Who made each alias, or the last one of its name where others were removed."""
        query, removal = _since_removal(sa.select(_moves.c.alias, _moves.c.moved_by))
        with self._database.read() as connection:
            return {row.alias: row.moved_by for row in connection.execute(query.where(_moves.c.serial == removal + 1))}

    def moves(self, alias: str) -> Sequence[Move]:
        """Every move of the alias since it was made, the first first."""
        query, removal = _since_removal(sa.select(_moves))
        query = query.where(_moves.c.alias == alias, _moves.c.serial > removal).order_by(_moves.c.serial)
        with self._database.read() as connection:
            return [_move(row) for row in connection.execute(query)]

    @contextmanager
    def nobody_moves(self) -> Iterator[None]:
        """No alias moves meanwhile, in this process or another."""
        with self._database.write(alone=POINTING):
            yield

    def add_move(self, move: Move, to: Version, still: Callable[[], object] = lambda: None) -> bool:
        """Add the move; False, and nothing is changed, where the alias has moved to that serial already.

        Args:
            still: is called where nobody removes what ``to`` is; what it raises leaves the alias where it was.
        """
        values = {
            "alias": move.alias,
            "serial": move.serial,
            "kind": str(move.kind),
            "name": to.name,
            "number": to.number,
            "moved_by": move.by,
            "moved_at": move.at.isoformat(),
            "report": None if move.report is None else msgspec.json.encode(move.report).decode(),
        }
        try:
            with self._database.write(alone=POINTING) as connection:
                still()
                connection.execute(sa.insert(_moves).values(**values))
        except IntegrityError:
            return False
        return True


def _named(name: str) -> sa.ColumnElement[bool]:
    return _versions.c.name == name


def _joined() -> sa.Select[Any]:
    mine = [column for column in _versions.c if column.name not in ("name", "number")]
    at = sa.and_(_moves.c.name == _versions.c.name, _moves.c.number == _versions.c.number)
    return sa.select(_moves, *mine).join_from(_moves, _versions, at)


def _since_removal(query: sa.Select[Any]) -> tuple[sa.Select[Any], sa.ColumnElement[int]]:
    """``query`` on moves, and the serial at which the last alias of the same name was removed; 0 where none was."""
    last = sa.func.max(_moves.c.serial).label("serial")
    removed = sa.select(_moves.c.alias, last).where(_moves.c.kind == Kind.REMOVED).group_by(_moves.c.alias).subquery()
    joined = query.join_from(_moves, removed, removed.c.alias == _moves.c.alias, isouter=True)
    return joined, sa.func.coalesce(removed.c.serial, 0)


def _version(row: sa.Row[Any]) -> Version:
    made_at = datetime.fromisoformat(row.made_at)
    known = (row.adapter, row.digest, row.fingerprint, row.base, row.run_id)
    return Version(row.name, row.number, *known, made_at)


def _move(row: sa.Row[Any]) -> Move:
    report = None if row.report is None else msgspec.json.decode(row.report)
    at = datetime.fromisoformat(row.moved_at)
    return Move(row.alias, row.serial, Kind(row.kind), f"{row.name}@{row.number}", row.moved_by, at, report)
