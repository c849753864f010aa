"""Kiln's project folders, read and never written.

    project.kiln
    tasks/<id> - <name>/task.kiln
                        runs/<id>/task_run.kiln
                        dataset_splits/<id> - <name>/dataset_split.kiln

Written by Kiln 1.2; older ones differ in fields that are not read here. Nothing is reached through a symbolic link. Runs
that an evaluation made are left out, as Kiln leaves them out of its lists and splits.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from tunesmith.kernel.problems import Forbidden, Invalid, NotFound
from tunesmith.projects.checks import check_description, check_name, check_optional, check_text, shown
from tunesmith.projects.filters import read_filter
from tunesmith.projects.project import DatasetSplit, Project, SplitPart, Task, TaskRun
from tunesmith.projects.run_fields import LONGEST, check_run, check_tags, check_task
from tunesmith.projects.traces import check_trace

LARGEST_FILE = 16 << 20  # bytes
MOST_TASKS, MOST_RUNS, MOST_SPLITS = 1000, 200_000, 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not hang us
_T = TypeVar("_T")


class _Project(msgspec.Struct):
    name: str
    created_at: datetime
    id: str | None = None
    description: str | None = None


class _Requirement(msgspec.Struct):
    instruction: str


class _Task(msgspec.Struct):
    name: str
    instruction: str
    created_at: datetime
    id: str | None = None
    description: str | None = None
    requirements: list[_Requirement] = []
    thinking_instruction: str | None = None
    input_json_schema: str | None = None
    output_json_schema: str | None = None


class _Rating(msgspec.Struct):
    type: str = "five_star"
    value: float | None = None


class _Output(msgspec.Struct):
    output: str
    rating: _Rating | None = None


class _Run(msgspec.Struct):
    input: str
    output: _Output
    created_at: datetime
    id: str | None = None
    repair_instructions: str | None = None
    repaired_output: _Output | None = None
    intermediate_outputs: dict[str, str] | None = None
    tags: list[str] = []
    trace: list[dict[str, Any]] | None = None
    parent_task_run_id: str | None = None
    eval_source: dict[str, Any] | None = None


class _Part(msgspec.Struct):
    name: str
    percentage: float
    description: str | None = None


class _Split(msgspec.Struct):
    name: str
    split_contents: dict[str, list[str]]
    created_at: datetime
    id: str | None = None
    description: str | None = None
    splits: list[_Part] = []
    filter: str | None = None


class _Folder:
    """An open folder of the project; ``where`` is what messages call it."""

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where

    def named(self, name: str) -> str:
        """What messages call something in it."""
        return shown(f"{self.where}/{name}" if self.where else name)

    @contextmanager
    def inner(self, name: str) -> Iterator["_Folder | None"]:
        """The folder of that name; None where there is none, or something that is no folder."""
        if not stat.S_ISDIR(self._mode(name)):
            yield None
            return
        descriptor = os.open(name, _FOLDER, dir_fd=self.descriptor)
        try:
            yield _Folder(descriptor, self.named(name))
        finally:
            os.close(descriptor)

    def folders(self, name: str, most: int) -> Iterator["_Folder"]:
        """Every folder in the folder of that name, in the order of their names.

        Raises:
            Invalid: there are more than ``most``.
        """
        with self.inner(name) as middle:
            names = sorted(os.listdir(middle.descriptor)) if middle else []  # noqa: PTH208  (no path: a descriptor)
            if len(names) > most:
                zh, en = f"{self.named(name)} 中多于 {most} 项", f"there are over {most} entries in {self.named(name)}"
                raise Invalid(zh, en, field="folder")
            for each in names:
                if middle is not None:
                    with middle.inner(each) as found:
                        if found is not None:
                            yield found

    def read(self, name: str, kind: type[_T]) -> _T | None:
        """The file of that name; None where there is none.

        Raises:
            Forbidden: a symbolic link, or it may not be read. Invalid: too large, or not what Kiln writes.
        """
        where = self.named(name)
        if not self._mode(name):
            return None
        try:
            descriptor = os.open(name, _FILE, dir_fd=self.descriptor)
        except OSError as error:
            raise _forbidden(where, str(error.strerror)) from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Invalid(f"{where} 不是普通文件", f"{where} is not a regular file", field="folder")
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            most = f"{LARGEST_FILE >> 20} MB"
            raise Invalid(f"{where} 超过 {most}", f"{where} is over {most}", field="folder")
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            detail = shown(error)
            raise Invalid(f"{where} 无法识别：{detail}", f"{where} cannot be read: {detail}", field="folder") from None

    def _mode(self, name: str) -> int:
        try:
            mode = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return 0
        if stat.S_ISLNK(mode):
            raise _forbidden(self.named(name), "symbolic link")
        return mode


@dataclass(frozen=True, slots=True)
class Found:
    """A task of the folder: its runs' ids in the order they lie in the spool, and its splits."""

    task: Task
    runs: list[str]
    splits: list[DatasetSplit]


