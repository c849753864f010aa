"""The table of runs. A run is changed by compare-and-set only, so no two writers undo each other."""

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.run import Once, Progress, Recipe, Run, State

LIVE = (State.QUEUED, State.RUNNING)

_table = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("executor", sa.String, nullable=False),
    sa.Column("handle", sa.String),
    sa.Column("output", sa.String, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("started_at", sa.String),
    sa.Column("ended_at", sa.String),
    sa.Column("error", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.String),
    sa.Column("idempotency_key", sa.String),
    sa.Column("request_digest", sa.String),
    sa.Column("lease_holder", sa.String),
    sa.Column("lease_until", sa.String),
)


class RunStore:
    """Records of runs; safe from several threads and processes."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def add(self, run: Run, once: Once | None = None) -> None:
        """Record a new run.

        Args:
            once: the request that makes it, kept in the same row: there is never a key without its run.

        Raises:
            Conflict: another run that has not ended writes to the same output; it is named. Or the owner has used
                the key before; ``made_by`` has that run.
        """
        asked = {"idempotency_key": once.key, "request_digest": once.digest} if once else {}
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(_table).values(_row(run) | asked))
        except IntegrityError as error:
            if once is not None and self.made_by(run.owner, once.key) is not None:
                raise key_used(once.key) from error
            other = self._live_with(run.output)
            if other is None:
                raise
            raise Conflict(
                f"任务 {other} 正在写入 {run.output}：请等它结束，或换一个输出位置",
                f"run {other} is writing to {run.output}: wait for it, or choose another output",
                run_id=other,
                field="output",
            ) from error

    def get(self, run_id: str) -> Run:
        """The run of that id.

        Raises:
            NotFound: there is none.
        """
        if UNPRINTABLE.search(run_id):  # no database takes all of these
            raise missing(run_id)
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.id == run_id)).mappings().first()
        if row is None:
            raise missing(run_id)
        return _run(row)

    def made_by(self, owner: str, key: str) -> tuple[Run, str] | None:
        """The run ``owner`` made with that key, and the digest of what was asked; None where the key is new."""
        query = sa.select(_table).where(_table.c.owner == owner, _table.c.idempotency_key == key)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else (_run(row), row["request_digest"])

    def completed(self, *, owner: str | None = None, output: str | None = None, limit: int) -> list[Run]:
        """Completed runs, the last to end first; of any owner and output where None."""
        order = (_table.c.ended_at.desc(), _table.c.id)
        query = sa.select(_table).where(_table.c.state == State.COMPLETED.value).order_by(*order).limit(limit)
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        if output is not None:
            query = query.where(_table.c.output == output)
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def list(
        self,
        *,
        states: Collection[State] | None = None,
        owner: str | None = None,
        limit: int | None = 100,
        oldest_first: bool = False,
    ) -> list[Run]:
        """Runs, the newest first unless asked otherwise.

        Args:
            states: only runs in one of them; None is any.
            limit: at most so many; None is all.
        """
        order = (_table.c.created_at, _table.c.id)
        query = sa.select(_table).order_by(*(order if oldest_first else (column.desc() for column in order)))
        if states is not None:
            query = query.where(_table.c.state.in_([str(state) for state in states]))
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        if limit is not None:
            query = query.limit(limit)
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def save(self, new: Run, *, was: Run) -> Run:
        """Replace ``was`` by ``new`` and give back ``new`` as recorded, with its version and the time.

        Raises:
            Conflict: the record is not ``was`` any more; read it again.
        """
        recorded = replace(new, version=was.version + 1, updated_at=self._clock())
        unchanged = sa.and_(_table.c.id == was.id, _table.c.version == was.version)
        with self._database.write() as connection:
            changed = connection.execute(sa.update(_table).where(unchanged).values(_row(recorded))).rowcount
        if changed != 1:
            raise Conflict(
                f"任务 {was.id} 刚刚已被更新，请重试",
                f"run {was.id} was changed by somebody else just now; try again",
                run_id=was.id,
            )
        return recorded

    def _live_with(self, output: str) -> str | None:
        live = sa.and_(_table.c.output == output, _table.c.state.in_([str(state) for state in LIVE]))
        with self._database.read() as connection:
            found: str | None = connection.execute(sa.select(_table.c.id).where(live)).scalar()
            return found


def missing(run_id: str) -> NotFound:
    """No such run, or none the caller may see: both read the same. The id comes from outside."""
    shown = UNPRINTABLE.sub("?", run_id)[:64]
    return NotFound(f"任务不存在：{shown}", f"there is no run {shown}", run_id=shown)


def key_used(key: str) -> Conflict:
    """The key of one request came with another."""
    return Conflict(
        "此 Idempotency-Key 已用于另一个请求：请为新请求换一个键",
        "this Idempotency-Key was used for another request: choose a new key for a new request",
        field="Idempotency-Key",
        idempotency_key=key,
    )


def _row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "owner": run.owner,
        "state": str(run.state),
        "executor": run.executor,
        "handle": run.handle,
        "output": run.output,
        "recipe": msgspec.to_builtins(run.recipe),
        "progress": msgspec.to_builtins(run.progress),
        "cancel_requested": run.cancel_requested,
        "created_at": run.created_at.isoformat(timespec="microseconds"),  # fixed width: it is sorted as text
        "started_at": run.started_at and run.started_at.isoformat(),
        "ended_at": run.ended_at and run.ended_at.isoformat(timespec="microseconds"),  # this one too
        "updated_at": run.updated_at and run.updated_at.isoformat(),
        # the column holds both languages
        "error": None if run.error is None else json.dumps([run.error, run.error_zh], ensure_ascii=False),
        "version": run.version,
    }


def _run(row: sa.RowMapping) -> Run:
    error, error_zh = json.loads(row["error"]) if row["error"] is not None else (None, None)
    return Run(
        id=row["id"],
        owner=row["owner"],
        state=State(row["state"]),
        executor=row["executor"],
        handle=row["handle"],
        output=row["output"],
        recipe=msgspec.convert(row["recipe"], Recipe),
        progress=msgspec.convert(row["progress"], Progress),
        cancel_requested=row["cancel_requested"],
        created_at=datetime.fromisoformat(row["created_at"]),
        started_at=_time(row["started_at"]),
        ended_at=_time(row["ended_at"]),
        updated_at=_time(row["updated_at"]),
        error=error,
        error_zh=error_zh,
        version=row["version"],
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
