"""The table of pulls. Every change names the state it may leave, so a final state never changes."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import NotFound, Problem, Unavailable

_table = sa.Table(
    "pulls",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("completed_bytes", sa.BigInteger, nullable=False),
    sa.Column("total_bytes", sa.BigInteger, nullable=False),
    sa.Column("reason_zh", sa.Text),
    sa.Column("reason_en", sa.Text),
    sa.Column("asked_by", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("updated_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
)


class PullState(StrEnum):
    """Where a pull stands. All but the first are final: nothing leaves them."""

    RUNNING = "running"
    COMPLETED = "completed"  # Ollama has the model
    FAILED = "failed"  # ``failure`` says why
    CANCELED = "canceled"  # because somebody asked; Ollama keeps the parts it has

    @property
    def final(self) -> bool:
        return self is not PullState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """The record of one pull.

    Attributes:
        status: Ollama's last word; empty before the first.
        completed_bytes, total_bytes: over the layers seen so far; 0 until the first is known.
        failure: only when failed. The record keeps its words only: read back by another server it is Unavailable.
        asked_by: who began it.
    """

    id: str
    model: str
    asked_by: str
    created_at: datetime
    updated_at: datetime
    state: PullState = PullState.RUNNING
    status: str = ""
    completed_bytes: int = 0
    total_bytes: int = 0
    failure: Problem | None = None
    ended_at: datetime | None = None

    @property
    def fraction(self) -> float:
        """How much of it is there, in [0, 1]."""
        if self.state is PullState.COMPLETED:
            return 1.0
        return min(1.0, self.completed_bytes / self.total_bytes) if self.total_bytes else 0.0


class PullStore:
    """Records of pulls; safe from several threads and processes. Synchronous."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def begin(self, model: str, asked_by: str) -> tuple[Pull, bool]:
        """The pull that runs for ``model`` and False, or a new one and True."""
        now = self._clock()
        new = Pull(id=str(uuid.uuid4()), model=model, asked_by=asked_by, created_at=now, updated_at=now)
        running = sa.select(_table).where(_table.c.model == model, _table.c.state == PullState.RUNNING.value)
        for last in (False, False, True):
            try:
                with self._database.write() as connection:
                    found = connection.execute(running).one_or_none()
                    if found is not None:
                        return _pull(found), False
                    connection.execute(sa.insert(_table).values(_row(new)))
                return new, True
            except IntegrityError:  # PostgreSQL: another server began it between our look and our write
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def get(self, pull_id: str) -> Pull:
        """The pull of that id.

        Raises:
            NotFound: there is none.
        """
        if UNPRINTABLE.search(pull_id):  # no database takes all of these
            raise _missing(pull_id)
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.id == pull_id)).one_or_none()
        if row is None:
            raise _missing(pull_id)
        return _pull(row)

    def newest(self, limit: int) -> Sequence[Pull]:
        """The last begun first, at most ``limit``."""
        query = sa.select(_table).order_by(_table.c.created_at.desc(), _table.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_pull(row) for row in connection.execute(query)]

    def running(self) -> Sequence[Pull]:
        """All that run, the first begun first."""
        query = sa.select(_table).where(_table.c.state == PullState.RUNNING.value)
        with self._database.read() as connection:
            return [_pull(row) for row in connection.execute(query.order_by(_table.c.created_at, _table.c.id))]

    def advance(self, pull: Pull) -> bool:
        """Record how far it is, and that somebody is at it; False where it does not run any more."""
        return self._change(pull.id, _progress(pull))

    def end(
        self, pull_id: str, state: PullState, *, reached: Pull | None = None, problem: Problem | None = None
    ) -> bool:
        """From running to a final state; False where it had ended.

        Args:
            reached: how far it was; None leaves what is recorded.
            problem: why it failed.
        """
        values: dict[str, Any] = {"state": state.value, "ended_at": _text(self._clock())}
        if reached is not None:
            values |= _progress(reached)
        if problem is not None:
            values |= {
                "reason_zh": UNPRINTABLE.sub(" ", problem.zh),
                "reason_en": UNPRINTABLE.sub(" ", problem.en),
            }
        return self._change(pull_id, values)

    def _change(self, pull_id: str, values: dict[str, Any]) -> bool:
        if UNPRINTABLE.search(pull_id):
            return False
        runs = sa.and_(_table.c.id == pull_id, _table.c.state == PullState.RUNNING.value)
        query = sa.update(_table).where(runs).values(values | {"updated_at": _text(self._clock())})
        with self._database.write() as connection:
            return bool(connection.execute(query).rowcount == 1)


def _missing(pull_id: str) -> NotFound:
    shown = UNPRINTABLE.sub("?", pull_id)[:64]
    return NotFound(f"拉取任务不存在：{shown}", f"there is no pull {shown}", pull_id=shown)


def _progress(pull: Pull) -> dict[str, Any]:
    return {"status": pull.status, "completed_bytes": pull.completed_bytes, "total_bytes": pull.total_bytes}


def _row(pull: Pull) -> dict[str, Any]:
    return _progress(pull) | {
        "id": pull.id,
        "model": pull.model,
        "state": pull.state.value,  # an enum would reach PostgreSQL by its name
        "asked_by": pull.asked_by,
        "created_at": _text(pull.created_at),
        "updated_at": _text(pull.updated_at),
    }


def _pull(row: sa.Row[Any]) -> Pull:
    failed = row.state == PullState.FAILED.value
    return Pull(
        id=row.id,
        model=row.model,
        asked_by=row.asked_by,
        created_at=datetime.fromisoformat(row.created_at),
        updated_at=datetime.fromisoformat(row.updated_at),
        state=PullState(row.state),
        status=row.status,
        completed_bytes=row.completed_bytes,
        total_bytes=row.total_bytes,
        failure=Unavailable(row.reason_zh or "", row.reason_en or "") if failed else None,
        ended_at=datetime.fromisoformat(row.ended_at) if row.ended_at else None,
    )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")  # fixed width: it is sorted as text
