"""Edges of names, reading and publishing that are easy to get wrong."""

import errno
from pathlib import Path

import pytest
import sqlalchemy as sa

from tunesmith.kernel.db import Database
from tunesmith.kernel.files import folder_published_whole
from tunesmith.kernel.home import Home, parse_name
from tunesmith.kernel.problems import Invalid


@pytest.mark.parametrize("text", [".", "./", "./.", ".//."])
def test_home_itself_has_no_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid):
        parse_name(text, "f")
    with pytest.raises(Invalid):
        Home(tmp_path).path(text, "f")


@pytest.mark.parametrize("text", ["a\x9b31m", "a\u202eb", "a\u2028b", "a\u2066b"])
def test_characters_that_forge_terminals_and_lines_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_name(text, "f")


def test_what_is_read_in_one_block_is_one_moment(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    database.migrate()
    query = sa.text("SELECT count(*) FROM served_models")
    with database.read() as reader:
        before = reader.execute(query).scalar_one()
        with database.write() as writer:
            writer.execute(sa.text("INSERT INTO served_models VALUES ('a', 'b', NULL, false, 't')"))
        assert reader.execute(query).scalar_one() == before
    database.close()


def test_a_full_disk_at_the_rename_is_not_called_a_taken_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError) as caught, folder_published_whole(tmp_path / "x") as temporary:
        (temporary / "a").write_text("a")
    assert caught.value.errno == errno.ENOSPC
