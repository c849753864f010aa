"""``tunesmith projects``: tasks, their examples and frozen splits of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    aligned,
    line,
    note,
    plain,
    say,
    show_json,
    table,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import opened
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.problems import Invalid, NotFound

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.projects.project import DatasetSplit, Project, Task

app = typer.Typer(
    no_args_is_help=True,
    help=say("项目：任务、样本与数据集划分", "Projects: tasks, their examples and splits of them."),
)

ProjectArgument = Annotated[str, typer.Argument(help=say("项目，id 或名称", "The project, by id or name."))]
TaskArgument = Annotated[str, typer.Argument(help=say("任务，id 或名称", "The task, by id or name."))]
DescriptionOption = Annotated[str | None, typer.Option(help=say("说明", "What it is."))]
_LARGEST_SCHEMA = 1 << 20


class _Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


_Some = TypeVar("_Some", bound=_Named)


@app.command("list", help=say("列出项目", "List projects."))
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Newest first."""
    with opened(home) as services:
        found = services.projects.projects(LOCAL)
    if as_json:
        show_json({"projects": found})
        return
    columns = ["id", say("名称", "name"), say("说明", "description"), say("创建", "created")]
    table(columns, [(p.id, p.name, p.description, f"{p.created_at.astimezone():%Y-%m-%d %H:%M}") for p in found])


