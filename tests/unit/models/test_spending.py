"""What upstreams charge is counted exactly once, beside the use of models and as safely."""

import math
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tests.unit.models.conftest import Clock
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.models.model import Model
from tunesmith.models.notes import ModelNotes
from tunesmith.models.spending import ModelSpending, Spending, Spent
from tunesmith.models.usage import UsageJournal, usage_journals

MISTRAL, HAIKU = "mistralai/mistral-7b-instruct", "anthropic/claude-3-haiku"
ANSWER = Spent("ada", "openrouter", MISTRAL, 10, 20, 0.25)


@pytest.fixture
def journal(home: Home, database: Database, clock: Clock) -> UsageJournal:
    return UsageJournal(home.usage, database, clock)


@pytest.fixture
def spending(database: Database, journal: UsageJournal) -> Spending:
    return Spending(database, journal)


def journals(home: Home) -> list[Path]:
    return sorted(path for path in home.usage.iterdir() if path.suffix in (".open", ".closed"))


def test_what_was_spent_is_read_back_at_once_and_after_a_restart(
    home: Home, database: Database, journal: UsageJournal, spending: Spending
) -> None:
    assert spending.by_model() == []
    for count in range(1, 4):
        journal.spent(ANSWER)
        assert spending.by_model() == [
            ModelSpending("openrouter", MISTRAL, count, 10 * count, 20 * count, 0.25 * count)
        ]
    journal.spent(ANSWER)
    journal.close()
    assert journals(home) == []
    [kept] = Spending(database, UsageJournal(home.usage, database)).by_model()
    assert (kept.answers, kept.cost_usd) == (4, 1.0)


def test_counting_writes_nothing_to_the_database_until_somebody_looks(
    database: Database, journal: UsageJournal, spending: Spending
) -> None:
    seen: list[str] = []
    sa.event.listen(database._engine, "before_cursor_execute", lambda *event: seen.append(str(event[2])))
    for _ in range(100):
        journal.spent(ANSWER)
    assert seen == []
    assert spending.by_model()[0].answers == 100
    assert sum(statement.startswith("INSERT INTO spending") for statement in seen) == 1


def test_sums_are_by_service_and_model_the_dearest_first(journal: UsageJournal, spending: Spending) -> None:
    for owner, service, model, cost in [
        ("ada", "openrouter", MISTRAL, 0.25),
        ("eve", "openrouter", MISTRAL, 0.5),
        ("ada", "openrouter", HAIKU, 2.0),
        ("ada", "ollama", MISTRAL, None),
        ("eve", "ollama", MISTRAL, 0.0),
    ]:
        journal.spent(Spent(owner, service, model, 1, 2, cost))
    assert spending.by_model() == [
        ModelSpending("openrouter", HAIKU, 1, 1, 2, 2.0),
        ModelSpending("openrouter", MISTRAL, 2, 2, 4, 0.75),
        ModelSpending("ollama", MISTRAL, 2, 2, 4, 0.0),
    ]
    assert spending.by_model("eve") == [
        ModelSpending("openrouter", MISTRAL, 1, 1, 2, 0.5),
        ModelSpending("ollama", MISTRAL, 1, 1, 2, 0.0),
    ]
    assert spending.by_model("nobody") == []


def test_an_answer_counts_on_the_day_it_ended_in_utc_whenever_it_is_folded(
    home: Home, database: Database, clock: Clock, spending: Spending
) -> None:
    shanghai = UsageJournal(home.usage, database, lambda: clock.now.astimezone(timezone(timedelta(hours=8))))
    clock.now = datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)
    shanghai.spent(ANSWER)
    clock.pass_(1)
    shanghai.spent(ANSWER)
    clock.pass_(48 * 3600)
    since = {day: sum(each.answers for each in spending.by_model(since=date(2026, 1, day))) for day in (1, 2, 3, 4)}
    assert since == {1: 2, 2: 2, 3: 1, 4: 0}


def test_uses_and_spending_of_one_journal_are_both_counted(
    home: Home, database: Database, journal: UsageJournal, spending: Spending
) -> None:
    journal.used(Model("small"))
    journal.spent(ANSWER)
    journal.used(Model("small"))
    assert len(journals(home)) == 1
    assert spending.by_model()[0].answers == 1
    assert ModelNotes(database, journal).usage("small").count == 2


def test_a_journal_of_before_there_was_spending_still_counts(
    home: Home, database: Database, journal: UsageJournal, spending: Spending
) -> None:
    old = b'["2026-01-02T03:04:05.000000+00:00","adapters/town"]\n'
    (home.usage / "1-2-abc.closed").write_bytes(old * 3)
    assert spending.by_model() == []
    assert ModelNotes(database, journal).usage("adapters/town").count == 3
    assert journals(home) == []


def test_a_journal_counted_but_not_removed_is_not_counted_again(
    home: Home, database: Database, journal: UsageJournal, spending: Spending
) -> None:
    """As after kill -9, or a machine that lost power with the removal not yet on its disk."""
    journal.spent(ANSWER)
    [path] = journals(home)
    line = path.read_bytes()
    journal.fold()
    path.write_bytes(line)
    with database.write() as connection:
        connection.execute(sa.insert(usage_journals).values(name=path.stem))
    assert spending.by_model()[0].answers == 1
    assert journals(home) == []


