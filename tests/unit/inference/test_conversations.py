"""Conversations that are kept: nothing is lost, nothing changes twice, nobody sees another's."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tunesmith.datasets.example import Example, Message
from tunesmith.datasets.reading import parse
from tunesmith.inference.conversations import (
    HISTORY_CHARACTERS,
    HISTORY_TURNS,
    MAX_TURNS,
    Conversations,
    Ending,
)
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, Invalid, NotFound

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG_AGO = timedelta(minutes=20)


class Clock:
    """Passes a second with each look."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated database as a file's bytes: migrating takes longer than a test."""
    file = tmp_path_factory.mktemp("empty") / "tunesmith.db"
    made = Database(f"sqlite:///{file}")
    made.migrate()
    with made.write() as connection:
        connection.exec_driver_sql("SELECT 1")
    made.close()
    return file.read_bytes()


@pytest.fixture
def database(tmp_path: Path, empty_database: bytes) -> Iterator[Database]:
    (tmp_path / "tunesmith.db").write_bytes(empty_database)
    opened = Database(f"sqlite:///{tmp_path}/tunesmith.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(database: Database, clock: Clock) -> Conversations:
    return Conversations(database, clock)


def talk(
    kept: Conversations,
    asked: str,
    answer: str,
    *,
    owner: str = "ada",
    id: str = "c1",
    context: str | None = None,
    state: Ending = "completed",
) -> None:
    kept.end(kept.begin(owner, id, asked, context), answer, state, "local", "small")


def fill(database: Database, turns: int, answer: str = "a", *, first: int = 1) -> None:
    """Completed turns q1/answer, q2/answer ... of ada's conversation c1, at once: an end waits for the disk each time."""
    when = START.isoformat(timespec="microseconds")
    with database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO conversations VALUES ('ada', 'c1', ?, ?) ON CONFLICT DO NOTHING", (when, when)
        )
        for number in range(first, first + turns):
            connection.exec_driver_sql(
                "INSERT INTO conversation_turns (owner, conversation, number, asked, answer, state, created_at)"
                " VALUES ('ada', 'c1', ?, ?, ?, 'completed', ?)",
                (number, f"q{number}", answer, when),
            )


def said(history: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in history]


def read_back(rows: Iterator[dict[str, Any]], tmp_path: Path) -> list[Example]:
    """The rows as training reads them from a file; a bad one fails."""
    file = tmp_path / "export.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with file.open("rb") as opened:
        examples = list(parse(opened, "export.jsonl").rows)
    assert all(isinstance(example, Example) for example in examples)
    return examples  # type: ignore[return-value]


def test_a_question_is_recorded_before_it_is_answered_and_its_answer_after(
    database: Database, kept: Conversations, clock: Clock
) -> None:
    begun = kept.begin("ada", "c1", "你好", "in a shop")
    asked_at = clock.now
    [turn] = Conversations(database).get("ada", "c1").turns
    assert (turn.number, turn.asked, turn.context, turn.answer) == (begun.number, "你好", "in a shop", "")
    assert (turn.state, turn.service, turn.model, turn.ended_at) == ("running", None, None, None)
    kept.end(begun, "您好！", "completed", "openrouter", "mistralai/mistral-7b-instruct")
    [turn] = Conversations(database).get("ada", "c1").turns
    assert (turn.answer, turn.state, turn.service) == ("您好！", "completed", "openrouter")
    assert (turn.model, turn.created_at, turn.ended_at) == ("mistralai/mistral-7b-instruct", asked_at, clock.now)


