"""Runs of tasks in the database. Texts are read where they are needed, and few at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.kernel.db import Database
from tunesmith.projects.filters import Filter
from tunesmith.projects.project import TagCounts, TaskRun
from tunesmith.projects.rows import FEW, free_ids, run_of, run_row, tags_of
from tunesmith.projects.tables import task_runs as table

FINE_TUNE = "fine_tune"
_DEEPEST = 200  # runs that one goes on from
_repaired = table.c.repaired.is_not(None)
_rated = sa.or_(
    sa.and_(table.c.rating_type == "five_star", table.c.rating >= 4),
    sa.and_(table.c.rating_type.in_(("pass_fail", "pass_fail_critical")), table.c.rating == 1),
)
# as TaskRun.thinking
_thinks = sa.or_(table.c.reasoning != "", table.c.chain_of_thought.is_not(None))


class Candidate(NamedTuple):
    """A run that a split may take: equal digests are equal questions, and equal questions with equal answers."""

    id: str
    asked: str
    pair: str


@dataclass(frozen=True, slots=True)
class RunStore:
    """Blocking; share between threads and processes."""

    database: Database

    def add(self, run: TaskRun) -> TaskRun | None:
        """Record it under an id of its own; None where its task has gone meanwhile."""
        try:
            with self.database.write() as connection:
                run = replace(run, id=free_ids(connection, table, [run.id])[0])
                connection.execute(sa.insert(table).values(run_row(run)))
                return run
        except IntegrityError:
            return None

    def page(self, task_id: str, wanted: Filter, limit: int, offset: int) -> list[TaskRun]:
        """Runs that pass, the oldest first, parents of others among them."""
        query = sa.select(table).where(table.c.task_id == task_id, *_conditions(wanted))
        query = query.order_by(table.c.created_at, table.c.id).limit(limit).offset(offset)
        with self.database.read() as connection:
            return [run_of(row) for row in connection.execute(query).mappings()]

    def run(self, task_id: str, id: str) -> TaskRun | None:
        """The run of the task with that id."""
        return self.among(task_id, [id]).get(id)

    def among(self, task_id: str, ids: Sequence[str]) -> dict[str, TaskRun]:
        """Those of ``ids`` (a few hundred at most) that are runs of the task, by id."""
        # by the ids alone: asked for the task too, SQLite reads all of its runs
        query = sa.select(table).where(table.c.id.in_(ids))
        with self.database.read() as connection:
            rows = connection.execute(query).mappings()
            return {row["id"]: run_of(row) for row in rows if row["task_id"] == task_id}

    def change(self, task_id: str, id: str, changed: Callable[[TaskRun], TaskRun]) -> TaskRun | None:
        """Record ``changed(run)`` in its place; None where there is no such run. What it raises changes nothing."""
        mine = sa.and_(table.c.task_id == task_id, table.c.id == id)
        with self.database.write() as connection:
            row = connection.execute(sa.select(table).where(mine).with_for_update()).mappings().one_or_none()
            if row is None:
                return None
            run = changed(run_of(row))
            connection.execute(sa.update(table).where(mine).values(run_row(run)))
            return run

    def delete(self, task_id: str, id: str) -> None:
        """Remove it; runs that go on from it begin by themselves then."""
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(table.c.parent_id == id).values(parent_id=None))
            connection.execute(sa.delete(table).where(table.c.task_id == task_id, table.c.id == id))

    def candidates(self, task_id: str, wanted: Filter) -> list[Candidate]:
        """What a split of the filter is made of: no run that another goes on from, and no texts."""
        columns = sa.select(table.c.id, table.c.asked_digest, table.c.pair_digest)
        query = columns.where(table.c.task_id == task_id, _leaf(), *_conditions(wanted))
        with self.database.read() as connection:
            return [Candidate(*row) for row in connection.execute(query)]

    def examples(self, task_id: str, most: int) -> list[TaskRun]:
        """What a prompt shows: repaired runs first, then highly rated ones, the best first."""
        found: list[TaskRun] = []
        order = (table.c.created_at, table.c.id)
        for conditions, ordered in (
            ([_repaired], order),
            ([_rated, ~_repaired], (table.c.rating.desc(), *order)),
        ):
            query = sa.select(table).where(table.c.task_id == task_id, _leaf(), *conditions)
            with self.database.read() as connection:
                rows = connection.execute(query.order_by(*ordered).limit(most - len(found))).mappings()
                found += [run_of(row) for row in rows]
        return found

    def tag_counts(self, task_id: str) -> list[TagCounts]:
        """Tags that begin with ``fine_tune``, by name."""
        thinks, good = _thinks.label("thinks"), sa.or_(_repaired, _rated).label("good")
        worn = sa.func.replace(table.c.tags, f"\n{FINE_TUNE}", "") != table.c.tags
        query = sa.select(table.c.tags, thinks, good).where(table.c.task_id == task_id, _leaf(), worn)
        counts: dict[str, list[int]] = {}
        with self.database.read() as connection:
            for tags, thinking, rated in connection.execute(query):
                for tag in tags_of(tags):
                    if tag.startswith(FINE_TUNE):
                        count = counts.setdefault(tag, [0, 0, 0, 0])
                        for index, counted in enumerate((True, thinking, rated, thinking and rated)):
                            count[index] += bool(counted)
        return [
            TagCounts(
                tag=tag,
                count=all_,
                reasoning_count=thinking,
                high_quality_count=rated,
                reasoning_and_high_quality_count=both,
            )
            for tag, (all_, thinking, rated, both) in sorted(counts.items())
        ]

    def before(self, task_id: str, runs: Sequence[TaskRun]) -> dict[str, list[TaskRun]]:
        """By its id, the runs that each of ``runs`` goes on from, the first first, back to one that has a trace.

        None are looked up for a run that has a trace itself: its earlier turns are in it.
        """
        chains: dict[str, list[TaskRun]] = {run.id: [] for run in runs}
        ends = {run.id: run for run in runs}
        for _ in range(_DEEPEST):
            wanted = {end.parent_id for end in ends.values() if end.parent_id and not end.trace}
            parents = self.among(task_id, sorted(wanted)) if wanted else {}
            ends = {
                id: parents[end.parent_id] for id, end in ends.items() if not end.trace and end.parent_id in parents
            }
            if not ends:
                break
            for id, parent in ends.items():
                chains[id].insert(0, parent)
        return chains


def spool_rows(runs: Iterable[TaskRun], ids: Iterable[str], spool: IO[bytes]) -> None:
    """Write the rows of ``runs``, under these ids, to ``spool`` from its beginning.

    All that takes time is done here, so that whoever else writes waits little for ``insert_spooled``.
    """
    spool.seek(0)
    spool.truncate()
    for run, id in zip(runs, ids, strict=True):
        spool.write(msgspec.json.encode(run_row(replace(run, id=id))) + b"\n")


def insert_spooled(connection: sa.Connection, spool: IO[bytes]) -> None:
    """Record the rows of ``spool``.

    Raises:
        IntegrityError: there is no such task, or somebody has one of the ids.
    """
    spool.seek(0)
    while some := list(islice(spool, FEW)):
        connection.execute(sa.insert(table), [msgspec.json.decode(line) for line in some])


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.rated:
        found.append(sa.or_(_repaired, _rated))
    if wanted.thinking:
        found.append(_thinks)
    # LIKE would take the letters of another case and the caller's wildcards
    found += [sa.func.replace(table.c.tags, f"\n{tag}\n", "") != table.c.tags for tag in wanted.tags]
    return found


def _leaf() -> sa.ColumnElement[bool]:
    """No run goes on from it."""
    child: Any = table.alias("child")
    return ~sa.exists(sa.select(child.c.id).where(child.c.parent_id == table.c.id))