def read_folder(folder: Path, owner: str, spool: IO[bytes]) -> tuple[Project, list[Found]]:
    """What the folder holds, checked; ids are those of Kiln.

    Args:
        spool: runs are written to it, task after task; ``spooled`` reads them again.

    Raises:
        NotFound: there is no such folder, or no project in it. Forbidden: a symbolic link, or it may not be read.
        Invalid: a file is not what Kiln writes, or there is too much; the message names the file.
    """
    try:
        root = _Folder(os.open(folder, _FOLDER), "")
    except FileNotFoundError:
        raise NotFound(f"文件夹不存在：{folder}", f"there is no folder {folder}", field="folder") from None
    except (OSError, ValueError) as error:
        raise _forbidden(str(folder), str(error)) from None
    try:
        said = root.read("project.kiln", _Project)
        if said is None:
            raise NotFound(f"{folder} 中没有 project.kiln", f"there is no project.kiln in {folder}", field="folder")
        project = Project(
            id=said.id or "",
            name=check_name(said.name),
            owner=owner,
            created_at=_utc(said.created_at),
            description=check_description(said.description),
        )
        return project, [_task(each, spool) for each in root.folders("tasks", MOST_TASKS)]
    finally:
        os.close(root.descriptor)


def spooled(spool: IO[bytes]) -> Iterator[TaskRun]:
    """All runs that ``read_folder`` wrote."""
    spool.seek(0)
    for line in spool:
        yield msgspec.json.decode(line, type=TaskRun)


def _task(folder: _Folder, spool: IO[bytes]) -> Found:
    said = folder.read("task.kiln", _Task)
    if said is None:
        zh, en = f"{folder.where} 中没有 task.kiln", f"there is no task.kiln in {folder.where}"
        raise Invalid(zh, en, field="folder")
    with _named(folder, "task.kiln"):
        fields = check_task(
            {
                "name": said.name,
                "instruction": said.instruction,
                "description": said.description,
                "requirements": [each.instruction for each in said.requirements],
                "thinking_instruction": said.thinking_instruction,
                "input_schema": said.input_json_schema,
                "output_schema": said.output_json_schema,
            }
        )
    task = Task(id=said.id or "", project_id="", created_at=_utc(said.created_at), **fields)
    runs: list[str] = []
    for each in folder.folders("runs", MOST_RUNS):
        run = _run(each, task)
        if run is not None:
            runs.append(run.id)
            spool.write(msgspec.json.encode(run) + b"\n")
    splits = [_split(each) for each in folder.folders("dataset_splits", MOST_SPLITS)]
    return Found(task, runs, [split for split in splits if split is not None])


def _run(folder: _Folder, task: Task) -> TaskRun | None:
    said = folder.read("task_run.kiln", _Run)
    if said is None or said.eval_source is not None:
        return None
    thoughts, rating = said.intermediate_outputs or {}, said.output.rating
    with _named(folder, "task_run.kiln"):
        rated = {} if rating is None else {"rating": rating.value, "rating_type": rating.type}
        return TaskRun(
            id=said.id or "",
            task_id="",
            input=check_text(said.input, "input", LONGEST, blank=True),
            output=check_text(said.output.output, "output", LONGEST, blank=True),
            created_at=_utc(said.created_at),
            repaired=None
            if said.repaired_output is None
            else check_text(said.repaired_output.output, "repaired_output", LONGEST, blank=True),
            repair_instructions=check_optional(said.repair_instructions, "repair_instructions", LONGEST),
            reasoning=check_optional(thoughts.get("reasoning"), "reasoning", LONGEST),
            chain_of_thought=check_optional(thoughts.get("chain_of_thought"), "chain_of_thought", LONGEST),
            tags=check_tags(said.tags),
            parent_id=said.parent_task_run_id,
            trace=check_trace(said.trace),
            **check_run(rated, task),
        )


def _split(folder: _Folder) -> DatasetSplit | None:
    said = folder.read("dataset_split.kiln", _Split)
    if said is None:
        return None
    with _named(folder, "dataset_split.kiln"):
        read_filter(said.filter or "all")
        parts = tuple(
            SplitPart(
                name=check_name(part.name), percentage=part.percentage, description=check_description(part.description)
            )
            for part in said.splits
        )
        return DatasetSplit(
            id=said.id or "",
            task_id="",
            name=check_name(said.name),
            filter=said.filter or "all",
            seed=0,  # Kiln's dealing is frozen, and was by chance
            parts=parts,
            contents={check_name(name): tuple(ids) for name, ids in said.split_contents.items()},
            created_at=_utc(said.created_at),
            description=check_description(said.description),
        )


@contextmanager
def _named(folder: _Folder, name: str) -> Iterator[None]:
    """What is refused meanwhile names the file."""
    try:
        yield
    except Invalid as problem:
        where = folder.named(name)
        raise Invalid(f"{where}：{problem.zh}", f"{where}: {problem.en}", **problem.details) from None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _forbidden(where: str, reason: str) -> Forbidden:
    name = shown(where)
    return Forbidden(f"无法读取 {name}：{reason}", f"{name} cannot be read: {reason}", field="folder")
