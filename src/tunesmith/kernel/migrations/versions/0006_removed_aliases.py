"""An alias may be removed: a move that points nowhere."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_KINDS = "kind IN ('promoted','forced','rolled_back','removed')"
_COLUMNS = "alias, serial, kind, name, number, moved_by, moved_at, report"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("alias_moves_kind", "alias_moves", type_="check")
        op.create_check_constraint("alias_moves_kind", "alias_moves", _KINDS)
        return
    # SQLite changes no constraint: the table is made anew
    op.rename_table("alias_moves", "alias_moves_before")
    op.create_table(
        "alias_moves",
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("moved_by", sa.String, nullable=False),
        sa.Column("moved_at", sa.String, nullable=False),
        sa.Column("report", sa.Text),
        sa.ForeignKeyConstraint(["name", "number"], ["adapter_versions.name", "adapter_versions.number"]),
        sa.CheckConstraint(_KINDS, name="alias_moves_kind"),
    )
    op.execute(f"INSERT INTO alias_moves ({_COLUMNS}) SELECT {_COLUMNS} FROM alias_moves_before")
    op.drop_table("alias_moves_before")
