"""What is known of a model beside its files: what people say of it, and how often it was asked.

Keyed by the name a wire calls the model by: the adapter's for an adapter, the base's for a bare base.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid

LONGEST_DESCRIPTION = 2000  # characters

model_notes = sa.Table(
    "model_notes",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("description", sa.Text),
    sa.Column("usage_count", sa.Integer, nullable=False),
    sa.Column("last_used", sa.String),
)

# SQLite and PostgreSQL both read it
_MAKE = sa.text("INSERT INTO model_notes (name, usage_count) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")


@dataclass(frozen=True, slots=True)
class Usage:
    """How often a model was asked, and when last; None when never."""

    count: int = 0
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """All that is noted of one model; ``Note()`` is what is noted of one nobody asked or described."""

    description: str | None = None
    usage: Usage = Usage()


class Journal(Protocol):
    """Uses that may not be in the database yet."""

    def fold(self) -> None:
        """Move them there."""
        ...


class ModelNotes:
    """Descriptions and use of models. Blocking; share between threads.

    Args:
        journal: folded before use is read, so that what is read is true now.
    """

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database, self._journal = database, journal

    def description(self, name: str) -> str | None:
        """What people say of the model; None where nobody has said anything."""
        return self._note(name).description

    def usage(self, name: str) -> Usage:
        """How often the model was asked until now."""
        self._journal.fold()
        return self._note(name).usage

    def all(self) -> Mapping[str, Note]:
        """Every model of which anything is noted, by name."""
        self._journal.fold()
        with self._database.read() as connection:
            return {row.name: _read(row) for row in connection.execute(sa.select(model_notes))}

    def describe(self, name: str, text: str) -> None:
        """Say ``text`` of the model in place of what was said; blank text says nothing. It need not exist.

        Raises:
            Invalid: more than ``LONGEST_DESCRIPTION`` characters, or one that is not printable; lines may be several.
        """
        said = re.sub("\r\n?", "\n", text)
        if len(said) > LONGEST_DESCRIPTION or UNPRINTABLE.search(said.replace("\n", "")):
            raise Invalid(
                f"description 最多 {LONGEST_DESCRIPTION} 个可见字符，可以换行",
                f"description is up to {LONGEST_DESCRIPTION} printable characters; line breaks are fine",
                field="description",
                limit=LONGEST_DESCRIPTION,
            )
        with self._database.write() as connection:
            put(connection, name, description=said if said.strip() else None)

    def _note(self, name: str) -> Note:
        with self._database.read() as connection:
            row = connection.execute(sa.select(model_notes).where(model_notes.c.name == name)).one_or_none()
        return Note() if row is None else _read(row)


def put(connection: sa.Connection, name: str, **values: object) -> None:
    """Set columns of the model's row, made where there is none; two writers at once do not harm each other."""
    connection.execute(_MAKE, {"name": name})
    connection.execute(sa.update(model_notes).where(model_notes.c.name == name).values(**values))


def _read(row: sa.Row[Any]) -> Note:
    last = None if row.last_used is None else datetime.fromisoformat(row.last_used)
    return Note(row.description, Usage(row.usage_count, last))
