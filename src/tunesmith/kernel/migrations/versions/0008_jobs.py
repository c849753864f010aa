"""What the finetune document keeps of a run, and what is known of its job at a provider."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "job_notes",
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
    op.create_table(
        "hosted_jobs",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False, unique=True),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("tried_at", sa.String),  # from then on a job may exist
        sa.Column("training_file", sa.String),
        sa.Column("validation_file", sa.String),
        sa.Column("job_id", sa.String),
        sa.Column("word", sa.String),
        sa.Column("known", sa.Boolean, nullable=False),
        sa.Column("pending", sa.Boolean, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("output_model", sa.String),
        sa.Column("cost", sa.JSON),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("deployment", sa.JSON),
        sa.Column("raw", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
