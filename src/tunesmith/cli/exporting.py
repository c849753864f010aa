"""``tunesmith models export``: an adapter taken elsewhere, and whether it says the same there."""

import os
import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import PROBLEM, HomeOption, JsonOption, line, note, say, show_json, verb, wrong_usage
from tunesmith.kernel.problems import Invalid, Problem

if TYPE_CHECKING:
    from tunesmith.datasets.example import Example
    from tunesmith.kernel.home import Home
    from tunesmith.models.export.parity import Check, Parity
    from tunesmith.models.model import Adapter, BaseModel
    from tunesmith.models.registry import Registry

HELP = say(
    "把适配器写到别处：PEFT 目录、合并后的模型、GGUF 或 Ollama 目录；随后检查它的回答是否与我们的一致",
    "Write an adapter elsewhere as a PEFT folder, merged weights, GGUF or a folder for Ollama, then check that it "
    "answers as we do.",
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


class Form(StrEnum):
    PEFT, MERGED, GGUF, OLLAMA = "peft", "merged", "gguf", "ollama"


class NumberType(StrEnum):
    F16, BF16, F32, Q8_0 = "f16", "bf16", "f32", "q8_0"


@verb
def export(
    adapter: Annotated[str, typer.Argument(autocompletion=completing.adapters, help=say("适配器", "The adapter."))],
    destination: Annotated[Path, typer.Argument(help=say("目标目录（新建）", "The folder to make."))],
    form: Annotated[
        Form | None, typer.Option("--as", help=say("写成什么，默认 peft", "What to write; peft when not given."))
    ] = None,
    type: Annotated[
        NumberType, typer.Option("--type", help=say("GGUF 中权重的类型", "How GGUF files keep weights."))
    ] = NumberType.F16,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate",
            help=say("GGUF：基座与适配器各一个文件", "GGUF: the base and the adapter as two files, not one merged."),
        ),
    ] = False,
    max_shard: Annotated[
        str, typer.Option("--max-shard", help=say("每个权重文件的上限", "Most a safetensors file may hold."))
    ] = "4GB",
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="DATASET",
            autocompletion=completing.datasets,
            help=say("用哪个数据集比较；默认为训练所用数据集的 test", "Ask these; the test split it was trained with."),
        ),
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help=say("不比较", "Do not compare."))] = False,
    check_rows: Annotated[
        int, typer.Option("--check-rows", min=1, help=say("最多比较多少题", "Most questions to compare."))
    ] = 20,
    merged: Annotated[bool, typer.Option("--merged", help=say("同 --as merged", "The same as --as merged."))] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The folder is there as a whole or not at all."""
    from tunesmith.models.export.exporting import Export
    from tunesmith.models.export.exporting import export as make

    wanted_form = form or (Form.MERGED if merged else Form.PEFT)
    _check_usage(wanted_form, merged=merged, separate=separate, check=check, no_check=no_check)
    found = _found(home, adapter)
    base = _base(home, found, needed=wanted_form is not Form.PEFT)
    asked = _check(home, found, check, check_rows, no_check=no_check)
    place = destination.expanduser().absolute()
    wanted = Export(base, found, place, wanted_form.value, type.value, separate, _bytes(max_shard))
    parity = make(wanted, asked, lambda zh, en: note(say(zh, en)))
    if as_json:
        show_json(
            {
                "adapter": found.name,
                "base": found.base,
                "as": wanted_form,
                "merged": wanted_form is Form.MERGED,
                "folder": str(place),
                "parity": parity,
            }
        )
    else:
        line(say(f"已写到 {place}", f"written to {place}"))
        for sentence in sentences(parity):
            line(sentence)
    if parity.alarming:
        raise typer.Exit(PROBLEM)


def sentences(parity: "Parity") -> Iterator[str]:
    """What a check found, in the person's language."""
    reason = "" if parity.reason is None else say(parity.reason.zh, parity.reason.en)
    if parity.state == "not_done":
        yield say(f"未比较：{reason}", f"not compared: {reason}")
        return
    if parity.state == "failed":
        yield say(f"警告：无法检查导出的模型：{reason}", f"warning: the exported model could not be asked: {reason}")
        return
    yield say(
        f"{parity.against} 与我们比较 {parity.rows} 题（{parity.dataset}）：提示词元相同 {parity.prompts_equal}，"
        f"回答相同 {parity.identical}，舍入可解释 {parity.explained}；对数概率平均相差 {parity.drift:.2g} nat"
        f"（适配器本身的影响 {parity.effect:.2g}）",
        f"{parity.against} against ours on {parity.rows} questions ({parity.dataset}): {parity.prompts_equal} with the "
        f"same prompt tokens, {parity.identical} answered the same, {parity.explained} differ as rounding explains; "
        f"log-probabilities are {parity.drift:.2g} nats apart on average (the adapter itself moves {parity.effect:.2g})",
    )
    if parity.first is not None:
        at = parity.first
        yield say(
            f"首个差异：第 {at.row + 1} 题第 {at.token + 1} 个词元，我们 {at.ours!r}，导出 {at.theirs!r}"
            f"（我们的模型偏好 {at.margin:.3g} nat）",
            f"first difference: question {at.row + 1}, token {at.token + 1}: ours {at.ours!r}, exported {at.theirs!r} "
            f"(our model prefers its own by {at.margin:.3g} nats)",
        )
    if parity.state == "different":
        yield say(
            "警告：差异超出舍入所能解释的范围，请勿直接使用该导出",
            "warning: this is more than rounding explains; do not use the export as it is",
        )


