"""Runs, datasets, evaluations and served models."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
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
        sa.CheckConstraint("state IN ('queued','running','completed','failed','canceled')", name="runs_state"),
        sa.CheckConstraint("(error IS NOT NULL) = (state = 'failed')", name="runs_error_only_when_failed"),
    )
    op.create_index("runs_by_state", "runs", ["state", "created_at"])
    # two live runs never write to one place
    op.create_index(
        "runs_live_output",
        "runs",
        ["output"],
        unique=True,
        sqlite_where=sa.text("state IN ('queued','running')"),
        postgresql_where=sa.text("state IN ('queued','running')"),
    )
    op.create_table(
        "datasets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("shape", sa.String, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("skipped", sa.Integer, nullable=False),
        sa.Column("splits", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.CheckConstraint("state IN ('queued','running','completed','failed','canceled')", name="evaluations_state"),
    )
    op.create_table(
        "served_models",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("adapter", sa.String),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("loaded_at", sa.String, nullable=False),
    )