def test_completed_turns_are_the_history_of_the_next_without_their_context(kept: Conversations) -> None:
    assert kept.begin("ada", "c1", "one", "about ships").history == ()
    talk(kept, "two", "2", context="about ships")
    talk(kept, "three", "3")
    begun = kept.begin("ada", "c1", "four", "about ships")
    assert (begun.number, said(begun.history)) == (
        4,
        [("user", "two"), ("assistant", "2"), ("user", "three"), ("assistant", "3")],
    )


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_a_turn_that_did_not_complete_is_kept_but_not_told(kept: Conversations, state: Ending) -> None:
    talk(kept, "one", "half of", state=state)
    assert kept.begin("ada", "c1", "two").history == ()
    assert [(turn.answer, turn.state) for turn in kept.get("ada", "c1").turns] == [("half of", state), ("", "running")]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_is_no_message(kept: Conversations, empty: str) -> None:
    talk(kept, "one", empty)
    talk(kept, "two", "2")
    assert said(kept.begin("ada", "c1", "three").history) == [("user", "two"), ("assistant", "2")]


def test_of_too_many_turns_the_newest_are_told(database: Database, kept: Conversations) -> None:
    fill(database, HISTORY_TURNS + 5)
    begun = kept.begin("ada", "c1", "next")
    assert begun.number == HISTORY_TURNS + 6
    assert [message.content for message in begun.history if message.role == "user"] == [
        f"q{number}" for number in range(6, HISTORY_TURNS + 6)
    ]


def test_of_too_much_text_the_newest_turns_are_told_whole(database: Database, kept: Conversations) -> None:
    quarter = "x" * (HISTORY_CHARACTERS // 4 - 2)  # with its question a quarter exactly
    fill(database, 6, quarter)
    assert [text[:2] for _, text in said(kept.begin("ada", "c1", "next").history)] == [
        "q3", "xx", "q4", "xx", "q5", "xx", "q6", "xx",
    ]  # fmt: skip
    talk(kept, "long", "y" * HISTORY_CHARACTERS)
    assert kept.begin("ada", "c1", "next").history == ()


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
def test_what_has_ended_never_changes(kept: Conversations, state: Ending) -> None:
    begun = kept.begin("ada", "c1", "one")
    kept.end(begun, "first", state)
    before = kept.get("ada", "c1")
    for other in ("completed", "failed", "canceled"):
        kept.end(begun, "second", other)  # type: ignore[arg-type]
    kept.reconcile(timedelta(0))
    assert kept.get("ada", "c1") == before


def test_a_conversation_deleted_while_it_is_answered_stays_deleted(kept: Conversations) -> None:
    begun = kept.begin("ada", "c1", "one")
    kept.delete("ada", "c1")
    kept.end(begun, "1", "completed")
    with pytest.raises(NotFound):
        kept.get("ada", "c1")
    assert kept.list("ada") == []


def test_an_answer_from_before_the_deletion_is_none_to_a_question_of_after(kept: Conversations) -> None:
    before = kept.begin("ada", "c1", "old")
    kept.delete("ada", "c1")
    after = kept.begin("ada", "c1", "new")
    assert after.number == before.number
    kept.end(before, "to old", "canceled")
    kept.end(after, "to new", "completed")
    assert [(turn.asked, turn.answer, turn.state) for turn in kept.get("ada", "c1").turns] == [
        ("new", "to new", "completed")
    ]


def test_deleting_forgets_every_word(database: Database, kept: Conversations) -> None:
    talk(kept, "one", "1")
    talk(kept, "one", "1", id="c2")
    kept.delete("ada", "c1")
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT conversation FROM conversation_turns").scalars().all() == ["c2"]
    with pytest.raises(NotFound):
        kept.delete("ada", "c1")


def test_anothers_conversation_is_answered_like_a_missing_one(kept: Conversations) -> None:
    talk(kept, "secret", "words")
    tries: list[Callable[[str], object]] = [
        lambda id: kept.get("eve", id),
        lambda id: kept.delete("eve", id),
        lambda id: kept.export("eve", id),
    ]
    for attempt in tries:
        told = []
        for id in ("c1", "c0"):
            with pytest.raises(NotFound) as refused:
                attempt(id)
            told.append((refused.value.zh.replace(id, "?"), refused.value.en.replace(id, "?")))
        assert told[0] == told[1]
    assert kept.list("eve") == [] and list(kept.export("eve")) == []
    begun = kept.begin("eve", "c1", "mine")
    assert (begun.number, begun.history) == (1, ())
    kept.delete("eve", "c1")
    assert [turn.asked for turn in kept.get("ada", "c1").turns] == ["secret"]


@pytest.mark.parametrize("id", ["", "a" * 129, "a b", "a/b", "a\n", "é", "a\0", "\ud800", "%", "a;b"])
def test_what_is_no_id_is_refused_by_name_everywhere(kept: Conversations, id: str) -> None:
    for attempt in (lambda: kept.begin("ada", id, "x"), lambda: kept.get("ada", id), lambda: kept.delete("ada", id)):
        with pytest.raises(Invalid) as refused:
            attempt()
        assert refused.value.details == {"field": "conversation_id"}
    if id:
        with pytest.raises(Invalid):
            kept.export("ada", id)
    assert kept.list("ada") == []


@pytest.mark.parametrize("id", ["a", "A-1_b.c", ".", "..", "-", "9" * 128])
def test_every_possible_id_is_one(kept: Conversations, id: str) -> None:
    kept.begin("ada", id, "x")
    assert kept.get("ada", id).conversation.id == id


@pytest.mark.parametrize("bad", ["a\0", "\ud83d", "\udc00b"])
def test_text_that_no_database_takes_is_refused_in_a_question_and_replaced_in_an_answer(
    kept: Conversations, bad: str
) -> None:
    for field, given in (("message", (bad, None)), ("context", ("x", bad))):
        with pytest.raises(Invalid) as refused:
            kept.begin("ada", "c1", *given)
        assert refused.value.details == {"field": field}
    assert kept.list("ada") == []
    kept.end(kept.begin("ada", "c1", "🌍"), f"{bad}🌍", "completed", "local", bad)
    [turn] = kept.get("ada", "c1").turns
    assert len(turn.answer) == len(bad) + 1 and turn.answer.endswith("🌍") and "\ufffd" in turn.answer
    assert turn.model is not None and "\ufffd" in turn.model


def test_threads_that_ask_in_one_conversation_at_once_each_get_a_number_of_their_own(
    database: Database, kept: Conversations
) -> None:
    together, numbers = threading.Barrier(6), list[int]()

    def ask() -> None:
        together.wait()
        for _ in range(4):
            begun = kept.begin("ada", "c1", "x")
            numbers.append(begun.number)
            kept.end(begun, str(begun.number), "completed")

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 25))
    assert all(turn.answer == str(turn.number) for turn in kept.get("ada", "c1").turns)