def _check_usage(form: Form, *, merged: bool, separate: bool, check: str | None, no_check: bool) -> None:
    if merged and form is not Form.MERGED:
        raise wrong_usage(f"--merged 与 --as {form} 矛盾", f"--merged and --as {form} contradict each other")
    if separate and form not in (Form.GGUF, Form.OLLAMA):
        raise wrong_usage("--separate 只用于 gguf 与 ollama", "--separate goes with --as gguf and --as ollama")
    if check is not None and no_check:
        raise wrong_usage("--check 与 --no-check 矛盾", "--check and --no-check contradict each other")


def _found(home: Path | None, name: str) -> "Adapter":
    """The adapter of that name, alias (``prod``) or version (``town@3``); a path needs no database to be found."""
    from tunesmith.cli.session import opened
    from tunesmith.settings import Settings

    settings = Settings.read(os.environ, home=home)
    kept = settings.database_url is not None or (settings.home / "tunesmith.db").exists()
    if not kept or ("/" in name and "@" not in name):
        return _registry(home).adapter(name)
    with opened(home) as services:
        return services.registry.adapter(name)


def _base(home: Path | None, adapter: "Adapter", *, needed: bool) -> "BaseModel | None":
    try:
        return _registry(home).base(adapter.base)
    except Problem:
        if needed:
            raise
        return None


def _check(home: Path | None, adapter: "Adapter", asked: str | None, most: int, *, no_check: bool) -> "Check | Parity":
    """The questions to compare with, or why there are none.

    Raises:
        NotFound, Invalid: the dataset that was asked for cannot be used.
    """
    from tunesmith.models.export.parity import Check, not_done

    if no_check:
        return not_done("按要求跳过", "left out, as asked")
    under, threads = _home(home), _threads(home)
    for name in [asked] if asked is not None else _trained_on(adapter):
        try:
            questions = [[turn.as_dict() for turn in row.prompt] for row in islice(_examples(under, name), most)]
        except Problem:
            if asked is not None:
                raise
            continue
        if questions:
            return Check(name, questions, threads=threads)
        if asked is not None:
            raise Invalid(f"{asked} 中没有样本", f"{asked} holds no examples", field="check")
    return not_done(
        "找不到训练该适配器的数据集；用 --check 数据集 指定",
        "the dataset it was trained on is not here; name one with --check DATASET",
    )


def _trained_on(adapter: "Adapter") -> list[str]:
    """Datasets to ask, the best first: the test split beside what it was trained on, then that itself."""
    import msgspec

    try:
        facts: dict[str, Any] = msgspec.json.decode((adapter.path / "tunesmith.json").read_bytes(), type=dict[str, Any])
        name = str(facts["recipe"]["dataset"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return []  # made by somebody else
    return [f"{name.removesuffix('/train')}/test", name]


def _examples(home: "Home", name: str) -> Iterator["Example"]:
    """The examples of a dataset, or of any file of this machine; bad rows are left out."""
    from tunesmith.cli.data import outside_home
    from tunesmith.datasets.reading import read_examples, read_file

    path = outside_home(home, name)
    left_out: list[object] = []
    yield from (
        read_examples(home, name, on_bad=left_out.append) if path is None else read_file(path, on_bad=left_out.append)
    )


def _bytes(text: str) -> int:
    """``4GB``, ``500MB``, ``2GiB`` as bytes."""
    found = _SIZE.fullmatch(text.strip())
    size = 0
    if found is not None:
        power = "KMGT".find(found[2].upper()) + 1 if found[2] else 0
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size <= 0:
        raise wrong_usage(f"--max-shard {text!r} 不是大小，例如 4GB", f"--max-shard {text!r} is no size; try 4GB")
    return size


def _home(home: Path | None) -> "Home":
    from tunesmith.kernel.home import Home
    from tunesmith.settings import Settings

    return Home(Settings.read(os.environ, home=home).home)


def _threads(home: Path | None) -> int:
    from tunesmith.settings import Settings

    return Settings.read(os.environ, home=home).threads or os.cpu_count() or 1


def _registry(home: Path | None) -> "Registry":
    from tunesmith.models.registry import Registry
    from tunesmith.settings import Settings

    return Registry(_home(home), Settings.read(os.environ, home=home).hf_home)
