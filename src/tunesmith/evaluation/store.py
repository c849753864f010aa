"""Evaluations in the database. Every change names the states it may leave, so a final state never changes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from tunesmith.evaluation.evaluation import Evaluation, Failure, State
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.db import Database, metadata
from tunesmith.models.model import Model

_evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
)

_LIVE = (State.QUEUED, State.RUNNING)


class _Request(msgspec.Struct):
    """The "request" column: all that does not change, and how often it was started."""

    model: Model
    metrics: tuple[str, ...]
    sampling: Sampling
    compare: bool
    questions: int
    label: str | None
    attempts: int


class EvaluationStore:
    """Synchronous; call it in a thread from async code."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, evaluation: Evaluation) -> None:
        """Record a new evaluation."""
        with self._database.write() as connection:
            connection.execute(sa.insert(_evaluations).values(_row(evaluation)))

    def find(self, evaluation_id: str) -> Evaluation | None:
        """The evaluation of that id, or None."""
        with self._database.read() as connection:
            return _find(connection, evaluation_id)

    def newest(self, owner: str | None, limit: int) -> list[Evaluation]:
        """Newest first; of one owner, or of all where ``owner`` is None."""
        query = sa.select(_evaluations).order_by(_evaluations.c.created_at.desc(), _evaluations.c.id).limit(limit)
        if owner is not None:
            query = query.where(_evaluations.c.owner == owner)
        with self._database.read() as connection:
            return [_evaluation(row) for row in connection.execute(query)]

    def unfinished(self) -> list[Evaluation]:
        """Queued or running, oldest first."""
        query = (
            sa.select(_evaluations)
            .where(_evaluations.c.state.in_([state.value for state in _LIVE]))
            .order_by(_evaluations.c.created_at)
        )
        with self._database.read() as connection:
            return [_evaluation(row) for row in connection.execute(query)]

    def begin(self, evaluation_id: str) -> bool:
        """Queued to running, one more attempt; False where it is not queued."""
        with self._database.write() as connection:
            found = _find(connection, evaluation_id)
            if found is None:
                return False
            begun = _row(replace(found, state=State.RUNNING, done=0, attempts=found.attempts + 1))
            return _change(connection, evaluation_id, (State.QUEUED,), begun)

    def advance(self, evaluation_id: str, done: int) -> bool:
        """So many rows are done; False where it is not running."""
        with self._database.write() as connection:
            return _change(connection, evaluation_id, (State.RUNNING,), {"done": done})

    def complete(self, evaluation_id: str, result: dict[str, Any], at: datetime) -> bool:
        """Running to completed; False where it is not running."""
        values = {
            "state": State.COMPLETED.value,
            "result": result,
            "done": _evaluations.c.total,
            "ended_at": at.isoformat(),
        }
        with self._database.write() as connection:
            return _change(connection, evaluation_id, (State.RUNNING,), values)

    def fail(self, evaluation_id: str, failure: Failure, at: datetime) -> bool:
        """To failed; False where it had ended."""
        reason = msgspec.json.encode(failure).decode()
        values = {"state": State.FAILED.value, "error": reason, "ended_at": at.isoformat()}
        with self._database.write() as connection:
            return _change(connection, evaluation_id, _LIVE, values)

    def cancel(self, evaluation_id: str, at: datetime) -> bool:
        """To canceled; False where it had ended."""
        with self._database.write() as connection:
            return _change(
                connection, evaluation_id, _LIVE, {"state": State.CANCELED.value, "ended_at": at.isoformat()}
            )

    def requeue(self, evaluation_id: str) -> bool:
        """Back to queued with nothing done; False where it had ended."""
        with self._database.write() as connection:
            return _change(connection, evaluation_id, _LIVE, {"state": State.QUEUED.value, "done": 0})


def _find(connection: sa.Connection, evaluation_id: str) -> Evaluation | None:
    row = connection.execute(sa.select(_evaluations).where(_evaluations.c.id == evaluation_id)).one_or_none()
    return None if row is None else _evaluation(row)


def _change(connection: sa.Connection, evaluation_id: str, leaving: Sequence[State], values: dict[str, Any]) -> bool:
    """Compare and set: only where the evaluation is in one of the states ``leaving``."""
    found = _evaluations.c.id == evaluation_id
    query = (
        sa.update(_evaluations)
        .where(found, _evaluations.c.state.in_([state.value for state in leaving]))
        .values(values)
    )
    return bool(connection.execute(query).rowcount == 1)


def _row(evaluation: Evaluation) -> dict[str, Any]:
    request = _Request(
        evaluation.model,
        evaluation.metrics,
        evaluation.sampling,
        evaluation.compare,
        evaluation.questions,
        evaluation.label,
        evaluation.attempts,
    )
    return {
        "id": evaluation.id,
        "owner": evaluation.owner,
        "state": evaluation.state.value,  # an enum would reach PostgreSQL by its name
        "request": msgspec.to_builtins(request),
        "done": evaluation.done,
        "total": evaluation.total,
        "result": evaluation.result,
        "error": msgspec.json.encode(evaluation.failure).decode() if evaluation.failure else None,
        "created_at": evaluation.created_at.isoformat(),
        "ended_at": evaluation.ended_at.isoformat() if evaluation.ended_at else None,
    }


def _evaluation(row: sa.Row[Any]) -> Evaluation:
    request = msgspec.convert(row.request, _Request)
    return Evaluation(
        id=row.id,
        model=request.model,
        metrics=request.metrics,
        sampling=request.sampling,
        compare=request.compare,
        questions=request.questions,
        total=row.total,
        created_at=datetime.fromisoformat(row.created_at),
        owner=row.owner,
        label=request.label,
        state=State(row.state),
        done=row.done,
        attempts=request.attempts,
        result=row.result,
        failure=msgspec.json.decode(row.error, type=Failure) if row.error else None,
        ended_at=datetime.fromisoformat(row.ended_at) if row.ended_at else None,
    )
