"""The migrations make the tables that the stores declare."""

import sqlalchemy as sa

import tunesmith.app  # noqa: F401  (every store declares its table)
from tunesmith.kernel.db import Database, metadata


def test_the_newest_revision_has_every_column_that_a_store_declares(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()  # once more changes nothing
    with database.read() as connection:
        made = sa.inspect(connection)
        assert len(metadata.tables) >= 8
        for name, table in metadata.tables.items():
            columns = {column["name"]: column["nullable"] for column in made.get_columns(name)}
            primary = set(made.get_pk_constraint(name)["constrained_columns"])
            assert primary == {column.name for column in table.primary_key}, name
            declared = {column.name: column.nullable for column in table.columns}
            assert {key: declared[key] for key in declared if key not in primary} == {
                key: columns[key] for key in columns if key not in primary
            }, name
    database.close()
