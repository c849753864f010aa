"""The folder of one evaluation: its questions, its outputs, its result, and the lock of whoever works on it."""

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from tunesmith.evaluation.evaluation import Question
from tunesmith.kernel.files import folder_published_whole, require_free, write_json, written_whole
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem

_QUESTIONS, _OUTPUTS, _RESULT, _LOCK = "questions.jsonl", "outputs.jsonl", "result.json", ".lock"
_ROOM_LEFT = 16 * 1024 * 1024


class Folder:
    """``evaluations/<id>`` under home.

    Raises:
        NotFound: the id is none this program gives out; nothing on the disk is touched then.
    """

    def __init__(self, home: Home, evaluation_id: str) -> None:
        self._home = home
        self.id = known_form(evaluation_id)
        self._path = home.evaluations / self.id

    def write_questions(self, questions: Sequence[Question]) -> None:
        """Make the folder and write its questions.

        Raises:
            Unavailable: the disk is nearly full.
        """
        text = _lines(questions)
        # outputs repeat the questions and add answers, perhaps of two models
        require_free(self._path.parent, 4 * len(text) + _ROOM_LEFT)
        with folder_published_whole(self._path) as temporary:
            (temporary / _QUESTIONS).write_bytes(text)

    def questions(self) -> list[Question]:
        """The questions as written.

        Raises:
            NotFound: the file is gone. Invalid: it cannot be read as questions.
        """
        try:
            return [msgspec.json.decode(line, type=Question) for line in self._read(_QUESTIONS)]
        except msgspec.MsgspecError as error:
            name = self._home.name(self._path / _QUESTIONS)
            raise Invalid(f"{name} 已损坏：{error}", f"{name} is damaged: {error}", file=name) from error

    def write_outcome(self, outputs: Iterable[dict[str, Any]], result: dict[str, Any]) -> None:
        """Write what the models said, then what it amounts to; each file whole or not at all."""
        with written_whole(self._path / _OUTPUTS) as temporary:
            temporary.write_bytes(_lines(outputs))
        write_json(self._path / _RESULT, result)

    def outputs(self) -> list[dict[str, Any]]:
        """What was written as outputs; empty where nothing was."""
        if not (self._path / _OUTPUTS).exists():
            return []
        return [msgspec.json.decode(line) for line in self._read(_OUTPUTS)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work on the evaluation alone, among all processes; a killed process leaves no lock.

        Raises:
            Conflict: somebody alive is working on it. NotFound: the folder is gone.
        """
        import fcntl

        try:
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            name = self._home.name(self._path)
            raise NotFound(f"评估目录不存在：{name}", f"the evaluation's folder is gone: {name}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Conflict(
                f"评估 {self.id} 正在执行", f"evaluation {self.id} is being executed", evaluation_id=self.id
            ) from error
        finally:
            os.close(descriptor)

    def _read(self, file: str) -> list[bytes]:
        name = self._home.name(self._path / file)
        with self._home.open(name, "evaluation") as stream:
            return stream.read().splitlines()


def known_form(evaluation_id: str) -> str:
    """``evaluation_id``, which is a version 4 UUID in its one canonical form.

    Raises:
        NotFound: it is not, so no evaluation can have it.
    """
    try:
        parsed = uuid.UUID(evaluation_id)
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != 4 or str(parsed) != evaluation_id:
        raise missing(evaluation_id)
    return evaluation_id


def missing(evaluation_id: str) -> Problem:
    """No such evaluation; the id comes from outside, so only a piece of it is repeated."""
    shown = ascii(evaluation_id[:64])
    return NotFound(f"评估不存在：{shown}", f"no such evaluation: {shown}")


def _lines(values: Iterable[Any]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)
