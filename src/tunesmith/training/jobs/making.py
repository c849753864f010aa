"""What a new job is made of: everything the caller left open settled, its examples written as the trainer reads them."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.sample import Format, Sample, Strategy, Wanted
from tunesmith.datasets.export.wanted import DEFAULT_SYSTEM, DEFAULT_THINKING, check_wanted, read_strategy
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.files import sync
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import check_description, check_name, check_text
from tunesmith.projects.project import DatasetSplit, Task
from tunesmith.training.executor import Parameter
from tunesmith.training.hosted.provider import Value
from tunesmith.training.jobs.job import JobNotes, NewJob

ONLY_JSON = "\n\nReturn only JSON. Do not include any non JSON text.\n"  # Together alone is told, as Kiln does
_LONGEST_TEXT = 100_000
_LONGEST_MODEL = 300
_COMPARED = 100_000  # validation rows looked for among the training rows


class Exports(Protocol):
    """Where the samples of a file or kept dataset come from."""

    def samples(self, dataset_path: str, split_name: str, caller: Caller) -> Iterator[Sample]: ...


class Projects(Protocol):
    """Where tasks and the samples of their splits come from."""

    def task(self, project_id: str, task_id: str, caller: Caller) -> Task: ...

    def split(self, project_id: str, task_id: str, split_id: str, caller: Caller) -> DatasetSplit: ...

    def samples(self, project_id: str, task_id: str, split_id: str, part: str, caller: Caller) -> Iterator[Sample]: ...

    def system_message(self, project_id: str, task_id: str, generator: str, caller: Caller) -> str: ...


class Places(Protocol):
    """The providers as a caller names them."""

    def resolve(self, text: str) -> str: ...

    def parameters(self, provider: str) -> Any: ...

    def check_parameters(self, provider: str, given: Mapping[str, Any]) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True)
class Settled:
    """A job as it will be made.

    Attributes:
        notes: for the run to be; its name may still be the default.
        wanted: how its examples are written.
        training, validation: open the examples anew, each time from the first; ``validation`` None without any.
        warnings: what a person should know, Chinese and English.
    """

    notes: JobNotes
    wanted: Wanted
    training: Callable[[], Iterator[Sample]]
    validation: Callable[[], Iterator[Sample]] | None
    warnings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a job.

    Attributes:
        training_rows, validation_rows: lines of each; the validation file is there when it has any.
        warnings: what a person should know, Chinese and English.
    """

    training_rows: int
    validation_rows: int
    warnings: tuple[tuple[str, str], ...]


