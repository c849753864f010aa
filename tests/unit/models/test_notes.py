"""What is noted of models beside their files."""

import pytest

from tests.unit.models.conftest import Clock
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model
from tunesmith.models.notes import LONGEST_DESCRIPTION, ModelNotes, Note, Usage
from tunesmith.models.usage import UsageJournal

TOWN = "adapters/town"


@pytest.fixture
def journal(home: Home, database: Database, clock: Clock) -> UsageJournal:
    return UsageJournal(home.usage, database, clock)


@pytest.fixture
def notes(database: Database, journal: UsageJournal) -> ModelNotes:
    return ModelNotes(database, journal)


def test_of_a_model_nobody_described_or_asked_nothing_is_noted(notes: ModelNotes) -> None:
    assert notes.description(TOWN) is None and notes.usage(TOWN) == Usage(0, None)
    assert notes.all() == {}


def test_a_description_is_kept_replaced_and_taken_back(notes: ModelNotes, database: Database) -> None:
    notes.describe(TOWN, "小镇问答\nsecond line")
    assert notes.description(TOWN) == "小镇问答\nsecond line"
    notes.describe(TOWN, "one\r\ntwo\rthree")
    assert ModelNotes(database, UsageJournalless()).description(TOWN) == "one\ntwo\nthree"
    notes.describe(TOWN, " \n ")
    assert notes.description(TOWN) is None


@pytest.mark.parametrize("text", ["x" * (LONGEST_DESCRIPTION + 1), "a\0b", "\x1b[31m", "a\tb", "\u202egnp", "\ud800"])
def test_a_description_too_long_or_not_printable_is_refused_and_the_old_one_stays(notes: ModelNotes, text: str) -> None:
    notes.describe(TOWN, "小" * LONGEST_DESCRIPTION)
    with pytest.raises(Invalid) as refused:
        notes.describe(TOWN, text)
    assert refused.value.details["field"] == "description" and refused.value.zh and refused.value.en
    assert notes.description(TOWN) == "小" * LONGEST_DESCRIPTION


def test_describing_keeps_the_counts_and_counting_keeps_the_description(
    notes: ModelNotes, journal: UsageJournal, clock: Clock
) -> None:
    journal.used(Model("small", TOWN))
    notes.describe(TOWN, "before")
    assert notes.usage(TOWN).count == 1
    notes.describe(TOWN, "after")
    first = clock.now
    clock.pass_(60)
    journal.used(Model("small", TOWN))
    assert notes.all() == {TOWN: Note("after", Usage(2, clock.now))}
    assert first < clock.now


def test_adapters_and_bare_bases_are_counted_by_their_own_names(
    notes: ModelNotes, journal: UsageJournal, clock: Clock
) -> None:
    for model in (Model("small", TOWN), Model("small"), Model("small", TOWN), Model("large", "adapters/other")):
        journal.used(model)
    counts = {name: note.usage.count for name, note in notes.all().items()}
    assert counts == {TOWN: 2, "small": 1, "adapters/other": 1}


class UsageJournalless:
    """Nothing is waiting."""

    def fold(self) -> None: ...
