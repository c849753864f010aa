"""The table of runs. A run is changed by compare-and-set only, so no two writers undo each other.

A run that has not ended may be leased: until then its holder alone moves it forward. Taking a lease is one UPDATE that
looks and takes at once; it leaves the version alone, for it is no news of the run.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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


@dataclass(frozen=True, slots=True)
class Lease:
    """Who alone moves a run forward, and until when."""

    holder: str
    until: datetime


class RunStore:
    """Records of runs; safe from several threads and processes."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def add(self, run: Run, once: Once | None = None, beside: Sequence[sa.Insert] = ()) -> None:
        """Record a new run.

        Args:
            once: the request that makes it, kept in the same row: there is never a key without its run.
            beside: what other stores keep of the run, recorded with it or not at all.

        Raises:
            Conflict: another run that has not ended writes to the same output; it is named. Or the owner has used
                the key before; ``made_by`` has that run.
        """
        asked = {"idempotency_key": once.key, "request_digest": once.digest} if once else {}
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(_table).values(_row(run) | asked))
                for other in beside:
                    connection.execute(other)
        except IntegrityError as error:
            if once is not None and self.made_by(run.owner, once.key) is not None:
                raise key_used(once.key) from error
            writing = self._live_with(run.output)
            if writing is None:
                raise
            raise Conflict(
                f"任务 {writing} 正在写入 {run.output}：请等它结束，或换一个输出位置",
                f"run {writing} is writing to {run.output}: wait for it, or choose another output",
                run_id=writing,
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
        among: sa.Select[tuple[str]] | Collection[str] | None = None,
    ) -> list[Run]:
        """Runs, the newest first unless asked otherwise.

        Args:
            states: only runs in one of them; None is any.
            among: only runs of these ids, or of those it selects.
            limit: at most so many; None is all.
        """
        order = (_table.c.created_at, _table.c.id)
        query = sa.select(_table).order_by(*(order if oldest_first else (column.desc() for column in order)))
        if states is not None:
            query = query.where(_table.c.state.in_([str(state) for state in states]))
        if owner is not None:
            query = query.where(_table.c.owner == owner)
        if among is not None:
            query = query.where(_table.c.id.in_(among))
        if limit is not None:
            query = query.limit(limit)
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def leased(self) -> Sequence[tuple[Run, Lease | None]]:
        """Every run that has not ended, the oldest first, with its lease, which may be over."""
        live = _table.c.state.in_([str(state) for state in LIVE])
        query = sa.select(_table).where(live).order_by(_table.c.created_at, _table.c.id)
        with self._database.read() as connection:
            return [(_run(row), _lease(row)) for row in connection.execute(query).mappings()]

    def claim(self, executor: str, lease: Lease, *, now: datetime, room: int) -> Run | None:
        """Lease the oldest queued run of the executor that is free, while fewer than ``room`` of its runs are under way.

        Under way are, in the whole table, those that run and the queued ones that somebody holds.

        Args:
            now: leases that end by then are over.
        """
        others = _table.alias()
        under_way = sa.or_(
            others.c.state == State.RUNNING.value,
            sa.and_(others.c.state == State.QUEUED.value, others.c.lease_until > _stamp(now)),
        )
        busy = (
            sa.select(sa.func.count())
            .where(others.c.executor == executor, others.c.id != _table.c.id, under_way)
            .scalar_subquery()
        )
        free = sa.and_(
            _table.c.state == State.QUEUED.value, _table.c.executor == executor, _free(_table, lease.holder, now)
        )
        candidate = _table.alias()
        oldest = (
            sa.select(candidate.c.id)
            .where(
                candidate.c.state == State.QUEUED.value,
                candidate.c.executor == executor,
                _free(candidate, lease.holder, now),
            )
            .order_by(candidate.c.created_at, candidate.c.id)
            .limit(1)
            .scalar_subquery()
        )
        # ``free`` again: PostgreSQL looks at the row once more when it had to wait for it, and not at the subqueries
        taken = (
            sa.update(_table).where(_table.c.id == oldest, free, busy < room).values(_held(lease)).returning(*_table.c)
        )
        # one at a time: who had waited for a row that another took would come back with nothing, and not with the next
        with self._database.write(alone="runs.leases") as connection:
            row = connection.execute(taken).mappings().first()
            return None if row is None else _run(row)

    def hold(self, executors: Collection[str], lease: Lease, *, now: datetime) -> frozenset[str]:
        """Lease every running run of these executors that nobody else holds; renews the holder's own.

        Returns:
            Ids of all runs that the holder has now.
        """
        free = sa.and_(
            _table.c.state == State.RUNNING.value,
            _table.c.executor.in_(list(executors)),
            _free(_table, lease.holder, now),
        )
        with self._database.write(alone="runs.leases") as connection:
            taken = connection.execute(sa.update(_table).where(free).values(_held(lease)).returning(_table.c.id))
            return frozenset(taken.scalars())

    def release(self, holder: str, run_id: str | None = None) -> None:
        """End the holder's leases, or the one on ``run_id``: others may take these runs at once."""
        whose = _table.c.lease_holder == holder
        if run_id is not None:
            whose = sa.and_(whose, _table.c.id == run_id)
        with self._database.write(alone="runs.leases") as connection:
            connection.execute(sa.update(_table).where(whose).values(_held(None)))

    def save(self, new: Run, *, was: Run, holder: str | None = None) -> Run:
        """Replace ``was`` by ``new`` and give back ``new`` as recorded, with its version and the time.

        Args:
            holder: only while the run is leased to them.

        Raises:
            Conflict: the record is not ``was`` any more; read it again. Or somebody else holds the lease by now.
        """
        recorded = replace(new, version=was.version + 1, updated_at=self._clock())
        unchanged = sa.and_(_table.c.id == was.id, _table.c.version == was.version)
        if holder is not None:
            unchanged = sa.and_(unchanged, _table.c.lease_holder == holder)
        values = _row(recorded) | (_held(None) if recorded.state.final else {})
        with self._database.write() as connection:
            changed = connection.execute(sa.update(_table).where(unchanged).values(values)).rowcount
        if changed != 1:
            raise Conflict(
                f"任务 {was.id} 刚刚已被更新，请重试",
                f"run {was.id} was changed by somebody else just now; try again",
                run_id=was.id,
            )
        return recorded

    def delete(self, run: Run, beside: Sequence[sa.Delete] = ()) -> None:
        """Forget a run that has ended, and with it what other stores keep of it.

        Raises:
            Conflict: it has not ended, or the record is not ``run`` any more.
        """
        ended = _table.c.state.not_in([str(state) for state in LIVE])
        unchanged = sa.and_(_table.c.id == run.id, _table.c.version == run.version, ended)
        with self._database.write() as connection:
            for other in beside:  # these refer to the run
                connection.execute(other)
            if connection.execute(sa.delete(_table).where(unchanged)).rowcount != 1:
                raise Conflict(
                    f"任务 {run.id} 尚未结束，或刚刚已被更新，不能删除",
                    f"run {run.id} has not ended, or was changed just now, and cannot be deleted",
                    run_id=run.id,
                )

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


def _free(table: sa.FromClause, holder: str, now: datetime) -> sa.ColumnElement[bool]:
    """Whether nobody but ``holder`` has a lease that lasts beyond ``now``."""
    return sa.or_(table.c.lease_holder.is_(None), table.c.lease_holder == holder, table.c.lease_until <= _stamp(now))


def _held(lease: Lease | None) -> dict[str, Any]:
    return {"lease_holder": lease and lease.holder, "lease_until": lease and _stamp(lease.until)}


def _lease(row: sa.RowMapping) -> Lease | None:
    if row["lease_holder"] is None or row["lease_until"] is None:
        return None
    return Lease(row["lease_holder"], datetime.fromisoformat(row["lease_until"]))


def _stamp(at: datetime) -> str:
    """Compared as text, so of one zone and width."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


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
