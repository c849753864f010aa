"""Conversations that are kept: only those a client names with a ``conversation_id``.

The user's turn is recorded before any model is asked, its answer when that has ended; what has ended never changes. The
id is the client's: two owners may use the same one, and neither hears of the other's conversation.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from tunesmith.datasets.example import Message
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Conflict, Invalid, NotFound

MAX_TURNS = 1000  # of one conversation
HISTORY_TURNS, HISTORY_CHARACTERS = 100, 200_000  # of earlier turns a model is told: the newest
_PAGE = 100  # turns read at once
_ID = re.compile("[A-Za-z0-9_.-]{1,128}")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL and half characters, which no database takes

Ending = Literal["completed", "failed", "canceled"]
State = Literal["running"] | Ending

_conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("updated_at", sa.String, nullable=False),
)
_turns = sa.Table(
    "conversation_turns",
    metadata,
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("conversation", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("context", sa.Text),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("service", sa.String),
    sa.Column("model", sa.String),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.ForeignKeyConstraint(["owner", "conversation"], ["conversations.owner", "conversations.id"], ondelete="CASCADE"),
)

# SQLite and PostgreSQL both read it; whoever comes second waits for the first, and then counts its turn too
_TOUCH = sa.text(
    "INSERT INTO conversations (owner, id, created_at, updated_at) VALUES (:owner, :id, :now, :now)"
    " ON CONFLICT (owner, id) DO UPDATE SET updated_at = excluded.updated_at"
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a list shows of a conversation.

    Attributes:
        updated_at: when it was last asked something.
        turns: how many it has, whatever became of them.
    """

    id: str
    created_at: datetime
    updated_at: datetime
    turns: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        number: from 1, in the order they were asked.
        context: what the client said of the situation; the model was told it as the system.
        answer: as much of it as there was when it ended.
        service, model: who answered; None while that is not known.
    """

    number: int
    asked: str
    context: str | None
    answer: str
    state: State
    service: str | None
    model: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation with its turns, the oldest first."""

    conversation: Conversation
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that is recorded and waits for its answer.

    Attributes:
        history: the completed turns before it, for the model.
        at: tells the turn from one of the same number in a conversation that was deleted and begun again.
    """

    owner: str
    id: str
    number: int
    history: tuple[Message, ...]
    at: datetime


class Conversations:
    """The record of conversations. Blocking; share between threads and processes."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def begin(self, owner: str, id: str, asked: str, context: str | None = None) -> Begun:
        """Record the user's turn, and the conversation with its first; to be done before the model is asked.

        Of the turns completed before, the newest are told: ``HISTORY_TURNS`` and ``HISTORY_CHARACTERS`` at most.

        Raises:
            Invalid: the id is none; or a text holds characters that cannot be kept.
            Conflict: the conversation has ``MAX_TURNS`` turns already.
        """
        _check_id(id)
        for field, text in (("message", asked), ("context", context or "")):
            if _NO_TEXT.search(text):
                raise Invalid(
                    f"{field} 含有无法保存的字符（NUL 或残缺的代理字符）",
                    f"{field} holds characters that cannot be kept (NUL or a lone surrogate)",
                    field=field,
                )
        now = self._clock()
        with self._database.write() as connection:
            connection.execute(_TOUCH, {"owner": owner, "id": id, "now": _time(now)})
            newest = connection.execute(sa.select(sa.func.max(_turns.c.number)).where(_of(owner, id))).scalar()
            number = 1 + (newest or 0)
            if number > MAX_TURNS:
                raise _full(id)
            row = {"owner": owner, "conversation": id, "number": number, "asked": asked, "context": context}
            row |= {"answer": "", "state": "running", "created_at": _time(now)}
            connection.execute(sa.insert(_turns).values(row))
            history = _history(connection, owner, id)
        return Begun(owner, id, number, history, now)

    def end(
        self, begun: Begun, answer: str, state: Ending, service: str | None = None, model: str | None = None
    ) -> None:
        """Record how the turn ended; it never changes after. One that was deleted meanwhile stays deleted.

        Args:
            answer: what there is of it.
            service, model: who answered, where that is known.
        """
        values = {"answer": _NO_TEXT.sub("\ufffd", answer), "state": state, "service": service}
        values |= {"model": model and _NO_TEXT.sub("\ufffd", model), "ended_at": _time(self._clock())}
        this = sa.and_(_of(begun.owner, begun.id), _turns.c.number == begun.number)
        running = sa.and_(_turns.c.state == "running", _turns.c.created_at == _time(begun.at))
        with self._database.write() as connection:
            connection.execute(sa.update(_turns).where(this, running).values(values))

    def list(self, owner: str, limit: int = 100, offset: int = 0) -> list[Conversation]:
        """The owner's conversations, the one asked last first; at most ``limit`` after the first ``offset``."""
        order = (_conversations.c.updated_at.desc(), _conversations.c.id)
        query = _summaries().where(_conversations.c.owner == owner).order_by(*order).limit(limit).offset(offset)
        with self._database.read() as connection:
            return [_conversation(row) for row in connection.execute(query).mappings()]

    def get(self, owner: str, id: str) -> Transcript:
        """The conversation with every turn.

        Raises:
            Invalid: the id is none. NotFound: the owner has no such conversation.
        """
        _check_id(id)
        this = sa.and_(_conversations.c.owner == owner, _conversations.c.id == id)
        turns = sa.select(_turns).where(_of(owner, id)).order_by(_turns.c.number)
        with self._database.read() as connection:
            row = connection.execute(_summaries().where(this)).mappings().first()
            if row is None:
                raise _missing(id)
            return Transcript(_conversation(row), tuple(map(_turn, connection.execute(turns).mappings())))

    def delete(self, owner: str, id: str) -> None:
        """Forget the conversation with every turn, those being answered too.

        Raises:
            Invalid: the id is none. NotFound: the owner has no such conversation.
        """
        _check_id(id)
        this = sa.and_(_conversations.c.owner == owner, _conversations.c.id == id)
        with self._database.write() as connection:
            if connection.execute(sa.delete(_conversations).where(this)).rowcount == 0:
                raise _missing(id)

    def export(self, owner: str, id: str | None = None) -> Iterator[dict[str, Any]]:
        """Completed turns as rows to train on: ``{"messages": [{"role", "content"}, ...]}``, the oldest first.

        A row is a stretch of one conversation under one context, which is its system message, and no longer than what
        a model is told of one. Turns without a question or an answer are left out: no training takes them.

        Args:
            id: of one conversation; None is all of the owner's.

        Raises:
            Invalid: the id is none. NotFound: the owner has no such conversation; both before the first row.
        """
        if id is not None:
            _check_id(id)
        query = sa.select(_conversations.c.id).where(_conversations.c.owner == owner)
        if id is not None:
            query = query.where(_conversations.c.id == id)
        with self._database.read() as connection:
            ids = connection.execute(query.order_by(_conversations.c.created_at, _conversations.c.id)).scalars().all()
        if id is not None and not ids:
            raise _missing(id)
        return (row for each in ids for row in self._rows(owner, each))

    def reconcile(self, older_than: timedelta) -> int:
        """Mark turns as failed that have waited longer than any answer may last: their server is gone.

        Returns:
            how many.
        """
        now = self._clock()
        stale = sa.and_(_turns.c.state == "running", _turns.c.created_at < _time(now - older_than))
        with self._database.write() as connection:
            failed = sa.update(_turns).where(stale).values(state="failed", ended_at=_time(now))
            return connection.execute(failed).rowcount

    def _rows(self, owner: str, id: str) -> Iterator[dict[str, Any]]:
        stretch = _Stretch(None)
        for turn in self._completed(owner, id):
            context = turn.context if turn.context and turn.context.strip() else None
            if context != stretch.context or not stretch.room_for(turn):
                if stretch.turns:
                    yield stretch.row()
                stretch = _Stretch(context)
            stretch.add(turn)
        if stretch.turns:
            yield stretch.row()

    def _completed(self, owner: str, id: str) -> Iterator[Turn]:
        """Completed turns, read a page at a time: no transaction waits for whoever takes the rows."""
        last = 0
        while True:
            after = sa.and_(_of(owner, id), _turns.c.state == "completed", _turns.c.number > last)
            page = sa.select(_turns).where(after).order_by(_turns.c.number).limit(_PAGE)
            with self._database.read() as connection:
                turns = [_turn(row) for row in connection.execute(page).mappings()]
            yield from filter(_worth_telling, turns)
            if len(turns) < _PAGE:
                return
            last = turns[-1].number