def test_lines_torn_or_unreadable_do_not_hide_the_others(home: Home, journal: UsageJournal, spending: Spending) -> None:
    journal.spent(ANSWER)
    [path] = journals(home)
    line = path.read_bytes()
    path.write_bytes(
        b"{}\n" + line + b'{"at":"yesterday","spent":{}}\n' + line.replace(b"10", b'"x"') + line + line[:30]
    )
    with capture_logs() as logs:
        assert spending.by_model()[0].answers == 2
    assert len(logs) == 3


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ((-5, -1, -0.5), (0, 0, 0.0)),
        ((10**30, 10**30, 1e300), (10**9, 10**9, 1e6)),
        ((1, 2, math.nan), (1, 2, 0.0)),
        ((1, 2, math.inf), (1, 2, 0.0)),
        ((1, 2, -math.inf), (1, 2, 0.0)),
        ((1, 2, None), (1, 2, 0.0)),
        ((0, 0, 1e-9), (0, 0, 1e-9)),
    ],
)
def test_numbers_that_no_answer_can_have_are_never_in_the_way_of_others(
    journal: UsageJournal, spending: Spending, told: tuple[int, int, float], counted: tuple[int, int, float]
) -> None:
    journal.spent(Spent("ada", "openrouter", HAIKU, *told))
    journal.spent(ANSWER)
    with capture_logs() as logs:
        found = {each.model: each for each in spending.by_model()}
    assert logs == []
    assert found[HAIKU] == ModelSpending("openrouter", HAIKU, 1, *counted)
    assert found[MISTRAL].answers == 1


@pytest.mark.parametrize("name", ["a\nb", "\r", '"', "\u2028", "\0", "\ud800", "},{", "\\", "模型", "m" * 100_000])
def test_no_name_breaks_a_line(journal: UsageJournal, spending: Spending, name: str) -> None:
    journal.spent(Spent(name, name, name, 1, 2, 0.5))
    journal.spent(ANSWER)
    kept = name.replace("\0", "?").replace("\ud800", "?")[:200]
    assert spending.by_model(kept) == [ModelSpending(kept, kept, 1, 1, 2, 0.5)]
    assert spending.by_model("ada")[0].answers == 1


def test_threads_that_count_while_another_process_folds_lose_and_double_nothing(
    home: Home, database: Database, journal: UsageJournal, spending: Spending
) -> None:
    other, done = UsageJournal(home.usage, database), threading.Event()

    def count() -> None:
        for _ in range(100):
            journal.spent(ANSWER)

    def fold() -> None:
        while not done.is_set():
            other.fold()

    counters, folder = [threading.Thread(target=count) for _ in range(3)], threading.Thread(target=fold)
    for thread in (*counters, folder):
        thread.start()
    for thread in counters:
        thread.join()
    done.set()
    folder.join()
    assert spending.by_model() == [ModelSpending("openrouter", MISTRAL, 300, 3000, 6000, 75.0)]


def test_a_folder_that_cannot_be_written_fails_no_answer_and_is_told_once(home: Home, database: Database) -> None:
    journal = UsageJournal(home.root / "gone", database)
    with capture_logs() as logs:
        for _ in range(3):
            journal.spent(ANSWER)
    assert [each["event"] for each in logs] == ["usage_not_counted"]


_KILLED = """
import sys
from pathlib import Path
from tests.unit.models.killing import killed_before
from tunesmith.kernel import db, files
from tunesmith.kernel.home import Home
from tunesmith.models import spending, usage

home = Home(Path(sys.argv[1]))
database = db.Database(f"sqlite:///{home.root / 'tunesmith.db'}")
told = home.root / "told"

def count(model):
    journal = usage.UsageJournal(home.usage, database)
    for _ in range(2):
        journal.spent(spending.Spent("ada", "openrouter", model, 1, 10, 0.5))
        with told.open("ab", 0) as file:
            file.write(b".")
    journal.close()

def check(model, fewest, most):
    reader = spending.Spending(database, usage.UsageJournal(home.usage, database))
    for _ in range(2):
        [found] = [each for each in reader.by_model() if each.model == model] or [None]
        answers = found.answers if found else 0
        assert fewest <= answers <= most, (model, fewest, answers, most)
        if found:
            assert (found.prompt_tokens, found.completion_tokens, found.cost_usd) == (answers, answers * 10, answers / 2)
    database.close()  # no fork takes a connection along

line = -1
count("warm")  # what only the first does is done
check("warm", 2, 2)
line = 0
traced = {usage.__file__, spending.__file__, db.__file__, files.__file__}
while True:
    told.write_bytes(b"")
    killed = killed_before(line, traced, lambda: count(str(line)))
    acknowledged = told.stat().st_size
    check(str(line), acknowledged, acknowledged + killed)
    if not killed:
        break
    line += 1
print(line)
"""


@pytest.mark.crash
def test_killed_between_any_two_lines_each_answer_is_counted_exactly_once(home: Home, database: Database) -> None:
    database.close()
    command = [sys.executable, "-c", _KILLED, str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100  # lines were traced at all