class Making:
    """Settles new jobs and writes their files."""

    def __init__(self, places: Places, projects: Projects, exports: Exports) -> None:
        self._places, self._projects, self._exports = places, projects, exports

    def settled(self, new: NewJob, caller: Caller, run_id: str) -> Settled:
        """``new`` with everything settled; no example is read yet.

        Raises:
            Invalid, NotFound: what is wrong, with the field.
        """
        provider = self._places.resolve(new.provider)
        parameters = self._places.check_parameters(provider, new.parameters)
        model = check_text(new.model, "model_name", _LONGEST_MODEL).strip()
        _check_source(new)
        task = self._task(new, caller)
        strategy, instructions = _strategy(new, task)
        system = self._system(new, caller)
        structured = task is not None and task.output_schema is not None
        if structured and provider == "together_ai":
            system = (system or DEFAULT_SYSTEM) + ONLY_JSON
        # the thinking stands before the JSON in one message there, so that the whole is none
        as_json = structured and strategy is not Strategy.R1
        format = Format.OPENAI_CHAT_JSON_SCHEMA if as_json else Format.OPENAI_CHAT
        wanted = check_wanted(Wanted(format, strategy, system, instructions))
        notes = JobNotes(
            run_id=run_id,
            name=_default_name(new, run_id) if new.name is None else check_name(new.name),
            description=check_description(new.description),
            provider=provider,
            model=model,
            strategy=strategy,
            parameters=parameters,
            project_id=new.project_id,
            task_id=new.task_id,
            dataset_path=new.dataset_path,
            split_id=new.split_id,
            train_split=new.train_split if new.split_id else new.split_name,
            validation_split=new.validation_split,
            system_message=wanted.system or DEFAULT_SYSTEM,
            thinking_instructions=wanted.thinking_instructions,
        )
        return self._with_samples(new, notes, wanted, caller)

    def _with_samples(self, new: NewJob, notes: JobNotes, wanted: Wanted, caller: Caller) -> Settled:
        def part(name: str) -> Callable[[], Iterator[Sample]]:
            if new.split_id is None:
                return lambda: self._exports.samples(str(new.dataset_path), name, caller)
            project, task, split = str(new.project_id), str(new.task_id), new.split_id
            return lambda: self._projects.samples(project, task, split, name, caller)

        warnings: tuple[tuple[str, str], ...] = ()
        if new.split_id is not None:
            found = self._projects.split(str(new.project_id), str(new.task_id), new.split_id, caller)
            warnings = found.warnings
        validation = None if notes.validation_split is None else part(notes.validation_split)
        return Settled(notes, wanted, part(notes.train_split), validation, warnings)

    def _task(self, new: NewJob, caller: Caller) -> Task | None:
        if new.project_id is None and new.task_id is None:
            return None
        if new.project_id is None or new.task_id is None:
            missing = "project_id" if new.project_id is None else "task_id"
            raise Invalid(
                "project_id 与 task_id 须同时给出", "project_id and task_id are given together", field=missing
            )
        return self._projects.task(new.project_id, new.task_id, caller)

    def _system(self, new: NewJob, caller: Caller) -> str | None:
        """The system message of every example; None leaves each its own, and those without any the default."""
        if new.system_message is not None and new.system_message.strip():
            return check_text(new.system_message, "system_message", _LONGEST_TEXT)
        if new.system_message_generator is None:
            return None
        if new.project_id is None or new.task_id is None:
            raise Invalid(
                "system_message_generator 需要任务（project_id 与 task_id）；也可以直接给出 system_message",
                "a system_message_generator needs a task (project_id and task_id); or give the system_message itself",
                field="system_message_generator",
            )
        return self._projects.system_message(new.project_id, new.task_id, new.system_message_generator, caller)

    def write(self, settled: Settled, folder: Path | None) -> Written:
        """Write ``train.jsonl``, and ``validation.jsonl`` where there are rows for it, into the new folder ``folder``.

        Args:
            folder: None writes nothing and finds the same faults.

        Raises:
            Invalid: a sample cannot be written (its id is named), or there is none to train on.
        """
        warnings = list(settled.warnings)
        seen: set[bytes] = set()
        scored, shared = 0, 0
        if folder is not None:
            folder.mkdir(parents=True, mode=0o700)
        if settled.validation is not None:
            for line in _poured(lines(settled.validation(), settled.wanted), folder and folder / "validation.jsonl"):
                scored += 1
                if scored <= _COMPARED:
                    seen.add(_digest(line))
            if not scored:
                warnings.append(("验证集为空，将不做验证", "the validation split is empty; nothing will be scored"))
                if folder is not None:
                    (folder / "validation.jsonl").unlink()
        trained = 0
        for line in _poured(lines(settled.training(), settled.wanted), folder and folder / "train.jsonl"):
            trained += 1
            shared += bool(seen) and _digest(line) in seen
        if not trained:
            part = settled.notes.train_split
            raise Invalid(
                f"{part} 中没有样本，无法训练", f"{part} holds no sample; there is nothing to train on", field="dataset"
            )
        if shared and settled.notes.split_id is None:  # a split has told of its own
            warnings.append(
                (
                    f"训练集中有 {shared} 行也在验证集中，验证结果会偏好",
                    f"{shared} training rows are in the validation split too; its figures will look too good",
                )
            )
        if folder is not None:
            sync(folder)
            sync(folder.parent)
        return Written(trained, scored, tuple(dict.fromkeys(warnings)))


def _check_source(new: NewJob) -> None:
    if (new.dataset_path is None) == (new.split_id is None):
        raise Invalid(
            "请给出 dataset_path 或 dataset_id（数据集划分）之一",
            "give either a dataset_path or a dataset_id (a dataset split)",
            field="dataset_path",
        )
    if new.split_id is not None and (new.project_id is None or new.task_id is None):
        raise Invalid(
            "数据集划分属于一个任务：请给出 project_id 与 task_id",
            "a dataset split is a task's: give project_id and task_id",
            field="dataset_id",
        )


def _strategy(new: NewJob, task: Task | None) -> tuple[Strategy, str | None]:
    """The strategy, and its instructions where it has any."""
    given = new.thinking_instructions if (new.thinking_instructions or "").strip() else None
    if given is not None:
        check_text(given, "thinking_instructions", _LONGEST_TEXT)
    usual = Strategy.TWO_MESSAGE if given is not None else Strategy.FINAL_ONLY
    strategy = usual if new.strategy is None else read_strategy(new.strategy)
    if strategy is Strategy.TWO_MESSAGE_LEGACY:
        raise Invalid(
            f"策略 {strategy} 只用于导出，不能用于新的训练；请改用 {Strategy.TWO_MESSAGE}",
            f"the strategy {strategy} is exported and not trained any more; choose {Strategy.TWO_MESSAGE}",
            field="data_strategy",
        )
    if strategy.instructs and given is None:
        given = (task and task.thinking_instruction) or DEFAULT_THINKING
    return strategy, given


def _default_name(new: NewJob, run_id: str) -> str:
    return f"{new.provider.strip().lower()[:20]} {run_id[:8]}".replace("_", " ")


def _poured(rows: Iterator[bytes], path: Path | None) -> Iterator[bytes]:
    """The rows as they come, each written to the new file ``path`` on its way, which is on the disk at the end."""
    if path is None:
        yield from rows
        return
    with path.open("xb") as file:
        for row in rows:
            file.write(row)
            yield row
        _synced(file)


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


def number(values: Mapping[str, Value], allowed: Mapping[str, Parameter], name: str, otherwise: float) -> float:
    """What a job has for a parameter: what was given, or the default there, or what a recipe has where that is open."""
    found = values.get(name, allowed[name].default if name in allowed else None)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else otherwise
