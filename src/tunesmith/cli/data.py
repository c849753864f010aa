"""``tunesmith datasets``, and how the verbs that take a dataset find it."""

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import HomeOption, JsonOption, line, note, plain, say, show_json, table, verb
from tunesmith.cli.session import opened
from tunesmith.kernel.problems import Conflict, NotFound, Problem

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.datasets.dataset import Dataset
    from tunesmith.kernel.home import Home

app = typer.Typer(no_args_is_help=True, help=say("数据集：添加、查看、划分", "Datasets: add, look at, split."))

NameArgument = Annotated[
    str, typer.Argument(help=say("数据集名称", "The dataset's name."), autocompletion=completing.datasets)
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help=say("json、jsonl、csv、parquet；默认自动判断", "json, jsonl, csv or parquet; told from the file."),
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help=say("坏行放入隔离文件，而不是拒绝整个文件", "Set bad rows aside instead of refusing the file."),
    ),
]


@app.command("add", help=say("读取文件并以名称保存", "Read a file and keep its examples under a name."))
@verb
def add(
    name: NameArgument,
    file: Annotated[
        Path, typer.Argument(help=say("JSON、JSONL、CSV 或 Parquet 文件", "JSON, JSONL, CSV or Parquet file."))
    ],
    shape: Annotated[
        str | None,
        typer.Option(
            help=say("alpaca、sharegpt、openai 等；默认自动判断", "alpaca, sharegpt, openai ...; told from the rows.")
        ),
    ] = None,
    format_: FormatOption = None,
    skip_bad: SkipBadOption = False,
    description: Annotated[str, typer.Option(help=say("说明", "What it is."))] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """A file with bad rows is refused with the first twenty of them."""
    with opened(home) as services:
        kept = services.datasets.add(
            name, file.expanduser(), shape=shape, format=format_, skip_bad=skip_bad, description=description
        )
    if as_json:
        show_json(kept)
    else:
        _tell_added(kept, to_stderr=False)


@app.command("list", help=say("列出数据集", "List datasets."))
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Newest first."""
    with opened(home) as services:
        kept = services.datasets.list()
    if as_json:
        show_json({"datasets": kept})
        return
    columns = [say("名称", "name"), say("格式", "shape"), say("样本", "examples"), say("跳过", "skipped")]
    columns += [say("划分", "splits"), say("时间", "added")]
    table(
        columns, [(d.name, d.shape, d.examples, d.skipped, _splits(d), f"{d.created_at:%Y-%m-%d %H:%M}") for d in kept]
    )


@app.command("show", help=say("查看数据集与前几个样本", "Show a dataset and its first examples."))
@verb
def show(
    name: NameArgument,
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=1000, help=say("样本数", "Examples shown."))] = 3,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The record, and examples as training sees them."""
    with opened(home) as services:
        kept = services.datasets.get(name)
        examples = services.datasets.preview(name, number)
    if as_json:
        show_json({"dataset": kept, "examples": [[m.as_dict() for m in e.messages] for e in examples]})
        return
    _tell_added(kept, to_stderr=False)
    if kept.description:
        line(plain(kept.description))
    if kept.splits:
        line(say(f"划分：{_splits(kept)}", f"splits: {_splits(kept)}"))
    for number_, example in enumerate(examples, 1):
        line(f"#{number_}")
        for message in example.messages:
            line(f"  {message.role:>9}: " + message.content.replace("\n", "\n" + " " * 13))


@app.command("split", help=say("按比例划分（同一种子结果相同）", "Divide by shares; one seed always divides alike."))
@verb
def split(
    name: NameArgument,
    train: Annotated[float, typer.Option(min=0, max=1, help=say("训练集比例", "Share of training."))] = 0.8,
    validation: Annotated[float, typer.Option(min=0, max=1, help=say("验证集比例", "Share of validation."))] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help=say("测试集比例", "Share of test."))] = 0.1,
    seed: Annotated[int, typer.Option(help=say("随机种子", "Random seed."))] = 42,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The parts are then called ``NAME/train``, ``NAME/validation`` and ``NAME/test``."""
    with opened(home) as services:
        kept = services.datasets.split(name, {"train": train, "validation": validation, "test": test}, seed=seed)
    if as_json:
        show_json(kept)
    else:
        line(say(f"{name} 已划分：{_splits(kept)}", f"{name} is split: {_splits(kept)}"))


@app.command("remove", help=say("删除数据集（不影响原文件）", "Delete a dataset; the file it came from stays."))
@verb
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("不询问", "Do not ask."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asks first on a terminal."""
    with opened(home) as services:
        kept = services.datasets.get(name)
        if sys.stdin.isatty() and not yes and not as_json:
            question = (
                f"删除数据集 {plain(name)}（{kept.examples} 个样本）？",
                f"delete {plain(name)} ({kept.examples} examples)?",
            )
            if not typer.confirm(say(*question), err=True):
                raise typer.Exit(1)
        services.datasets.remove(name)
    if as_json:
        show_json({"removed": name})
    else:
        line(say(f"已删除 {name}", f"removed {name}"))


