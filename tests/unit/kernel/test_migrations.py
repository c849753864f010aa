"""The migrations make the tables that the stores declare."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import tunesmith.app  # noqa: F401  (every store declares its table)
from tunesmith.kernel import db
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


def test_moves_of_aliases_made_before_they_could_be_removed_are_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'tunesmith.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        connection.execute(sa.text("INSERT INTO adapter_versions VALUES ('town',1,'a','d','f','b',NULL,'2026')"))
        move = "INSERT INTO alias_moves VALUES ('prod',:serial,:kind,'town',1,'amy','2026-01-02','{}')"
        connection.execute(sa.text(move), {"serial": 1, "kind": "promoted"})
    database.migrate()
    with database.write() as connection:
        connection.execute(sa.text(move), {"serial": 2, "kind": "removed"})
        kept = connection.execute(sa.text("SELECT * FROM alias_moves ORDER BY serial")).all()
    assert [tuple(row)[:3] for row in kept] == [("prod", 1, "promoted"), ("prod", 2, "removed")]
    assert tuple(kept[0])[3:] == ("town", 1, "amy", "2026-01-02", "{}")
    for wrong in ({"serial": 3, "kind": "anything"}, {"serial": 2, "kind": "forced"}):
        with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
            connection.execute(sa.text(move), wrong)
    database.close()
