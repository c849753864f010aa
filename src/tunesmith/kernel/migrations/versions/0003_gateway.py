"""Keys of providers, conversations that are kept, what upstreams cost, pulls of Ollama models."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "provider_keys",
        sa.Column("provider", sa.String, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),  # AES-256-GCM: nonce, ciphertext, tag
        sa.Column("set_by", sa.String, nullable=False),
        sa.Column("set_at", sa.String, nullable=False),
    )
    op.create_table(
        "conversations",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
    )
    op.create_table(
        "conversation_turns",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("conversation", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("context", sa.Text),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("service", sa.String),
        sa.Column("model", sa.String),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"], ["conversations.owner", "conversations.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("state IN ('running','completed','failed','canceled')", name="conversation_turns_state"),
    )
    op.create_table(
        "spending",
        sa.Column("day", sa.String, primary_key=True),  # UTC
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("service", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("answers", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_usd", sa.Float, nullable=False),
    )
    op.create_table(
        "pulls",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),  # Ollama's last word
        sa.Column("completed_bytes", sa.BigInteger, nullable=False),
        sa.Column("total_bytes", sa.BigInteger, nullable=False),
        sa.Column("reason_zh", sa.Text),
        sa.Column("reason_en", sa.Text),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.CheckConstraint("state IN ('running','completed','failed','canceled')", name="pulls_state"),
    )
    op.create_index(
        "pulls_running",
        "pulls",
        ["model"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
