"""The table of what the finetune document keeps of a run; a run made in another dialect has no row."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunesmith.datasets.export.sample import Strategy
from tunesmith.kernel.db import Database, metadata
from tunesmith.training.hosted.store import batched
from tunesmith.training.jobs.job import LOCAL, JobNotes
from tunesmith.training.run import Run

_table = sa.Table(
    "job_notes",
    metadata,
    sa.Column("run_id", sa.String, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("strategy", sa.String, nullable=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("project_id", sa.String, index=True),
    sa.Column("task_id", sa.String),
    sa.Column("dataset_path", sa.String),
    sa.Column("split_id", sa.String),
    sa.Column("train_split", sa.String, nullable=False),
    sa.Column("validation_split", sa.String),
    sa.Column("system_message", sa.Text),
    sa.Column("thinking_instructions", sa.Text),
    sa.Column("properties", sa.JSON, nullable=False),
)


def recorded(notes: JobNotes) -> sa.Insert:
    """The row of a new run, to be inserted in the transaction that records the run."""
    kept: dict[str, object] = {column.name: getattr(notes, column.name) for column in _table.columns}
    as_stored = {
        "strategy": str(notes.strategy),
        "parameters": dict(notes.parameters),
        "properties": dict(notes.properties),
    }
    return sa.insert(_table).values(**kept | as_stored)


def forgotten(run_id: str) -> sa.Delete:
    """The end of the run's row, in the transaction that deletes the run."""
    return sa.delete(_table).where(_table.c.run_id == run_id)


def belonging(project_id: str | None, task_id: str | None) -> "sa.Select[tuple[str]]":
    """Selects ids of the runs of a project and task; of any where None."""
    query = sa.select(_table.c.run_id)
    if project_id is not None:
        query = query.where(_table.c.project_id == project_id)
    return query if task_id is None else query.where(_table.c.task_id == task_id)


def derived(run: Run) -> JobNotes:
    """What the document says of a run that was made elsewhere, in its own words."""
    recipe = run.recipe
    return JobNotes(
        run_id=run.id,
        name=run.output.rpartition("/")[2] or run.output,
        provider=LOCAL if run.executor == "local" else run.executor,
        model=recipe.base_model,
        strategy=Strategy.FINAL_ONLY,
        parameters={
            "learning_rate": recipe.learning_rate,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "lora_rank": recipe.rank,
            "lora_alpha": recipe.alpha,
            "lora_dropout": recipe.dropout,
            "warmup_ratio": recipe.warmup_ratio,
        },
        dataset_path=recipe.dataset,
        validation_split=None,
    )


class JobStore:
    """Rows of what is said of runs; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, runs: Collection[Run]) -> Mapping[str, JobNotes]:
        """What is said of these runs, by id; what their recipes tell where they have no row."""
        kept: dict[str, JobNotes] = {}
        with self._database.read() as connection:
            for some in batched([run.id for run in runs]):
                rows = connection.execute(sa.select(_table).where(_table.c.run_id.in_(some))).mappings()
                kept |= {row["run_id"]: _notes(row) for row in rows}
        return {run.id: kept.get(run.id) or derived(run) for run in runs}

    def edit(self, run: Run, changes: Mapping[str, str | None]) -> JobNotes:
        """Change name or description; a run without a row gets one."""
        change = sa.update(_table).where(_table.c.run_id == run.id).values(**changes)
        with self._database.write() as connection:
            changed = connection.execute(change).rowcount
        if not changed:
            try:
                with self._database.write() as connection:
                    connection.execute(recorded(replace(derived(run), **changes)))  # type: ignore[arg-type]
            except IntegrityError:
                with self._database.write() as connection:  # somebody else was faster
                    connection.execute(change)
        return self.of([run])[run.id]


def _notes(row: sa.RowMapping) -> JobNotes:
    return JobNotes(**{**row, "strategy": Strategy(row["strategy"])})
