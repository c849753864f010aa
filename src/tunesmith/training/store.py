"""The table of runs. A run is changed by compare-and-set only, so no two writers undo each other."""

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.run import Progress, Recipe, Run, State

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
)


class RunStore:
    """Records of runs; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, run: Run) -> None:
        """Record a new run.

        Raises:
            Conflict: another run that has not ended writes to the same output; it is named.
        """
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(_table).values(_row(run)))
        except IntegrityError as error:
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
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.id == run_id)).mappings().first()
        if row is None:
            raise NotFound(f"任务不存在：{run_id}", f"there is no run {run_id}", run_id=run_id)
        return _run(row)

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
        """Replace ``was`` by ``new`` and give back ``new`` as recorded, with its version.

        Raises:
            Conflict: the record is not ``was`` any more; read it again.
        """
        values = {**_row(new), "version": was.version + 1}
        unchanged = sa.and_(_table.c.id == was.id, _table.c.version == was.version)
        with self._database.write() as connection:
            changed = connection.execute(sa.update(_table).where(unchanged).values(values)).rowcount
        if changed != 1:
            raise Conflict(
                f"任务 {was.id} 刚刚已被更新，请重试",
                f"run {was.id} was changed by somebody else just now; try again",
                run_id=was.id,
            )
        return replace(new, version=was.version + 1)

    def _live_with(self, output: str) -> str | None:
        live = sa.and_(_table.c.output == output, _table.c.state.in_([str(state) for state in LIVE]))
        with self._database.read() as connection:
            found: str | None = connection.execute(sa.select(_table.c.id).where(live)).scalar()
            return found


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
        "ended_at": run.ended_at and run.ended_at.isoformat(),
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
        error=error,
        error_zh=error_zh,
        version=row["version"],
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
