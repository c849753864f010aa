"""Rows of the projects' tables, and the values they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import sqlalchemy as sa

from tunesmith.projects.checks import is_id, new_id
from tunesmith.projects.project import DatasetSplit, Project, SplitPart, Task, TaskRun
from tunesmith.projects.traces import earlier

FEW = 500  # ids that one query names
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def free_ids(connection: sa.Connection, table: sa.Table, wanted: Sequence[str | None]) -> list[str]:
    """An id for each of ``wanted``: the wanted one where it is an id and nobody has it, else a new one."""
    chosen: list[str] = []
    used: set[str] = set()
    for start in range(0, len(wanted), FEW):
        tried = [id if is_id(id) else new_id() for id in wanted[start : start + FEW]]
        while True:
            query = sa.select(table.c.id).where(table.c.id.in_(tried))
            taken = used | set(connection.execute(query).scalars())
            fresh = []
            for id in tried:
                fresh.append(new_id() if id in taken else id)
                taken.add(id)
            if fresh == tried:
                break
            tried = fresh
        chosen += fresh
        used |= set(fresh)
    return chosen


def written(moment: datetime) -> str:
    """A moment as every row keeps it: later ones sort behind."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def project_row(project: Project) -> dict[str, Any]:
    """What is kept of a project."""
    return {
        "id": project.id,
        "name": project.name,
        "owner": project.owner,
        "created_at": written(project.created_at),
        "description": project.description,
    }


def project_of(row: sa.RowMapping) -> Project:
    """The project of a row."""
    return Project(**{**row, "created_at": datetime.fromisoformat(row["created_at"])})


def task_row(task: Task) -> dict[str, Any]:
    """What is kept of a task."""
    return {
        "id": task.id,
        "project_id": task.project_id,
        "name": task.name,
        "instruction": task.instruction,
        "created_at": written(task.created_at),
        "description": task.description,
        "requirements": _encode(task.requirements).decode(),
        "thinking_instruction": task.thinking_instruction,
        "input_schema": task.input_schema,
        "output_schema": task.output_schema,
    }


def changed_row(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of some attributes of a project, task or split."""
    return {name: _encode(value).decode() if isinstance(value, tuple) else value for name, value in checked.items()}


def task_of(row: sa.RowMapping) -> Task:
    """The task of a row."""
    requirements, made = tuple(_decode(row["requirements"])), datetime.fromisoformat(row["created_at"])
    return Task(**{**row, "requirements": requirements, "created_at": made})


def run_row(run: TaskRun) -> dict[str, Any]:
    """What is kept of a run."""
    # the same words in another conversation are another question
    asked = sha256(_encode([run.parent_id, earlier(run), run.input])).hexdigest()[:32]
    return {
        "id": run.id,
        "task_id": run.task_id,
        "input": run.input,
        "output": run.output,
        "created_at": written(run.created_at),
        "repaired": run.repaired,
        "repair_instructions": run.repair_instructions,
        "reasoning": run.reasoning,
        "chain_of_thought": run.chain_of_thought,
        "rating": run.rating,
        "rating_type": run.rating_type,
        "tags": "".join(f"\n{tag}\n" for tag in run.tags),
        "parent_id": run.parent_id,
        "trace": _encode(run.trace).decode() if run.trace else None,
        "tools": _encode(run.tools).decode() if run.tools else None,
        "asked_digest": asked,
        "pair_digest": sha256(_encode([asked, run.final])).hexdigest()[:32],
    }


def run_of(row: sa.RowMapping) -> TaskRun:
    """The run of a row."""
    known = dict(row)
    del known["asked_digest"], known["pair_digest"]
    return TaskRun(
        **{
            **known,
            "created_at": datetime.fromisoformat(row["created_at"]),
            "tags": tags_of(row["tags"]),
            "trace": tuple(_decode(row["trace"])) if row["trace"] else (),
            "tools": tuple(_decode(row["tools"])) if row["tools"] else (),
        }
    )


def tags_of(text: str) -> tuple[str, ...]:
    """The tags that a row keeps."""
    return tuple(tag for tag in text.split("\n") if tag)


def split_row(split: DatasetSplit) -> dict[str, Any]:
    """What is kept of a split."""
    return {
        "id": split.id,
        "task_id": split.task_id,
        "name": split.name,
        "filter": split.filter,
        "seed": split.seed,
        "parts": _encode([asdict(part) for part in split.parts]).decode(),
        "contents": _encode(split.contents).decode(),
        "created_at": written(split.created_at),
        "description": split.description,
        "warnings": _encode(split.warnings).decode(),
    }


def split_of(row: sa.RowMapping) -> DatasetSplit:
    """The split of a row."""
    return DatasetSplit(
        **{
            **row,
            "parts": tuple(SplitPart(**part) for part in _decode(row["parts"])),
            "contents": {name: tuple(ids) for name, ids in _decode(row["contents"]).items()},
            "created_at": datetime.fromisoformat(row["created_at"]),
            "warnings": tuple((zh, en) for zh, en in _decode(row["warnings"])),
        }
    )
