"""``tunesmith datasets check``: the data looked over as training would read it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, data
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    aligned,
    console,
    language,
    line,
    note,
    plain,
    say,
    show_json,
    table,
    verb,
)
from tunesmith.cli.session import opened
from tunesmith.kernel.problems import NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.app import Services
    from tunesmith.datasets.example import Example
    from tunesmith.datasets.preferences import Preference
    from tunesmith.datasets.reading import OnBad
    from tunesmith.kernel.home import Home
    from tunesmith.training.data.doctor import Doctor, Examined, Preview
    from tunesmith.training.data.findings import Bin, Kind, Part, Report, Role, Spread

HELP = say(
    "训练前检查数据：坏行、重复、泄漏、截断、学习哪些词元",
    "Look data over before training: bad rows, duplicates, leaks, cuts, and which tokens are learned.",
)
MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow")}
KINDS: "dict[Kind, tuple[str, str]]" = {
    "bad": ("坏行", "bad rows"),
    "cut": ("截断", "cut"),
    "duplicate": ("重复", "duplicates"),
    "leak": ("泄漏", "leaks"),
    "same": ("回答几乎相同", "nearly the same answers"),
    "contrary": ("与前面的相反", "contrary to an earlier row"),
    "thought": ("空的 <think>", "empty <think>"),
    "end": ("不学结束标记", "end token not learned"),
}
_BAR = 40  # columns of the longest bar
_ON_A_PAGE = 20  # examples in the HTML file


@verb
def check(
    dataset: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.datasets,
            help=say("数据集、主目录下的文件，或任意文件", "Dataset, file under home, or any file."),
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            autocompletion=completing.bases,
            help=say("基座模型，决定分词与对话模板", "Base model, whose tokenizer and chat template are used."),
        ),
    ] = "tunesmith-small",
    max_length: Annotated[
        int | None, typer.Option(min=1, help=say("样本的最多词元数", "Most tokens of an example."))
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help=say("验证集，检查是否泄漏", "Validation data, held against the dataset."))
    ] = None,
    format_: data.FormatOption = None,
    html: Annotated[
        Path | None, typer.Option(help=say("把报告与预览写入 HTML 文件", "Write report and preview to an HTML file."))
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help=say("预览几个样本，默认 1，HTML 为 20", "Examples shown; 1, in HTML 20.")),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exit status 1 when a run could not start on this data; warnings leave it 0. Preferences are told by their rows."""
    wanted = preview if preview is not None else _ON_A_PAGE if html else 1
    with opened(home) as services:
        report, shown = _examined(services, dataset, validation, base, max_length, format_, wanted)
    if html is not None:
        from tunesmith.cli.check_page import write_page

        write_page(html.expanduser(), report, shown)
    if as_json:
        show_json(as_dict(report) | {"preview": shown if preview is not None else []})
    else:
        _print(report, shown if preview is not None or html is None else [])
        if html is not None:
            note(say(f"报告：{html}", f"report: {html}"))
    if not report.sound:
        raise typer.Exit(PROBLEM)


def _examined(
    services: "Services",
    dataset: str,
    validation: str | None,
    base: str,
    max_length: int | None,
    format_: str | None,
    wanted: int,
) -> "tuple[Report, list[Preview]]":
    from tunesmith.training.data.doctor import Doctor, end_tokens, previews
    from tunesmith.training.data.encoding import Encoder
    from tunesmith.training.data.tokenizing import load_tokenizer
    from tunesmith.training.run import Recipe

    found = services.registry.base(base)
    parts = list(_parts(services.home, dataset, format_))
    pairs = len(parts) == 1 and parts[0].holds_preferences()
    if validation is not None:
        parts = [part for part in parts if part.role != "validation"]
        parts.append(_given(services.home, validation, "validation", None))
    most = max_length or min(Recipe(base, dataset).max_length, found.context_length)
    tokenizer = load_tokenizer(found.path)
    doctor = Doctor(Encoder(tokenizer, most), found.name, most, end_tokens(tokenizer, found.path), keep=wanted)
    examined = [part.examined(doctor, pairs=pairs) for part in parts]
    shown = previews(tokenizer, [row for part in examined for row in part.first][:wanted], most)
    return doctor.report(), shown


