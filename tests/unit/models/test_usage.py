"""Uses are counted exactly once, and never in the way of an answer."""

import fcntl
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.models.conftest import Clock
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.model import Model
from tunesmith.models.notes import ModelNotes
from tunesmith.models.usage import UsageJournal, usage_journals

TOWN = Model("small", "adapters/town")


@pytest.fixture
def journal(home: Home, database: Database, clock: Clock) -> UsageJournal:
    return UsageJournal(home.usage, database, clock)


@pytest.fixture
def notes(database: Database, journal: UsageJournal) -> ModelNotes:
    return ModelNotes(database, journal)


def writes(database: Database) -> list[str]:
    """Statements that change something, from now on."""
    seen: list[str] = []

    def note(*event: object) -> None:
        if not str(event[2]).startswith(("SELECT", "BEGIN")):
            seen.append(str(event[2]))

    sa.event.listen(database._engine, "before_cursor_execute", note)
    return seen


def journals(home: Home) -> list[Path]:
    return sorted(path for path in home.usage.iterdir() if path.suffix in (".open", ".closed"))


def test_a_use_is_read_back_at_once_and_after_a_restart(
    home: Home, database: Database, notes: ModelNotes, journal: UsageJournal, clock: Clock
) -> None:
    for count in range(1, 4):
        clock.pass_(1)
        journal.used(TOWN)
        assert notes.usage("adapters/town").count == count
        assert notes.usage("adapters/town").last_used == clock.now
    journal.used(TOWN)
    journal.close()
    assert journals(home) == []
    assert ModelNotes(database, UsageJournal(home.usage, database)).usage("adapters/town").count == 4


def test_counting_writes_nothing_to_the_database_and_folding_nothing_changes_nothing(
    database: Database, journal: UsageJournal
) -> None:
    seen = writes(database)
    for _ in range(100):
        journal.used(TOWN)
    assert seen == []
    journal.fold()
    assert seen != []
    seen.clear()
    journal.fold()
    assert seen == []


def test_the_last_use_is_the_latest_whatever_order_journals_are_folded_in(
    home: Home, database: Database, clock: Clock
) -> None:
    late, early = (UsageJournal(home.usage, database, clock) for _ in range(2))
    clock.pass_(0.000001)
    latest = clock.now
    late.used(TOWN)
    late.fold()
    clock.now = latest - timedelta(microseconds=1)  # a clock that was set back
    early.used(TOWN)
    usage = ModelNotes(database, early).usage("adapters/town")
    assert (usage.count, usage.last_used) == (2, latest)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(min_size=1, max_size=40) | st.sampled_from(["a\nb", "\r", '"', "\u2028", "\0", "\ud800", "],[", "\\"])
)
def test_no_name_breaks_a_line(home: Home, database: Database, name: str) -> None:
    journal = UsageJournal(home.usage, database)
    notes = ModelNotes(database, journal)
    kept = name.encode("utf-8", "replace").decode().replace("\0", "?")
    before, after = notes.usage(kept).count, notes.usage("after").count
    journal.used(Model("small", name))
    journal.used(Model("small", "after"))
    assert notes.usage(kept).count == before + 1 + (kept == "after")
    assert notes.usage("after").count == after + 1 + (kept == "after")


def test_a_journal_is_rotated_at_64_kb_and_every_line_is_counted(
    home: Home, notes: ModelNotes, journal: UsageJournal
) -> None:
    long = Model("small", "adapters/" + "x" * 500)
    for _ in range(300):
        journal.used(long)
    sizes = [path.stat().st_size for path in journals(home)]
    assert len(sizes) > 2 and max(sizes) <= 64 * 1024
    assert notes.usage(long.name).count == 300
    assert journals(home) == []


def test_threads_that_count_while_others_fold_lose_nothing(database: Database, home: Home) -> None:
    journal, done = UsageJournal(home.usage, database), threading.Event()
    other = UsageJournal(home.usage, database)

    def count() -> None:
        for _ in range(250):
            journal.used(TOWN)

    def fold() -> None:
        while not done.is_set():
            other.fold()

    counters, folder = [threading.Thread(target=count) for _ in range(4)], threading.Thread(target=fold)
    with capture_logs() as logs:
        for thread in (*counters, folder):
            thread.start()
        for thread in counters:
            thread.join()
        done.set()
        folder.join()
    assert logs == []
    assert ModelNotes(database, journal).usage("adapters/town").count == 1000