_ASKING = """
import sys
from tunesmith.inference.conversations import Conversations
from tunesmith.kernel.db import Database

kept = Conversations(Database(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(*(kept.begin("ada", "c1", "x").number for _ in range(10)))
"""


def test_processes_that_ask_in_one_conversation_at_once_each_get_a_number_of_their_own(
    tmp_path: Path, database: Database
) -> None:
    command = [sys.executable, "-c", _ASKING, f"sqlite:///{tmp_path}/tunesmith.db"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    together = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in together:
        assert process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    numbers = [int(each) for process in together for each in process.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(1, 31))


def test_a_full_conversation_takes_no_more_and_says_what_to_do(database: Database, kept: Conversations) -> None:
    fill(database, MAX_TURNS - 1)
    talk(kept, "last", "1")
    before = kept.list("ada")
    with pytest.raises(Conflict, match="another conversation_id") as refused:
        kept.begin("ada", "c1", "one more")
    assert refused.value.details == {"field": "conversation_id", "conversation_id": "c1", "limit": MAX_TURNS}
    assert kept.list("ada") == before
    assert kept.begin("ada", "c2", "elsewhere").number == 1


def test_the_conversation_asked_last_is_listed_first_a_page_at_a_time(kept: Conversations) -> None:
    for id in ("c1", "c2", "c3"):
        talk(kept, "one", "1", id=id)
    talk(kept, "two", "2", id="c1", state="failed")
    listed = kept.list("ada")
    assert [(each.id, each.turns) for each in listed] == [("c1", 2), ("c3", 1), ("c2", 1)]
    assert listed[0].created_at < listed[1].created_at < listed[0].updated_at
    assert [each.id for each in kept.list("ada", limit=1, offset=1)] == ["c3"]
    assert kept.list("ada", limit=5, offset=3) == []


def test_exported_rows_are_what_training_reads(kept: Conversations, tmp_path: Path) -> None:
    talk(kept, "一", "1\n2", context="关于船")
    talk(kept, "two", "2", context="关于船")
    talk(kept, "lost", "half", context="关于船", state="canceled")
    talk(kept, "three", "3", context="  ")
    talk(kept, "four", "")
    talk(kept, "five", "5")
    talk(kept, "six", "6", context="关于车")
    talk(kept, "running", "", state="failed", id="c2")
    talk(kept, "other", "7", id="c3")
    kept.begin("ada", "c3", "not answered yet")
    talk(kept, "eve's", "8", owner="eve")

    rows = list(kept.export("ada"))
    assert [set(row) for row in rows] == [{"messages"}] * 4
    assert [said(example.messages) for example in read_back(iter(rows), tmp_path)] == [
        [("system", "关于船"), ("user", "一"), ("assistant", "1\n2"), ("user", "two"), ("assistant", "2")],
        [("user", "three"), ("assistant", "3"), ("user", "five"), ("assistant", "5")],
        [("system", "关于车"), ("user", "six"), ("assistant", "6")],
        [("user", "other"), ("assistant", "7")],
    ]
    assert list(kept.export("ada", "c1")) == rows[:3]
    assert list(kept.export("ada", "c2")) == []


def test_a_long_conversation_is_exported_whole_in_rows_no_longer_than_a_model_is_told(
    database: Database, kept: Conversations, tmp_path: Path
) -> None:
    fill(database, 2 * HISTORY_TURNS + 30)
    fill(database, 3, "x" * (HISTORY_CHARACTERS // 2 - 4), first=2 * HISTORY_TURNS + 31)  # two with their questions fit
    rows = [example.messages for example in read_back(kept.export("ada"), tmp_path)]
    assert [len(row) // 2 for row in rows] == [HISTORY_TURNS, HISTORY_TURNS, 31, 2]
    asked = [message.content for row in rows for message in row if message.role == "user"]
    assert asked == [f"q{number}" for number in range(1, 2 * HISTORY_TURNS + 34)]


def test_a_conversation_deleted_while_it_is_exported_ends_the_rows(kept: Conversations) -> None:
    for id in ("c1", "c2", "c3"):
        talk(kept, id, "1", id=id)
    rows = kept.export("ada")
    first = next(rows)
    kept.delete("ada", "c2")  # nobody waits for whoever takes the rows
    assert [row["messages"][0]["content"] for row in itertools.chain([first], rows)] == ["c1", "c3"]


def test_exporting_what_is_not_there_is_refused_before_the_first_row(kept: Conversations) -> None:
    with pytest.raises(NotFound):
        kept.export("ada", "c1")
    assert list(kept.export("ada")) == []


def test_turns_of_a_server_that_is_gone_are_marked_failed_and_younger_ones_wait(
    kept: Conversations, clock: Clock
) -> None:
    stale = kept.begin("ada", "c1", "one")
    clock.now += LONG_AGO
    young = kept.begin("eve", "c1", "two")
    assert kept.reconcile(LONG_AGO) == 1
    [failed] = kept.get("ada", "c1").turns
    assert (failed.state, failed.ended_at) == ("failed", clock.now)
    kept.end(stale, "too late", "completed")
    kept.end(young, "in time", "completed")
    assert [kept.get(owner, "c1").turns[0].answer for owner in ("ada", "eve")] == ["", "in time"]
    assert kept.reconcile(timedelta(0)) == 0
