"""``tunesmith models``: what is here, bring a base model in, remove an adapter; exporting one is in ``exporting``."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import completing, exporting, promoting
from tunesmith.cli.screen import HomeOption, JsonOption, line, megabytes, plain, say, show_json, table, verb
from tunesmith.cli.session import opened
from tunesmith.kernel.problems import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from tunesmith.kernel.home import Home
    from tunesmith.models.registry import Registry

app = typer.Typer(no_args_is_help=True, help=say("基座模型与适配器", "Base models and adapters."))

# everything a model needs that cannot run code: no .py, .bin or .pt is ever copied
_COPIED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


@app.command("list", help=say("列出基座模型与适配器", "List base models and adapters."))
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Newest adapters first, each with its version and the aliases that point at that."""
    with opened(home) as services:
        bases, adapters = services.registry.bases(), services.registry.adapters()
        refs = {(version.adapter, version.fingerprint): version.ref for version in services.versions.list()}
        pointing = promoting.pointing(services)
    # one that came or was replaced at this moment has no number yet
    known = [(adapter, refs.get((adapter.name, adapter.version))) for adapter in adapters]
    if as_json:
        import msgspec

        rows = [
            msgspec.to_builtins(adapter, enc_hook=str)
            | {"adapter_version": ref, "aliases": pointing.get(ref, []) if ref else []}
            for adapter, ref in known
        ]
        show_json({"bases": bases, "adapters": rows})
        return
    table(
        [say("基座模型", "base model"), say("结构", "architecture"), say("大小", "size"), say("上下文", "context")],
        [(b.name, b.architecture, megabytes(b.size_bytes), b.context_length) for b in bases],
    )
    table(
        [say("适配器", "adapter"), say("版本", "version"), say("别名", "aliases"), say("基座", "base"), say("秩", "rank"),
         say("大小", "size"), say("时间", "made")],
        [
            (a.name, ref, ", ".join(pointing.get(ref, [])) if ref else "", a.base, a.rank, megabytes(a.size_bytes),
             _when(a.created_at))
            for a, ref in known
        ],
    )  # fmt: skip


@app.command(
    "add", help=say("复制一个 safetensors 模型目录到主目录", "Copy a folder with a safetensors model into home.")
)
@verb
def add(
    name: Annotated[str, typer.Argument(help=say("以后用的名字", "What it will be called."))],
    folder: Annotated[Path, typer.Argument(help=say("模型目录", "The model's folder."))],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Checked before anything is copied, and there as a whole or not at all."""
    from tunesmith.kernel.files import folder_published_whole, require_free
    from tunesmith.models.registry import SHIPPED

    wanted = name.removeprefix("models/")
    if not _NAME.fullmatch(wanted):
        raise Invalid(
            f"模型名 {name!r} 无效：使用字母、数字、点、横线与下划线，至多一个斜杠",
            f"{name!r} is not a model name: letters, digits, dots, dashes and underscores, at most one slash",
            field="name",
        )
    files = list(_files_of(folder))
    _checked(wanted, files)
    registry = _registry(home)
    place = _home(home).path(f"models/{wanted}", "name")
    if wanted == SHIPPED or place.exists():
        raise Conflict(f"模型 {wanted} 已存在：{place}", f"there is a model {wanted} already: {place}", model=wanted)
    place.parent.mkdir(parents=True, exist_ok=True)
    require_free(place.parent, sum(file.stat().st_size for file in files))
    with folder_published_whole(place) as temporary:
        for file in files:
            shutil.copyfile(file, temporary / file.name)
    found = registry.base(wanted)
    if as_json:
        show_json(found)
    else:
        line(
            say(
                f"已添加 {found.name}（{megabytes(found.size_bytes)}）",
                f"added {found.name}, {megabytes(found.size_bytes)}",
            )
        )


@app.command(
    "remove", help=say("删除适配器（有别名指向它时拒绝）", "Delete an adapter; refused while an alias points at it.")
)
@verb
def remove(
    adapter: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.adapters, help=say("适配器或版本（town@3）", "The adapter or version (town@3).")
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("不询问", "Do not ask."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asks first on a terminal."""
    with opened(home) as services:
        name = services.registry.adapter(adapter).name
        asking = sys.stdin.isatty() and not yes and not as_json
        if asking and not typer.confirm(say(f"删除适配器 {plain(name)}？", f"delete {plain(name)}?"), err=True):
            raise typer.Exit(1)
        services.removal.remove(name)
    if as_json:
        show_json({"removed": name})
    else:
        line(say(f"已删除 {name}", f"removed {name}"))


app.command("export", help=exporting.HELP)(exporting.export)


def _files_of(folder: Path) -> Iterator[Path]:
    """The files worth copying; links are followed, as a Hugging Face cache is made of them."""
    place = folder.expanduser()
    if not place.is_dir():
        raise NotFound(f"目录不存在：{folder}", f"there is no folder {folder}", field="folder")
    for pattern in _COPIED:
        yield from sorted(file for file in place.glob(pattern) if file.is_file())


def _checked(name: str, files: list[Path]) -> None:
    """Refuse what the registry would refuse, before gigabytes are copied.

    Raises:
        NotFound, Invalid: as ``Registry.base``.
    """
    from tunesmith.kernel.home import Home
    from tunesmith.models.registry import Registry

    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "models" / name
        staged.mkdir(parents=True)
        for file in files:
            (staged / file.name).symlink_to(file.absolute())
        if not (staged / "config.json").exists():
            raise Invalid("目录中没有 config.json", "the folder holds no config.json", field="folder")
        Registry(Home(Path(scratch)), None).base(f"models/{name}")


def _home(home: Path | None) -> "Home":
    from tunesmith.kernel.home import Home
    from tunesmith.settings import Settings

    return Home(Settings.read(os.environ, home=home).home)


def _registry(home: Path | None) -> "Registry":
    """Folders are the truth, so no database is opened where no version and no alias is told of."""
    from tunesmith.models.registry import Registry
    from tunesmith.settings import Settings

    settings = Settings.read(os.environ, home=home)
    return Registry(_home(home), settings.hf_home)


def _when(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


promoting.add_to(app)