def _parts(home: "Home", text: str, format_: str | None) -> "Iterator[_Given]":
    """What ``text`` stands for, split by split where it is a dataset that was split."""
    from tunesmith.datasets.dataset import SPLITS

    roles: dict[str, Role] = {"train": "train", "validation": "validation", "test": "test"}
    whole = _given(home, text, "train", format_)
    splits = [] if whole.path else [name for name in SPLITS if _is_split(home, f"{text}/{name}")]
    if not splits:
        yield whole
    for name in splits:
        yield _given(home, f"{text}/{name}", roles[name], None)


def _is_split(home: "Home", name: str) -> bool:
    from tunesmith.datasets.dataset import kept_files

    try:
        return kept_files(home, name) is not None
    except NotFound:
        return False


def _given(home: "Home", text: str, role: "Role", format_: str | None) -> "_Given":
    path = data.outside_home(home, text)
    return _Given(home, path.name if path else text, path, role, format_)


@dataclass(frozen=True, slots=True)
class _Given:
    """A file or a split to be looked over.

    Attributes:
        label: what messages call it. path: of a file outside the home folder.
    """

    home: "Home"
    label: str
    path: Path | None
    role: "Role"
    format: str | None

    def holds_preferences(self) -> bool:
        """Whether its rows say which of two answers is better."""
        from tunesmith.datasets.preferences import file_holds_preferences, holds_preferences

        if self.path is not None:
            return file_holds_preferences(self.path, format=self.format)
        return holds_preferences(self.home, self.label, format=self.format)

    def examined(self, doctor: "Doctor", *, pairs: bool) -> "Examined":
        """What ``doctor`` finds in it, read as a run would read it."""
        if pairs:
            return doctor.examine_pairs(self.preferences, self.label, self.role)
        return doctor.examine(self.examples, self.label, self.role)

    def preferences(self, on_bad: "OnBad") -> "Iterator[Preference]":
        from tunesmith.datasets.preferences import read_preference_file, read_preferences

        if self.path is not None:
            return read_preference_file(self.path, format=self.format, on_bad=on_bad)
        return read_preferences(self.home, self.label, format=self.format, on_bad=on_bad)

    def examples(self, on_bad: "OnBad") -> "Iterator[Example]":
        from tunesmith.datasets.reading import read_examples, read_file

        if self.path is not None:
            return read_file(self.path, format=self.format, on_bad=on_bad)
        return read_examples(self.home, self.label, format=self.format, on_bad=on_bad)


