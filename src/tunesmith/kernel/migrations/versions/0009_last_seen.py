"""When a user last gave their password, and when somebody last came with an API key."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("users", sa.Column("last_login_at", sa.String))
    op.add_column("api_keys", sa.Column("last_used_at", sa.String))
