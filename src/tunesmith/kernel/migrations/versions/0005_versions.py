"""Numbered versions of adapters, and every move of the aliases that point at them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "adapter_versions",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1
        sa.Column("adapter", sa.String, nullable=False),  # its folder under home
        sa.Column("digest", sa.String, nullable=False),  # SHA-256 of config and weights
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("run_id", sa.String),
        sa.Column("made_at", sa.String, nullable=False),
        sa.UniqueConstraint("adapter", "digest", name="adapter_versions_bytes"),
    )
    # the newest row of an alias is where it points: one insert moves it and keeps its history
    op.create_table(
        "alias_moves",
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),  # from 1, without a gap
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("moved_by", sa.String, nullable=False),
        sa.Column("moved_at", sa.String, nullable=False),
        sa.Column("report", sa.Text),
        sa.ForeignKeyConstraint(["name", "number"], ["adapter_versions.name", "adapter_versions.number"]),
        sa.CheckConstraint("kind IN ('promoted','forced','rolled_back')", name="alias_moves_kind"),
    )
