"""Users and API keys, uploads beside datasets, what is known of a model, retried submissions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("password", sa.String, nullable=False),  # argon2id, with its parameters and salt
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),  # tokens of an earlier one are void
        sa.Column("created_at", sa.String, nullable=False),
        sa.CheckConstraint("role IN ('admin','member')", name="users_role"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("user_name", sa.String, sa.ForeignKey("users.name"), nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),  # SHA-256 of the secret part, hexadecimal
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("revoked_at", sa.String),
    )
    # an index of what lies on disk: the next start fills it again
    op.drop_table("datasets")
    op.create_table(
        "datasets",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("shape", sa.String, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("skipped", sa.Integer, nullable=False),
        sa.Column("splits", sa.JSON, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False, unique=True),
        sa.Column("format", sa.String, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.UniqueConstraint("owner", "name", name="uploads_name"),
    )
    op.create_table(
        "model_notes",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("description", sa.Text),
        sa.Column("usage_count", sa.Integer, nullable=False),
        sa.Column("last_used", sa.String),
    )
    op.create_table("usage_journals", sa.Column("name", sa.String, primary_key=True))  # those already counted
    op.add_column("runs", sa.Column("updated_at", sa.String))
    op.add_column("runs", sa.Column("idempotency_key", sa.String))
    op.add_column("runs", sa.Column("request_digest", sa.String))
    op.create_index(
        "runs_idempotency_key",
        "runs",
        ["owner", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