def as_dict(report: "Report") -> dict[str, Any]:
    """The JSON form of a report."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(report)
    return {"ok": report.sound, **found}


def _print(report: "Report", shown: "list[Preview]") -> None:
    from rich.text import Text

    screen = console()
    for finding in report.findings:
        mark, style = MARKS[finding.level]
        row = Text(f"{mark} ", style=style)
        row.append(plain(finding.text(language())), style="default")
        screen.print(row, soft_wrap=True)
    for text in more(report):
        line(f"  {text}")
    if report.findings:
        line()
    table(*parts_table(report))
    for part in report.parts:
        _print_lengths(part, report.max_length)
    for text in facts(report):
        line(text)
    for example in shown:
        line()
        _print_preview(screen, example)
    line()
    line(verdict(report))


def verdict(report: "Report") -> str:
    """How it stands, in one line."""
    warned = sum(finding.level == "warning" for finding in report.findings)
    if not report.sound:
        return say(f"不能训练：{report.line('zh')}", f"a run would refuse this: {report.line('en')}")
    if warned:
        return say(f"可以训练；{report.line('zh')}", f"a run can start: {report.line('en')}")
    return say(f"一切正常：{report.line('zh')}", f"everything is in order: {report.line('en')}")


def more(report: "Report") -> list[str]:
    """What is said of findings that are not listed one by one."""
    said = []
    for part in report.parts:
        listed = Counter(finding.kind for finding in report.findings if finding.part == part.label)
        counts: dict[Kind, int] = {
            "bad": part.bad,
            "duplicate": part.duplicates,
            "leak": part.leaks,
            "thought": part.empty_thoughts,
            "end": part.endless,
            "cut": part.cut_learning,
            "same": part.same,
            "contrary": part.contrary,
        }
        for kind, number in counts.items():
            if number > listed[kind]:
                name = say(*KINDS[kind])
                said.append(
                    say(f"{part.label}：{name}共 {number} 行，列出 {listed[kind]} 行",
                        f"{part.label}: {name}, {number} rows in all, {listed[kind]} listed")
                )  # fmt: skip
    return said


def parts_table(report: "Report") -> tuple[list[str], list[tuple[object, ...]]]:
    """Columns and rows of the table of parts."""
    columns = [say("数据", "data"), say("样本", "examples"), say("坏行", "bad"), say("重复", "duplicates")]
    columns += [say("同问", "alike"), say("泄漏", "leaks"), say("截断", "cut"), say("丢失回答", "lost")]
    spread, pairs = say("（中位/p99/最长）", " (median/p99/most)"), any(part.pairs for part in report.parts)
    columns += [f"chosen{spread}", f"rejected{spread}"] if pairs else [say("词元", "tokens") + spread]
    columns += [say("学习（最少/中位）", "learned (least/median)")]
    rows: list[tuple[object, ...]] = []
    for part in report.parts:
        learned = part.learned
        rows.append((
            part.label, part.examples, part.bad, part.duplicates, part.alike, part.leaks, part.cut, part.answers_lost,
            *map(_spread, [part.tokens, part.rejected] if pairs else [part.tokens]),
            f"{learned.least}/{learned.median}" if learned else "-",
        ))  # fmt: skip
    return columns, rows


def _spread(tokens: "Spread | None") -> str:
    return f"{tokens.median}/{tokens.p99}/{tokens.most}" if tokens else "-"


def histograms(part: "Part") -> "list[tuple[str, tuple[Bin, ...]]]":
    """What is counted, and the rows by their number of tokens; of preferences one for either answer."""
    title = say(f"{part.label} 的词元数", f"tokens of {part.label}")
    if not part.pairs:
        return [(title, part.lengths)] if part.lengths else []
    return [(f"{title} (chosen)", part.lengths), (f"{title} (rejected)", part.rejected_lengths)]


def facts(report: "Report") -> list[str]:
    """What holds for all the data."""
    ends = " ".join(map(repr, report.ends)) or "-"
    endless = sum(part.endless for part in report.parts)
    taught = say(
        "推理时不会停在这里" if endless else "推理时停在这里",
        "serving does not stop there" if endless else "serving stops there",
    )
    dpo = [(say("训练", "train with"), "--objective dpo")] if any(part.pairs for part in report.parts) else []
    return aligned([
        *dpo,
        (say("基座", "base"), report.base),
        (say("最多词元", "max_length"), report.max_length),
        (say("对话模板", "template"), f"sha256 {report.template_sha256[:16]}"),
        (say("回答结束于", "answers end"), say(f"{ends}（{taught}）", f"{ends} ({taught})")),
    ])  # fmt: skip


def _print_lengths(part: "Part", max_length: int) -> None:
    """The histograms; rows behind the limit are marked."""
    for title, lengths in histograms(part):
        line(title)
        longest = max(row.rows for row in lengths)
        width = len(str(lengths[-1].upto))
        for row in lengths:
            bar = "█" * max(row.rows > 0, round(_BAR * row.rows / longest))
            cut = say("  截断", "  cut") if row.upto > max_length and row.rows else ""
            line(f"  ≤{row.upto:>{width}}  {bar} {row.rows}{cut}")


def _print_preview(screen: "Console", example: "Preview") -> None:
    """Learned text in green, what is cut off struck through; without colours ⟦learned⟧ and ✂ where it is cut."""
    from rich.text import Text

    line(preview_title(example))
    coloured = screen.color_system is not None and not screen.no_color
    row, cut = Text(), False
    for piece in example.pieces:
        text = plain(piece.text)
        if piece.cut and not cut and not coloured:
            row.append("✂")
        cut = piece.cut
        style = "strike red" if piece.cut else "bold green" if piece.learned else "dim"
        row.append(f"⟦{text}⟧" if piece.learned and not coloured else text, style=style)
    screen.print(row, soft_wrap=True)


def preview_title(example: "Preview") -> str:
    """Which example, and how much of it is learned."""
    where = f"{example.file}:{example.line}" + (f" {example.answer}" if example.answer else "")
    return say(
        f"{where}  {example.tokens} 个词元，学习 {example.learned} 个",
        f"{where}  {example.tokens} tokens, {example.learned} learned",
    )