def test_a_journal_counted_but_not_removed_is_not_counted_again(
    home: Home, database: Database, notes: ModelNotes, journal: UsageJournal
) -> None:
    """As after kill -9, or a machine that lost power with the removal not yet on its disk."""
    journal.used(TOWN)
    [path] = journals(home)
    line = path.read_bytes()
    journal.fold()
    path.write_bytes(line)
    with database.write() as connection:
        connection.execute(sa.insert(usage_journals).values(name=path.stem))
    assert notes.usage("adapters/town").count == 1
    assert journals(home) == []


def test_names_of_counted_journals_do_not_pile_up(database: Database, journal: UsageJournal) -> None:
    for _ in range(3):
        journal.used(TOWN)
        journal.fold()
    with database.read() as connection:
        assert connection.execute(sa.select(usage_journals)).all() == []


def test_a_line_torn_by_a_crash_and_rubbish_after_a_power_cut_do_not_hide_the_others(
    home: Home, notes: ModelNotes, journal: UsageJournal
) -> None:
    journal.used(TOWN)
    [path] = journals(home)
    line = path.read_bytes()
    path.write_bytes(b"\0" * 70 + b"\n" + line + b"[1]\n\xff\xfe\n" + line + line[:20])
    with capture_logs() as logs:
        assert notes.usage("adapters/town").count == 2
    assert len(logs) == 3


def test_a_journal_whose_writer_was_stopped_in_its_line_waits_for_the_next_fold(
    home: Home, notes: ModelNotes, journal: UsageJournal
) -> None:
    journal.used(TOWN)
    [path] = journals(home)
    with path.open("rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert notes.usage("adapters/town").count == 0
        journal.used(TOWN)  # does not wait for whoever holds it
        assert notes.usage("adapters/town").count == 1
    assert notes.usage("adapters/town").count == 2


def test_a_database_that_cannot_be_written_is_told_and_nothing_is_lost(
    home: Home, tmp_path: Path, database: Database
) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/none/x.db")
    journal = UsageJournal(home.usage, nowhere)
    journal.used(TOWN)
    with capture_logs() as logs:
        journal.fold()
        journal.close()
    assert [each["event"] for each in logs] == ["usage_not_folded"] * 2
    assert ModelNotes(database, UsageJournal(home.usage, database)).usage("adapters/town").count == 1


def test_a_folder_that_cannot_be_written_is_told_once_and_counting_goes_on_when_it_can(
    home: Home, database: Database
) -> None:
    folder = home.root / "gone"
    journal = UsageJournal(folder, database)
    with capture_logs() as logs:
        for _ in range(5):
            journal.used(TOWN)
    assert [each["event"] for each in logs] == ["usage_not_counted"]
    folder.mkdir()
    journal.used(TOWN)
    assert ModelNotes(database, journal).usage("adapters/town").count == 1


_FULL = """
import resource, signal, sys
from pathlib import Path
from structlog.testing import capture_logs
from tests.unit.models.test_usage import TOWN
from tunesmith.kernel.db import Database
from tunesmith.models.usage import UsageJournal

journal = UsageJournal(Path(sys.argv[1]), Database("sqlite://"))
journal.used(TOWN)
[path] = Path(sys.argv[1]).iterdir()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))  # the next line is cut after 10 bytes
with capture_logs() as logs:
    for _ in range(5):
        journal.used(TOWN)
print([each["event"] for each in logs])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
journal.used(TOWN)
"""


def test_a_line_the_full_disk_cuts_fails_no_answer_is_told_once_and_tears_no_later_line(
    home: Home, notes: ModelNotes
) -> None:
    done = subprocess.run([sys.executable, "-c", _FULL, str(home.usage)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "['usage_not_counted']"), done.stderr
    with capture_logs() as logs:
        assert notes.usage("adapters/town").count == 2
    assert logs == []


def test_other_files_in_the_folder_are_left_alone(
    home: Home, notes: ModelNotes, journal: UsageJournal, tmp_path: Path
) -> None:
    (home.usage / "note.txt").write_text("mine")
    (home.usage / "folder.open").mkdir()
    (tmp_path / "target").write_text("secret\n")
    (home.usage / "link.open").symlink_to(tmp_path / "target")
    journal.used(TOWN)
    assert notes.usage("adapters/town").count == 1
    assert (home.usage / "note.txt").read_text() == "mine" and (tmp_path / "target").read_text() == "secret\n"
