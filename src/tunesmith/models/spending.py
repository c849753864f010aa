"""What answers of upstreams cost: counted by ``UsageJournal``, summed here by day, owner, service and model."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import NamedTuple

import sqlalchemy as sa

from tunesmith.kernel.db import Database, metadata
from tunesmith.models.notes import Journal

_table = sa.Table(
    "spending",
    metadata,
    sa.Column("day", sa.String, primary_key=True),  # UTC
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("service", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("answers", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_usd", sa.Float, nullable=False),
)
_SUMS = ("answers", "prompt_tokens", "completion_tokens", "cost_usd")

# SQLite and PostgreSQL both read it
_ADD = sa.text(
    f"INSERT INTO spending (day, owner, service, model, {', '.join(_SUMS)})"
    f" VALUES (:day, :owner, :service, :model, {', '.join(f':{each}' for each in _SUMS)})"
    " ON CONFLICT (day, owner, service, model)"
    f" DO UPDATE SET {', '.join(f'{each} = spending.{each} + excluded.{each}' for each in _SUMS)}"
)


class _Key(NamedTuple):
    """What is summed up in one row."""

    day: str
    owner: str
    service: str
    model: str


@dataclass(frozen=True, slots=True)
class Spent:
    """One answer of an upstream.

    Attributes:
        owner: the caller's name.
        model: as the upstream names it.
        cost_usd: what the upstream charges for it, where it says so.
    """

    owner: str
    service: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class ModelSpending:
    """What the answers of one model came to.

    Attributes:
        cost_usd: of those that the upstream said the cost of.
    """

    service: str
    model: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class Spending:
    """Sums of what was spent. Blocking; share between threads.

    Args:
        journal: folded before sums are read, so that what is read is true now.
    """

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database, self._journal = database, journal

    def by_model(self, owner: str | None = None, since: date | None = None) -> list[ModelSpending]:
        """Sums by service and model, the dearest first.

        Args:
            owner: whose answers; None is everybody's.
            since: the first day (UTC) that counts; None is all of them.
        """
        self._journal.fold()
        sums = [sa.func.sum(_table.c[each]).label(each) for each in _SUMS]
        query = sa.select(_table.c.service, _table.c.model, *sums).group_by(_table.c.service, _table.c.model)
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        if since is not None:
            query = query.where(_table.c.day >= since.isoformat())
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = [
            # PostgreSQL gives sums of integers as decimals
            ModelSpending(service, model, int(answers), int(asked), int(completed), float(cost))
            for service, model, answers, asked, completed, cost in rows
        ]
        return sorted(found, key=lambda each: (-each.cost_usd, -each.completion_tokens, each.service, each.model))


class SpentByDay:
    """Answers summed up as the table has them, on their way into it."""

    def __init__(self) -> None:
        self._sums: dict[_Key, list[float]] = {}

    def add(self, at: datetime, spent: Spent) -> None:
        """Count an answer that ended at that time."""
        day = at.astimezone(UTC).date().isoformat()
        sums = self._sums.setdefault(_Key(day, spent.owner, spent.service, spent.model), [0, 0, 0, 0.0])
        for index, more in enumerate((1, spent.prompt_tokens, spent.completion_tokens, spent.cost_usd or 0.0)):
            sums[index] += more

    def save(self, connection: sa.Connection) -> None:
        """Add the sums to those in the table; two writers at once do not harm each other."""
        for key in sorted(self._sums):  # in one order: two writers must not wait for each other crosswise
            connection.execute(_ADD, {**key._asdict(), **dict(zip(_SUMS, self._sums[key], strict=True))})
