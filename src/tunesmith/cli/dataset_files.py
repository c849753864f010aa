"""``tunesmith datasets export``: examples in a format that a training wants."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import completing, data
from tunesmith.cli.screen import HomeOption, JsonOption, line, note, say, show_json, verb, wrong_usage
from tunesmith.cli.session import opened
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.problems import Conflict, NotFound

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.datasets.export.sample import Sample, Wanted

HELP = say(
    "把文件、数据集或任务的划分写成训练所用的格式",
    "Write a file, a dataset or a task's split in a format that a training wants.",
)


@verb
def export(
    dataset: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completing.datasets,
            help=say("数据集、主目录下的文件，或任意文件", "Dataset, file under home, or any file."),
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=completing.formats,
            help=say("六种格式之一，如 openai_chat_jsonl", "openai_chat_jsonl, vertex_gemini, ..."),
        ),
    ] = "openai_chat_jsonl",
    strategy: Annotated[
        str,
        typer.Option(
            autocompletion=completing.strategies, help=say("训练样本的哪些内容", "What of an example is trained on.")
        ),
    ] = "final_only",
    project: Annotated[str | None, typer.Option(help=say("项目（id 或名称）", "Project, by id or name."))] = None,
    task: Annotated[str | None, typer.Option(help=say("项目中的任务", "Task of the project."))] = None,
    split: Annotated[str | None, typer.Option(help=say("任务的数据集划分", "Dataset split of the task."))] = None,
    part: Annotated[
        str | None, typer.Option(help=say("哪一部分：train、validation、test、all", "train, validation, test or all."))
    ] = None,
    system: Annotated[
        str | None, typer.Option(help=say("每个样本的系统消息", "System message of every example."))
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            autocompletion=completing.generators,
            help=say("由任务生成系统消息", "What makes the system message of the task."),
        ),
    ] = None,
    thinking: Annotated[str | None, typer.Option(help=say("思考指令", "Thinking instructions."))] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=say("写到文件；默认标准输出", "File; standard output if not given.")),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=say("替换已有文件", "Replace a file that is there."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every row is checked before the first is written, so a bad one leaves nothing half done."""
    _check_usage(dataset, project, task, split, generator, output, as_json=as_json)
    target = output.expanduser() if output else None
    if target is not None and target.exists() and not force:
        raise Conflict(f"{target} 已存在；可用 --force 替换", f"{target} is there already; --force replaces it")
    with opened(home) as services, ExitStack() as stack:
        if dataset is not None:
            name, chosen = Path(dataset).stem, part or "all"
            wanted = _wanted(format_, strategy, system, thinking)
            samples = _samples(services, dataset, chosen, stack)
        else:
            assert project and task and split
            chosen = part or "train"
            name, wanted, samples = _of_split(
                services, (project, task, split), chosen, (format_, strategy, system, thinking), generator
            )
        made = stack.enter_context(closing(services.exports.open(samples, wanted, dataset=name, split=chosen)))
        rows, size = made.rows, made.size
        _written(made.chunks(), target)
    if as_json:
        show_json({"file": target, "rows": rows, "size_bytes": size, "filename": made.filename})
    elif target is not None:
        line(say(f"已写到 {target}：{rows} 行", f"written to {target}: {rows} rows"))
    else:
        note(say(f"{rows} 行", f"{rows} rows"))


def _samples(services: "Services", text: str, part: str, stack: ExitStack) -> "Iterator[Sample]":
    """Those of a dataset or file under home, or of a file anywhere, which is only read."""
    from tunesmith.datasets.export.rows import file_samples

    path = data.outside_home(services.home, text)
    if path is None:
        return services.exports.samples(text, part, LOCAL)
    if part not in ("train", "all"):
        raise NotFound(f"文件没有 {part} 部分", f"a file has no part {part}", field="part")
    return file_samples(stack.enter_context(path.open("rb")), path.name)


def _of_split(
    services: "Services",
    named: tuple[str, str, str],
    part: str,
    asked: tuple[str, str, str | None, str | None],
    generator: str | None,
) -> "tuple[str, Wanted, Iterator[Sample]]":
    from tunesmith.cli.projects import split_of, task_named

    project, task = task_named(services, named[0], named[1])
    split = services.projects.split(project.id, task.id, split_of(services, project.id, task.id, named[2]), LOCAL)
    format_, strategy, system, thinking = asked
    if generator is not None:
        system = services.projects.system_message(project.id, task.id, generator, LOCAL)
    wanted = _wanted(format_, strategy, system, thinking, task.thinking_instruction)
    return split.name, wanted, services.projects.samples(project.id, task.id, split.id, part, LOCAL)


def _wanted(
    format_: str, strategy: str, system: str | None, thinking: str | None, usual: str | None = None
) -> "Wanted":
    """How to write; ``usual`` are the instructions where the strategy wants some and none are given."""
    from tunesmith.datasets.export.sample import Wanted
    from tunesmith.datasets.export.wanted import DEFAULT_THINKING, check_wanted, read_format, read_strategy

    chosen = read_strategy(strategy)
    said = thinking if thinking and thinking.strip() else None
    return check_wanted(
        Wanted(
            read_format(format_), chosen, system, said or ((usual or DEFAULT_THINKING) if chosen.instructs else None)
        )
    )


def _written(chunks: Iterator[bytes], target: Path | None) -> None:
    from tunesmith.kernel.files import written_whole

    if target is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with written_whole(target) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


def _check_usage(
    dataset: str | None,
    project: str | None,
    task: str | None,
    split: str | None,
    generator: str | None,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    of_task = [project, task, split]
    if (dataset is None) == (not any(of_task)) or (any(of_task) and not all(of_task)):
        raise wrong_usage(
            "请给出一个数据集或文件，或 --project、--task 与 --split",
            "give a dataset or file, or --project, --task and --split",
        )
    if generator is not None and dataset is not None:
        raise wrong_usage("--generator 需要任务", "--generator needs a task")
    if as_json and output is None:
        raise wrong_usage("--json 需要 --output", "--json needs --output: standard output holds the rows")
