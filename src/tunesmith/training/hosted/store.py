"""The table of jobs at providers: what was asked for, and what was last told. It is written before anybody is called.

A row is changed by compare-and-set only. Two servers that both think a run is theirs cannot both ask for a job: each
writes down that it will before it does, and one of them is refused.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.training.hosted.provider import Cost, JobEvent, Value
from tunesmith.training.jobs.job import HostedNews

_AT_ONCE = 5000
_table = sa.Table(
    "hosted_jobs",
    metadata,
    sa.Column("run_id", sa.String, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("tag", sa.String, nullable=False, unique=True),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("tried_at", sa.String),
    sa.Column("training_file", sa.String),
    sa.Column("validation_file", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("word", sa.String),
    sa.Column("known", sa.Boolean, nullable=False),
    sa.Column("pending", sa.Boolean, nullable=False),
    sa.Column("message", sa.Text),
    sa.Column("output_model", sa.String),
    sa.Column("cost", sa.JSON(none_as_null=True)),
    sa.Column("tokens", sa.BigInteger),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("deployment", sa.JSON(none_as_null=True)),
    sa.Column("raw", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row.

    Attributes:
        title: what a person called the job.
        parameters: as checked; what is absent is the provider's default.
    """

    run_id: str
    provider: str
    title: str
    parameters: Mapping[str, Value]
    news: HostedNews
    version: int = 0


def tag_of(run_id: str) -> str:
    """What a provider stores with all it makes for the run: 29 characters, two fewer than a validation file's."""
    return f"ts-{run_id[:26].lower()}"


def recorded(run_id: str, provider: str, title: str, parameters: Mapping[str, Value]) -> sa.Insert:
    """The row of a new run, to be inserted in the transaction that records the run."""
    kept = Kept(run_id, provider, title, parameters, HostedNews(tag=tag_of(run_id)))
    asked = {"run_id": run_id, "provider": provider, "tag": kept.news.tag, "title": title, "version": 0}
    return sa.insert(_table).values(**asked, parameters=dict(parameters), deployment=None, **_told(kept.news))


def forgotten(run_id: str) -> sa.Delete:
    """The end of the run's row, in the transaction that deletes the run.

    A row with a deployment, which is paid for, stays and so keeps the run: that fails with an IntegrityError.
    """
    return sa.delete(_table).where(_table.c.run_id == run_id, _table.c.deployment.is_(None))


def batched(ids: Collection[str]) -> Iterator[list[str]]:
    """The ids in lists of so few that every database takes them in one statement."""
    every = list(ids)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]


class HostedStore:
    """Rows of jobs at providers; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, run_id: str, provider: str, title: str, parameters: Mapping[str, Value]) -> Kept:
        """The run's row, made now where there is none."""
        found = self.get(run_id)
        if found is not None:
            return found
        try:
            with self._database.write() as connection:
                connection.execute(recorded(run_id, provider, title, parameters))
        except IntegrityError:
            pass  # somebody else was faster
        found = self.get(run_id)
        assert found is not None
        return found

    def get(self, run_id: str) -> Kept | None:
        """The run's row; None where it has none."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.run_id == run_id)).mappings().first()
        return None if row is None else _kept(row)

    def of(self, run_ids: Collection[str]) -> Mapping[str, HostedNews]:
        """What is known of these runs' jobs, by run; runs without a row are left out."""
        found: dict[str, HostedNews] = {}
        with self._database.read() as connection:
            for some in batched(run_ids):
                rows = connection.execute(sa.select(_table).where(_table.c.run_id.in_(some))).mappings()
                found |= {row["run_id"]: _kept(row).news for row in rows}
        return found

    def deployments(self) -> Mapping[str, Mapping[str, Any]]:
        """What is recorded of deployments, by run; runs without one are left out."""
        rows = sa.select(_table.c.run_id, _table.c.deployment).where(_table.c.deployment.is_not(None))
        with self._database.read() as connection:
            return {row.run_id: row.deployment for row in connection.execute(rows.order_by(_table.c.run_id))}

    def save(self, kept: Kept, news: HostedNews) -> Kept:
        """Replace what is known of ``kept`` by ``news``, but for its deployment; gives back the new row.

        Raises:
            Conflict: somebody else has written meanwhile; read it again.
        """
        if replace(news, trouble=None) == replace(kept.news, trouble=None):
            return kept
        unchanged = sa.and_(_table.c.run_id == kept.run_id, _table.c.version == kept.version)
        change = sa.update(_table).where(unchanged).values(version=kept.version + 1, **_told(news))
        with self._database.write() as connection:
            changed = connection.execute(change).rowcount
        if changed != 1:
            raise Conflict(
                f"任务 {kept.run_id} 刚刚已被更新，请重试",
                f"what is known of run {kept.run_id} was changed by somebody else just now; try again",
                run_id=kept.run_id,
            )
        return replace(kept, news=news, version=kept.version + 1)

    def deployed(self, run_id: str, deployment: Mapping[str, Any] | None) -> None:
        """Record the tuned model's deployment, or that it has none; nothing else of the row is touched.

        Raises:
            NotFound: the run was deleted; there is nowhere to record a deployment, so there must be none.
        """
        change = sa.update(_table).where(_table.c.run_id == run_id)
        with self._database.write() as connection:
            change = change.values(deployment=None if deployment is None else dict(deployment))
            changed = connection.execute(change).rowcount
        if changed != 1 and deployment is not None:
            raise NotFound(f"任务不存在：{run_id}", f"there is no run {run_id}", run_id=run_id)


def _told(news: HostedNews) -> dict[str, Any]:
    return {
        "tried_at": news.tried_at and news.tried_at.isoformat(timespec="microseconds"),
        "training_file": news.training_file,
        "validation_file": news.validation_file,
        "job_id": news.job_id,
        "word": news.word,
        "known": news.known,
        "pending": news.pending,
        "message": news.message,
        "output_model": news.output_model,
        "cost": None if news.cost is None else msgspec.to_builtins(news.cost),
        "tokens": news.tokens,
        "events": msgspec.to_builtins(news.events),
        "raw": dict(news.raw),
    }


def _kept(row: sa.RowMapping) -> Kept:
    news = HostedNews(
        tag=row["tag"],
        tried_at=None if row["tried_at"] is None else datetime.fromisoformat(row["tried_at"]),
        training_file=row["training_file"],
        validation_file=row["validation_file"],
        job_id=row["job_id"],
        word=row["word"],
        known=row["known"],
        pending=row["pending"],
        message=row["message"],
        output_model=row["output_model"],
        cost=None if row["cost"] is None else msgspec.convert(row["cost"], Cost),
        tokens=row["tokens"],
        events=msgspec.convert(row["events"], tuple[JobEvent, ...]),
        deployment=row["deployment"],
        raw=row["raw"],
    )
    return Kept(row["run_id"], row["provider"], row["title"], row["parameters"], news, row["version"])