class _Stretch:
    """Turns that follow each other under one context, no more than a model is told at once."""

    def __init__(self, context: str | None) -> None:
        self.context, self.turns = context, list[Turn]()
        self._characters = 0

    def room_for(self, turn: Turn) -> bool:
        return len(self.turns) < HISTORY_TURNS and self._characters + _characters(turn) <= HISTORY_CHARACTERS

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)
        self._characters += _characters(turn)

    def row(self) -> dict[str, Any]:
        system = (Message("system", self.context),) if self.context is not None else ()
        return {"messages": [message.as_dict() for message in (*system, *_messages(self.turns))]}


def _history(connection: sa.Connection, owner: str, id: str) -> tuple[Message, ...]:
    completed = sa.and_(_of(owner, id), _turns.c.state == "completed")
    newest = sa.select(_turns).where(completed).order_by(_turns.c.number.desc()).limit(HISTORY_TURNS)
    told, characters = list[Turn](), 0
    for turn in filter(_worth_telling, map(_turn, connection.execute(newest).mappings())):
        characters += _characters(turn)
        if characters > HISTORY_CHARACTERS:
            break
        told.append(turn)
    return _messages(reversed(told))


def _messages(turns: Iterable[Turn]) -> tuple[Message, ...]:
    pairs = ((Message("user", turn.asked), Message("assistant", turn.answer)) for turn in turns)
    return tuple(message for pair in pairs for message in pair)


