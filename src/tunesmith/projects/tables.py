"""The tables of projects. What is in a project goes with it: the database itself removes it, in the same transaction."""

import sqlalchemy as sa

from tunesmith.kernel.db import metadata

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False, index=True),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("description", sa.Text),
)
tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("instruction", sa.Text, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("requirements", sa.Text, nullable=False),
    sa.Column("thinking_instruction", sa.Text),
    sa.Column("input_schema", sa.Text),
    sa.Column("output_schema", sa.Text),
)
task_runs = sa.Table(
    "task_runs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("repaired", sa.Text),
    sa.Column("repair_instructions", sa.Text),
    sa.Column("reasoning", sa.Text),
    sa.Column("chain_of_thought", sa.Text),
    sa.Column("rating", sa.Float),
    sa.Column("rating_type", sa.String),
    sa.Column("tags", sa.Text, nullable=False),  # each between two line breaks, so that one is found by its text
    sa.Column("parent_id", sa.String, index=True),
    sa.Column("trace", sa.Text),
    sa.Column("tools", sa.Text),
    # equal for equal questions, and for equal questions with equal answers: leaks are found without the texts
    sa.Column("asked_digest", sa.String, nullable=False),
    sa.Column("pair_digest", sa.String, nullable=False),
    sa.Index("ix_task_runs_listed", "task_id", "created_at", "id"),
)
dataset_splits = sa.Table(
    "dataset_splits",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("filter", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("parts", sa.Text, nullable=False),
    sa.Column("contents", sa.Text, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("warnings", sa.Text, nullable=False),
)