def outside_home(home: "Home", text: str) -> Path | None:
    """The file of this machine that ``text`` means; None where it is a kept dataset or a name under home.

    Home comes first; ``./x``, ``../x``, ``~/x`` and ``/x`` always mean the file.

    Raises:
        NotFound: neither the one nor the other.
    """
    path = Path(text).expanduser()
    if text.startswith(("./", "../", "/", "~")):
        if path.exists():
            return path
        raise NotFound(f"文件不存在：{text}", f"there is no file {text}", field="dataset")
    if _under_home(home, text):
        return None
    if text and path.exists():
        return path
    raise NotFound(
        f"没有名为 {text} 的数据集，主目录与当前目录下也没有这个文件",
        f"{text} is neither a dataset, nor a file under the home folder, nor a file here",
        field="dataset",
    )


def kept_name(services: "Services", text: str, *, format: str | None = None, skip_bad: bool = False) -> str:
    """The name training knows ``text`` by; a file from outside home is added as a dataset first.

    The name of an added file holds a digest of its bytes, so the same file is added once.

    Raises:
        NotFound, Invalid: there is no such thing, or the file has bad rows.
    """
    path = outside_home(services.home, text)
    if path is None:
        return text
    name = name_of(path)
    try:
        kept = services.datasets.get(name)
    except NotFound:
        kept = _add_quietly(services, name, path, format, skip_bad)
        _tell_added(kept, to_stderr=True)
    return kept.name


def _add_quietly(services: "Services", name: str, path: Path, format: str | None, skip_bad: bool) -> "Dataset":
    try:
        return services.datasets.add(name, path, format=format, skip_bad=skip_bad)
    except Conflict:  # another process added the same bytes meanwhile
        return services.datasets.get(name)


def name_of(path: Path) -> str:
    """A name for the file by what it is called and a digest of its bytes."""
    from tunesmith.datasets.reading import open_path

    digest = hashlib.sha256()
    with open_path(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    stem = re.sub(r"[^\w-]+", "-", path.stem).strip("-_")[:24] or "data"
    return f"{stem}-{digest.hexdigest()[:8]}"


def _under_home(home: "Home", text: str) -> bool:
    from tunesmith.datasets.dataset import kept_files

    try:
        if kept_files(home, text) is not None:
            return True
        return home.path(text, "dataset").exists()
    except NotFound:
        raise
    except Problem:  # not a name at all; perhaps a path
        return False


def _tell_added(kept: "Dataset", *, to_stderr: bool) -> None:
    skipped: dict[str, Any] = {"zh": "", "en": ""}
    if kept.skipped:
        where = f"data/processed/{kept.name}/quarantine.jsonl"
        skipped = {
            "zh": f"，{kept.skipped} 行坏数据在 {where}",
            "en": f", {kept.skipped} bad rows set aside in {where}",
        }
    text = say(
        f"数据集 {kept.name}：{kept.examples} 个样本（{kept.shape}）{skipped['zh']}",
        f"dataset {kept.name}: {kept.examples} examples ({kept.shape}){skipped['en']}",
    )
    (note if to_stderr else line)(text)


def _splits(kept: "Dataset") -> str:
    return ", ".join(f"{name} {count}" for name, count in kept.splits.items())
