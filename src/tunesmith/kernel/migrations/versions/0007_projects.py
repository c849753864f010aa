"""Projects, their tasks, the tasks' runs (examples) and frozen splits of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("description", sa.Text),
    )
    op.create_index("ix_projects_owner", "projects", ["owner"])
    op.create_table(
        "tasks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("requirements", sa.Text, nullable=False),
        sa.Column("thinking_instruction", sa.Text),
        sa.Column("input_schema", sa.Text),
        sa.Column("output_schema", sa.Text),
    )
    op.create_index("ix_tasks_project_id", "tasks", ["project_id"])
    _task_runs()
    op.create_table(
        "dataset_splits",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("task_id", sa.String, sa.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("parts", sa.Text, nullable=False),
        sa.Column("contents", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("warnings", sa.Text, nullable=False),
    )
    op.create_index("ix_dataset_splits_task_id", "dataset_splits", ["task_id"])


def _task_runs() -> None:
    op.create_table(
        "task_runs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("task_id", sa.String, sa.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("repaired", sa.Text),
        sa.Column("repair_instructions", sa.Text),
        sa.Column("reasoning", sa.Text),
        sa.Column("chain_of_thought", sa.Text),
        sa.Column("rating", sa.Float),
        sa.Column("rating_type", sa.String),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("parent_id", sa.String),
        sa.Column("trace", sa.Text),
        sa.Column("tools", sa.Text),
        sa.Column("asked_digest", sa.String, nullable=False),
        sa.Column("pair_digest", sa.String, nullable=False),
    )
    op.create_index("ix_task_runs_parent_id", "task_runs", ["parent_id"])
    op.create_index("ix_task_runs_listed", "task_runs", ["task_id", "created_at", "id"])
