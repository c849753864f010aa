"""Which server a run belongs to, and until when."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("runs", sa.Column("lease_holder", sa.String))
    op.add_column("runs", sa.Column("lease_until", sa.String))  # UTC, fixed width
