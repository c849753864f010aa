"""Projects, their tasks, the tasks' runs and frozen splits of them, for whoever asks.

A record belongs to the owner of its project; another's is answered like a missing one. All of it blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.datasets.export.sample import Sample
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import Clock
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.projects import prompts, tables
from tunesmith.projects.arriving import Arriving
from tunesmith.projects.checks import check_description, check_known, check_name, is_id, new_id, shown
from tunesmith.projects.dealing import check_seed, chosen_parts, deal, warnings_of
from tunesmith.projects.filters import read_filter
from tunesmith.projects.project import DatasetInfo, DatasetSplit, Imported, Project, SplitPart, Task, TaskRun
from tunesmith.projects.rows import FEW
from tunesmith.projects.run_fields import check_project, check_run, check_task
from tunesmith.projects.run_store import RunStore
from tunesmith.projects.split_store import SplitStore
from tunesmith.projects.store import ProjectStore
from tunesmith.projects.traces import sample
from tunesmith.projects.words import two_words

MOST_LISTED = 1000


class ProjectService:
    """Every verb takes the caller; share between threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._store, self._runs, self._splits = ProjectStore(database), RunStore(database), SplitStore(database)
        self._arriving, self._clock = Arriving(database, clock), clock

    # projects

    def create_project(self, name: str, description: str | None, caller: Caller) -> Project:
        """Record an empty project of the caller's.

        Raises:
            Invalid: it cannot be called or described so.
        """
        fields = check_project({"name": name, "description": description})
        return self._store.add_project(Project(id=new_id(), owner=caller.name, created_at=self._clock(), **fields))

    def projects(self, caller: Caller) -> Sequence[Project]:
        """The caller's, the newest first; an admin's are everybody's."""
        return self._store.projects(caller.only)

    def project(self, id: str, caller: Caller) -> Project:
        """The project with that id.

        Raises:
            NotFound: there is none that the caller sees.
        """
        found = self._store.project(id) if is_id(id) else None
        if found is None or not caller.sees(found.owner):
            raise _missing("项目不存在", "Project not found", id, "project_id")
        return found

    def edit_project(self, id: str, changes: Mapping[str, Any], caller: Caller) -> Project:
        """Change its name or description; raises as ``create_project`` and ``project``."""
        project, fields = self.project(id, caller), check_project(changes)
        self._store.change(tables.projects, project.id, fields)
        return self.project(id, caller)

    def delete_project(self, id: str, caller: Caller) -> Project:
        """Remove it with its tasks, their runs and splits, all at once; raises as ``project``."""
        project = self.project(id, caller)
        self._store.delete(tables.projects, project.id)
        return project

    def import_kiln(self, folder: Path, caller: Caller) -> Project:
        """Add what a project folder of Kiln's holds; the folder is only read, and no link in it followed.

        Raises:
            NotFound, Forbidden, Invalid: see ``kiln.read_folder``; nothing has been added then.
        """
        return self._arriving.kiln(folder, caller.name)

    # tasks

    def create_task(self, project_id: str, fields: Mapping[str, Any], caller: Caller) -> Task:
        """Record a task; ``fields`` has the attributes of Task that callers set, ``name`` and ``instruction`` at least.

        Raises:
            NotFound: there is no such project. Invalid: a field is missing, unknown or wrong.
        """
        project, checked = self.project(project_id, caller), check_task(fields)
        _require(checked, ("name", "instruction"))
        task = Task(id=new_id(), project_id=project.id, created_at=self._clock(), **checked)
        return self._store.add_task(task) or _gone("项目不存在", "Project not found", project_id, "project_id")

    def tasks(self, project_id: str, caller: Caller) -> Sequence[Task]:
        """Those of the project, the oldest first; raises as ``project``."""
        return self._store.tasks(self.project(project_id, caller).id)

    def task(self, project_id: str, task_id: str, caller: Caller) -> Task:
        """The task of the project with that id.

        Raises:
            NotFound: there is no such project or task.
        """
        project = self.project(project_id, caller)
        found = self._store.task(project.id, task_id) if is_id(task_id) else None
        return found or _gone("任务不存在", "Task not found", task_id, "task_id")

    def edit_task(self, project_id: str, task_id: str, changes: Mapping[str, Any], caller: Caller) -> Task:
        """Change what ``changes`` names; schemas stay, as the runs follow them. Raises as ``task``.

        Raises:
            Invalid: a field is unknown or wrong, or a schema would become another.
        """
        task, checked = self.task(project_id, task_id, caller), check_task(changes)
        for field in ("input_schema", "output_schema"):
            if checked.pop(field, (now := getattr(task, field))) != now:
                zh, en = f"{field} 不能更改；请新建任务", f"{field} cannot be changed; make another task"
                raise Invalid(zh, en, field=field)
        self._store.change(tables.tasks, task.id, checked)
        return self.task(project_id, task_id, caller)

    def delete_task(self, project_id: str, task_id: str, caller: Caller) -> Task:
        """Remove it with its runs and splits, all at once; raises as ``task``."""
        task = self.task(project_id, task_id, caller)
        self._store.delete(tables.tasks, task.id)
        return task

    # runs

    def add_run(self, project_id: str, task_id: str, fields: Mapping[str, Any], caller: Caller) -> TaskRun:
        """Record an example; ``fields`` has the attributes of TaskRun that callers set, ``input`` and ``output`` at least.

        Raises:
            NotFound: there is no such task. Invalid: a field is missing, unknown or wrong, or a parent is none.
        """
        task = self.task(project_id, task_id, caller)
        checked = check_run(fields, task)
        _require(checked, ("input", "output"))
        run = TaskRun(id=new_id(), task_id=task.id, created_at=self._clock(), **checked)
        self._check_parent(run)
        return self._runs.add(run) or _gone("任务不存在", "Task not found", task_id, "task_id")

    def runs(
        self,
        project_id: str,
        task_id: str,
        caller: Caller,
        *,
        filter: str = "all",
        limit: int = MOST_LISTED,
        offset: int = 0,
    ) -> Sequence[TaskRun]:
        """Runs that pass the filter, the oldest first, at most 1000 at once; those that others go on from among them.

        Raises:
            NotFound: there is no such task. Invalid: Kiln has no such filter; a limit or offset is out of bounds.
        """
        task = self.task(project_id, task_id, caller)
        for name, value, least, most in (("limit", limit, 1, MOST_LISTED), ("offset", offset, 0, 2**40)):
            if not least <= value <= most:
                raise Invalid(f"{name} 应为 {least} 到 {most}", f"{name} must be {least} to {most}", field=name)
        return self._runs.page(task.id, read_filter(filter), limit, offset)

    def run(self, project_id: str, task_id: str, run_id: str, caller: Caller) -> TaskRun:
        """The run of the task with that id.

        Raises:
            NotFound: there is no such project, task or run.
        """
        task = self.task(project_id, task_id, caller)
        found = self._runs.run(task.id, run_id) if is_id(run_id) else None
        return found or _gone("样本不存在", "Run not found", run_id, "run_id")

    def edit_run(
        self, project_id: str, task_id: str, run_id: str, changes: Mapping[str, Any], caller: Caller
    ) -> TaskRun:
        """Change what ``changes`` names; splits that hold it export it as it is then. Raises as ``run``.

        Raises:
            Invalid: a field is unknown or wrong, or a parent is none.
        """
        run, task = self.run(project_id, task_id, run_id, caller), self.task(project_id, task_id, caller)
        given = dict(changes)
        if "rating" in given and run.rating_type is not None:
            given.setdefault("rating_type", run.rating_type)
        elif "rating_type" in given:
            given.setdefault("rating", run.rating)
        checked = check_run(given, task)
        if checked.get("parent_id"):
            self._check_parent(replace(run, **checked))
        found = self._runs.change(task.id, run.id, lambda kept: replace(kept, **checked))
        return found or _gone("样本不存在", "Run not found", run_id, "run_id")

    def delete_run(self, project_id: str, task_id: str, run_id: str, caller: Caller) -> TaskRun:
        """Remove it; splits that hold it cannot be exported any more. Raises as ``run``."""
        run = self.run(project_id, task_id, run_id, caller)
        self._runs.delete(run.task_id, run.id)
        return run

    def import_file(
        self,
        project_id: str,
        task_id: str,
        file: BinaryIO,
        filename: str,
        caller: Caller,
        *,
        splits: Mapping[str, float] | None = None,
    ) -> Imported:
        """Add a run for every row of a CSV or JSON Lines file, or none.

        Args:
            file: seekable; stays the caller's to close.
            filename: the client's; its suffix tells the kind.
            splits: each row wears one of these tags as well, by these proportions.

        Raises:
            NotFound: there is no such task. Invalid: see ``importing``; "Error in row N: …" for a bad row.
        """
        task = self.task(project_id, task_id, caller)
        found = self._arriving.file(task, file, filename, splits)
        return found or _gone("任务不存在", "Task not found", task_id, "task_id")

    # splits

    def create_split(
        self,
        project_id: str,
        task_id: str,
        caller: Caller,
        *,
        split_type: str | None = None,
        parts: Sequence[SplitPart] | None = None,
        filter: str = "all",
        name: str | None = None,
        description: str | None = None,
        seed: int | None = None,
    ) -> DatasetSplit:
        """Deal the runs that pass, but those that others go on from, into parts, and freeze which went where.

        Args:
            split_type: one of Kiln's presets; or else ``parts``.
            name: two words by chance for None.
            seed: the same seed deals the same runs alike, whatever others there are; a new one for None.

        Raises:
            NotFound: there is no such task. Invalid: a preset, filter, name, percentage or seed that is none.
        """
        task, chosen = self.task(project_id, task_id, caller), chosen_parts(split_type, parts)
        named = two_words() if name is None else check_name(name)
        seeded, described, wanted = check_seed(seed), check_description(description), read_filter(filter)
        dealt = deal(self._runs.candidates(task.id, wanted), chosen, seeded)
        split = DatasetSplit(
            id=new_id(),
            task_id=task.id,
            name=named,
            filter=filter,
            seed=seeded,
            parts=chosen,
            contents={part: tuple(each.id for each in some) for part, some in dealt.items()},
            created_at=self._clock(),
            description=described,
            warnings=warnings_of(dealt, chosen),
        )
        return self._splits.add(split) or _gone("任务不存在", "Task not found", task_id, "task_id")

    def splits(self, project_id: str, task_id: str, caller: Caller) -> Sequence[DatasetSplit]:
        """Those of the task, the oldest first; raises as ``task``."""
        return self._splits.splits(self.task(project_id, task_id, caller).id)

    def split(self, project_id: str, task_id: str, split_id: str, caller: Caller) -> DatasetSplit:
        """The split of the task with that id.

        Raises:
            NotFound: there is no such project, task or split.
        """
        task = self.task(project_id, task_id, caller)
        found = self._splits.split(task.id, split_id) if is_id(split_id) else None
        if found is None:
            name = shown(split_id)
            raise NotFound(f"数据集划分不存在：{name}", f"Dataset split with ID '{name}' not found", field="dataset_id")
        return found

    def edit_split(
        self, project_id: str, task_id: str, split_id: str, changes: Mapping[str, Any], caller: Caller
    ) -> DatasetSplit:
        """Change its name or description; what it holds stays. Raises as ``split``.

        Raises:
            Invalid: another field, or it cannot be called or described so.
        """
        split = self.split(project_id, task_id, split_id, caller)
        check_known(changes, ("name", "description"))
        self._store.change(tables.dataset_splits, split.id, check_project(changes))
        return self.split(project_id, task_id, split_id, caller)

    def delete_split(self, project_id: str, task_id: str, split_id: str, caller: Caller) -> DatasetSplit:
        """Remove it, and none of its runs; raises as ``split``."""
        split = self.split(project_id, task_id, split_id, caller)
        self._store.delete(tables.dataset_splits, split.id)
        return split

    # what training and export read

    def samples(self, project_id: str, task_id: str, split_id: str, part: str, caller: Caller) -> Iterator[Sample]:
        """The examples of a part, in the split's order, some hundreds in memory at once.

        Raises:
            NotFound: at once; there is no such project, task, split or part.
            Invalid: while iterating; a run of it has been deleted, and the message names it.
        """
        split = self.split(project_id, task_id, split_id, caller)
        if part not in split.contents:
            name = shown(part)
            zh, en = f"划分中没有 {name} 部分", f"Dataset split with name '{name}' not found"
            raise NotFound(zh, en, field="split_name", known=list(split.contents))
        return self._samples(split.task_id, split.contents[part])

    def system_message(self, project_id: str, task_id: str, generator: str, caller: Caller) -> str:
        """The system message that one of Kiln's prompt builders makes of the task and its best examples.

        Raises:
            NotFound: there is no such task, or a saved prompt is asked for. Invalid: there is no such builder.
        """
        task = self.task(project_id, task_id, caller)
        return prompts.system_message(task, generator, lambda most: self._runs.examples(task.id, most))

    def info(self, project_id: str, task_id: str, caller: Caller) -> DatasetInfo:
        """What a fine-tune of the task can be made from; raises as ``task``."""
        task = self.task(project_id, task_id, caller)
        return DatasetInfo(tuple(self._splits.splits(task.id)), tuple(self._runs.tag_counts(task.id)))

    def _samples(self, task_id: str, ids: Sequence[str]) -> Iterator[Sample]:
        for start in range(0, len(ids), FEW):
            some = ids[start : start + FEW]
            runs = self._runs.among(task_id, some)
            before = self._runs.before(task_id, list(runs.values()))
            for id in some:
                if id not in runs:
                    raise Invalid(
                        f"样本 {id} 不存在，而这个数据集需要它；请重新划分",
                        f"Task run {id} not found. This is required by this dataset.",
                        field="dataset_id",
                        sample=id,
                    )
                yield sample(runs[id], before[id])

    def _check_parent(self, run: TaskRun) -> None:
        """A parent is another run of the task that does not go on from this one."""
        at, seen = run.parent_id, {run.id}
        while at is not None:
            parent = self._runs.run(run.task_id, at)
            if at in seen or parent is None:
                raise Invalid(
                    f"parent_id 无效：{at}（应为同一任务的另一个样本，且不能成环）",
                    f"parent_id {at} is not another run of this task, or goes on from this one",
                    field="parent_id",
                )
            seen.add(at)
            at = parent.parent_id


def _require(checked: Mapping[str, Any], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in checked:
            raise Invalid(f"缺少 {name}", f"{name} is missing", field=name)


def _missing(zh: str, en: str, id: object, field: str) -> NotFound:
    return NotFound(f"{zh}：{shown(id)}", f"{en}. ID: {shown(id)}", field=field)


def _gone(zh: str, en: str, id: object, field: str) -> Any:
    raise _missing(zh, en, id, field)