def _worth_telling(turn: Turn) -> bool:
    """Providers and training refuse messages that are empty."""
    return bool(turn.asked.strip() and turn.answer.strip())


def _characters(turn: Turn) -> int:
    return len(turn.asked) + len(turn.answer)


def _of(owner: str, id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_turns.c.owner == owner, _turns.c.conversation == id)


def _summaries() -> sa.Select[Any]:
    mine = sa.and_(_turns.c.owner == _conversations.c.owner, _turns.c.conversation == _conversations.c.id)
    turns = sa.select(sa.func.count()).select_from(_turns).where(mine).scalar_subquery()
    return sa.select(_conversations, turns.label("turns"))


def _conversation(row: sa.RowMapping) -> Conversation:
    times = {name: datetime.fromisoformat(row[name]) for name in ("created_at", "updated_at")}
    return Conversation(id=row["id"], turns=row["turns"], **times)


def _turn(row: sa.RowMapping) -> Turn:
    return Turn(
        number=row["number"],
        asked=row["asked"],
        context=row["context"],
        answer=row["answer"],
        state=row["state"],
        service=row["service"],
        model=row["model"],
        created_at=datetime.fromisoformat(row["created_at"]),
        ended_at=None if row["ended_at"] is None else datetime.fromisoformat(row["ended_at"]),
    )


def _time(at: datetime) -> str:
    """Fixed width and UTC: sorted as text."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _check_id(id: str) -> None:
    if not _ID.fullmatch(id):
        raise Invalid(
            "conversation_id 应为 1 到 128 个字母、数字、下划线、点或连字符",
            "conversation_id must be 1 to 128 letters, digits, underscores, dots or hyphens",
            field="conversation_id",
        )


def _missing(id: str) -> NotFound:
    return NotFound(f"对话不存在：{id}", f"there is no conversation {id}", conversation_id=id)


def _full(id: str) -> Conflict:
    return Conflict(
        f"对话 {id} 已有 {MAX_TURNS} 轮，不能再继续：请换一个 conversation_id",
        f"the conversation {id} has {MAX_TURNS} turns and takes no more: go on under another conversation_id",
        field="conversation_id",
        conversation_id=id,
        limit=MAX_TURNS,
    )