@app.command("create", help=say("新建项目", "Make a project."))
@verb
def create(
    name: Annotated[str, typer.Argument(help=say("项目名称", "The project's name."))],
    description: DescriptionOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prints its id."""
    with opened(home) as services:
        made = services.projects.create_project(name, description, LOCAL)
    if as_json:
        show_json(made)
    else:
        line(made.id)


@app.command("show", help=say("查看项目与它的任务", "Show a project and its tasks."))
@verb
def show(project: ProjectArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """How many splits and tagged examples each task has, too."""
    with opened(home) as services:
        found = project_named(services, project)
        tasks = services.projects.tasks(found.id, LOCAL)
        known = [(task, services.projects.info(found.id, task.id, LOCAL)) for task in tasks]
    if as_json:
        show_json({"project": found, "tasks": [{"task": task, "info": info} for task, info in known]})
        return
    told = [("id", found.id), (say("名称", "name"), found.name), (say("说明", "description"), found.description or "")]
    for text in aligned(told):
        line(text)
    columns = [say("任务", "task"), say("名称", "name"), say("划分", "splits"), say("标签", "tags")]
    table(
        columns,
        [(t.id, t.name, len(i.splits), ", ".join(f"{tag.tag} {tag.count}" for tag in i.tags)) for t, i in known],
    )


@app.command("delete", help=say("删除项目及其任务、样本与划分", "Delete a project with all it holds."))
@verb
def delete(
    project: ProjectArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("不询问", "Do not ask."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Jobs that were made from it stay, with the files they were trained on. Asks first on a terminal."""
    with opened(home) as services:
        found = project_named(services, project)
        if sys.stdin.isatty() and not yes and not as_json:
            tasks, name = len(services.projects.tasks(found.id, LOCAL)), plain(found.name)
            if not typer.confirm(
                say(f"删除项目 {name}（{tasks} 个任务）？", f"delete {name} ({tasks} tasks)?"), err=True
            ):
                raise typer.Exit(PROBLEM)
        services.projects.delete_project(found.id, LOCAL)
    if as_json:
        show_json({"deleted": found.id})
    else:
        line(say(f"已删除 {found.name}", f"deleted {found.name}"))


@app.command("tasks", help=say("列出项目的任务", "List a project's tasks."))
@verb
def tasks(project: ProjectArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Oldest first."""
    with opened(home) as services:
        found = services.projects.tasks(project_named(services, project).id, LOCAL)
    if as_json:
        show_json({"tasks": found})
    else:
        table(["id", say("名称", "name"), say("指令", "instruction")], [(t.id, t.name, t.instruction) for t in found])


@app.command("add-task", help=say("给项目添加任务", "Add a task to a project."))
@verb
def add_task(
    project: ProjectArgument,
    name: Annotated[str, typer.Argument(help=say("任务名称", "The task's name."))],
    instruction: Annotated[str, typer.Option(help=say("让模型做什么", "What the model is told to do."))],
    requirement: Annotated[
        list[str] | None,
        typer.Option(help=say("每个回答应遵守的要求，可重复", "What every answer respects; repeatable.")),
    ] = None,
    thinking: Annotated[str | None, typer.Option(help=say("回答前如何思考", "How to think before answering."))] = None,
    input_schema: Annotated[
        Path | None, typer.Option(help=say("输入的 JSON schema 文件", "File: JSON schema of inputs."))
    ] = None,
    output_schema: Annotated[
        Path | None, typer.Option(help=say("输出的 JSON schema 文件", "File: JSON schema of outputs."))
    ] = None,
    description: DescriptionOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prints its id."""
    fields = {
        "name": name,
        "instruction": instruction,
        "description": description,
        "requirements": requirement or None,
        "thinking_instruction": thinking,
        "input_schema": _schema(input_schema),
        "output_schema": _schema(output_schema),
    }
    with opened(home) as services:
        given = {field: value for field, value in fields.items() if value is not None}
        made = services.projects.create_task(project_named(services, project).id, given, LOCAL)
    if as_json:
        show_json(made)
    else:
        line(made.id)


@app.command(
    "import", help=say("把 CSV 或 JSONL 文件的行作为样本加入任务", "Add the rows of a CSV or JSONL file to a task.")
)
@verb
def import_(
    project: ProjectArgument,
    task: TaskArgument,
    file: Annotated[
        Path, typer.Argument(help=say("有 input 与 output 列的文件", "File with the columns input and output."))
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG=SHARE", help=say("按比例给行加标签，可重复", "Tag rows by shares; may be repeated.")),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """All rows or none: a bad one is named."""
    shares = _shares(split or [])
    with opened(home) as services, file.expanduser().open("rb") as opened_file:
        at, found = task_named(services, project, task)
        made = services.projects.import_file(at.id, found.id, opened_file, file.name, LOCAL, splits=shares)
    if as_json:
        show_json(made)
    else:
        line(say(f"已加入 {made.runs} 个样本", f"added {made.runs} examples"))


@app.command(
    "import-kiln",
    help=say("读入 Kiln 的项目文件夹（不修改它）", "Take in a project folder of Kiln's, which is only read."),
)
@verb
def import_kiln(
    folder: Annotated[
        Path, typer.Argument(help=say("含 project.kiln 的文件夹", "The folder that holds project.kiln."))
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prints the new project's id. No link in the folder is followed."""
    with opened(home) as services:
        made = services.projects.import_kiln(folder.expanduser().absolute(), LOCAL)
    if as_json:
        show_json(made)
    else:
        line(made.id)


@app.command("splits", help=say("列出任务的数据集划分", "List the splits of a task."))
@verb
def splits(project: ProjectArgument, task: TaskArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Oldest first."""
    with opened(home) as services:
        at, found = task_named(services, project, task)
        made = services.projects.splits(at.id, found.id, LOCAL)
    if as_json:
        show_json({"splits": made})
        return
    columns = ["id", say("名称", "name"), say("部分", "parts"), say("过滤", "filter"), say("种子", "seed")]
    table(columns, [(s.id, s.name, _parts(s), s.filter, str(s.seed)) for s in made])


@app.command("split", help=say("把任务的样本划分并固定下来", "Deal a task's examples into parts, once and for all."))
@verb
def split(
    project: ProjectArgument,
    task: TaskArgument,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            autocompletion=completing.split_types,
            help=say("train_val（默认）、train_test、train_test_val 等", "train_val when not given, train_test, ..."),
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE", help=say("自定的部分，合计为 1", "Parts of your own, 1 in all; repeatable.")
        ),
    ] = None,
    filter_: Annotated[
        str, typer.Option("--filter", help=say("all、high_rating、tag::x 等", "all, high_rating, tag::x, ..."))
    ] = "all",
    name: Annotated[str | None, typer.Option(help=say("名称", "What it is called; two words."))] = None,
    description: DescriptionOption = None,
    seed: Annotated[int | None, typer.Option(help=say("随机种子", "Random seed."))] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examples that are added later move none of these."""
    from tunesmith.projects.project import SplitPart

    if type_ is not None and part:
        raise wrong_usage("--type 与 --part 只能给出一个", "give either --type or --part")
    shares = _shares(part or [])
    parts = [SplitPart(name=each, percentage=share) for each, share in (shares or {}).items()]
    with opened(home) as services:
        at, found = task_named(services, project, task)
        made = services.projects.create_split(
            at.id,
            found.id,
            LOCAL,
            split_type=type_ or (None if parts else "train_val"),
            parts=parts or None,
            filter=filter_,
            name=name,
            description=description,
            seed=seed,
        )
    if as_json:
        show_json(made)
        return
    line(say(f"{made.id}  {made.name}：{_parts(made)}", f"{made.id}  {made.name}: {_parts(made)}"))
    for zh, en in made.warnings:
        note(say(f"注意：{zh}", f"note: {en}"))


def project_named(services: "Services", text: str) -> "Project":
    """The project of that id, or the only one of that name; raises as ``_named``."""
    return _named(services.projects.projects(LOCAL), text, ("项目", "project"))


def task_named(services: "Services", project: str, task: str) -> "tuple[Project, Task]":
    """The same for a task, with its project."""
    at = project_named(services, project)
    return at, _named(services.projects.tasks(at.id, LOCAL), task, ("任务", "task"))


def project_and_task(services: "Services", project: str | None, task: str | None) -> tuple[str | None, str | None]:
    """The ids of both; None for both where either is not given."""
    if project is None or task is None:
        return None, None
    at, found = task_named(services, project, task)
    return at.id, found.id


def split_of(services: "Services", project_id: str, task_id: str, text: str) -> str:
    """The id of the task's split of that id or name; raises as ``_named``."""
    return _named(services.projects.splits(project_id, task_id, LOCAL), text, ("数据集划分", "dataset split")).id


def _named(known: Sequence[_Some], text: str, kind: tuple[str, str]) -> _Some:
    """The one of that id, or else of that name.

    Raises:
        NotFound: none. Invalid: several are called so.
    """
    found = [each for each in known if each.id == text] or [each for each in known if each.name == text]
    zh, en = kind
    if not found:
        raise NotFound(f"{zh}不存在：{text}", f"there is no {en} {text}")
    if len(found) > 1:
        raise Invalid(
            f"有 {len(found)} 个{zh}名为 {text}，请用 id", f"{len(found)} {en}s are called {text}; use the id"
        )
    return found[0]


def _shares(given: list[str]) -> dict[str, float] | None:
    """``train=0.8`` as a name and a share."""
    found: dict[str, float] = {}
    for each in given:
        name, _, text = each.rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not name or not 0 <= share <= 1 or name in found:
            raise wrong_usage(
                f"应为 名称=比例（0 到 1），每个名称一次，得到 {each!r}",
                f"expected NAME=SHARE with a share in 0 to 1, each name once, got {each!r}",
            )
        found[name] = share
    return found or None


def _schema(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.expanduser().open("rb") as file:
        text = file.read(_LARGEST_SCHEMA + 1)
    try:
        if len(text) <= _LARGEST_SCHEMA:
            return text.decode()
    except UnicodeDecodeError:
        pass
    raise Invalid(f"{path} 不是 JSON schema 文本（至多 1 MB）", f"{path} is no text of a JSON schema (1 MB at most)")


def _parts(found: "DatasetSplit") -> str:
    return ", ".join(f"{name} {len(ids)}" for name, ids in found.contents.items())
