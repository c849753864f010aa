"""Alembic's entry: runs revisions on the connection the migrator already holds."""

from alembic import context

from tunesmith.kernel.db import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
