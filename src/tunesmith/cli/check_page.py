"""The report on data as one HTML file that needs no other. What rows say is hostile: all of it is escaped."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.checking import MARKS, facts, histograms, more, parts_table, preview_title, verdict
from tunesmith.cli.screen import language, plain, say
from tunesmith.kernel.files import written_whole

if TYPE_CHECKING:
    from tunesmith.training.data.doctor import Preview
    from tunesmith.training.data.findings import Bin, Report

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: 1em; border-radius: 6px; }
.bar { background: #9bc; height: 1em; display: inline-block; } .over { background: #e99; }
.learned { background: #bfe8bf; } .cut { text-decoration: line-through; color: #a33; }
.error { color: #b00; } .warning { color: #960; } li { list-style: none; }
"""
_PX = 400  # width of the longest bar


def write_page(path: Path, report: "Report", shown: "list[Preview]") -> None:
    """Write the page to ``path``, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(page(report, shown), encoding="utf-8")


def page(report: "Report", shown: "list[Preview]") -> str:
    """The page: verdict, findings, table, lengths, and the examples with what is learned marked."""
    title = say("数据检查", "data check")
    names = ", ".join(part.label for part in report.parts)
    legend = say(
        "绿底的词元会被学习；划去的被 max_length 切掉",
        "what is green is learned; what is struck through is cut off by max_length",
    )
    if any(example.answer for example in shown):
        legend += say(
            "；偏好只学习两个回答不同的部分", "; of preferences only what the two answers do not share is learned"
        )
    body = [
        f"<h1>{_safe(title)}: {_safe(names)}</h1>",
        f"<p><strong>{_safe(verdict(report))}</strong></p>",
        _findings(report),
        _table(report),
        *(_lengths(*each, report.max_length) for part in report.parts for each in histograms(part)),
        f"<pre>{_safe(chr(10).join(facts(report)))}</pre>",
        f"<h2>{_safe(say('预览', 'preview'))}</h2><p>{_safe(legend)}</p>" if shown else "",
        *(_preview(example) for example in shown),
    ]
    head = (
        '<meta charset="utf-8">'
        # a script that slipped through all the same would not run, and nothing is fetched
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_safe(title)}</title><style>{_STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="{language()}"><head>{head}</head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _findings(report: "Report") -> str:
    items = [
        f'<li class="{finding.level}">{MARKS[finding.level][0]} {_safe(finding.text(language()))}</li>'
        for finding in report.findings
    ]
    items += [f"<li>{_safe(text)}</li>" for text in more(report)]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _table(report: "Report") -> str:
    columns, rows = parts_table(report)
    head = "".join(f"<th>{_safe(column)}</th>" for column in columns)
    cells = ("".join(f"<td>{_safe(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _lengths(title: str, lengths: "tuple[Bin, ...]", max_length: int) -> str:
    longest = max(row.rows for row in lengths)
    rows = "".join(
        f'<tr><td>≤ {row.upto}</td><td style="text-align:left"><span class="bar{" over" * (row.upto > max_length)}"'
        f' style="width:{round(_PX * row.rows / longest)}px"></span> {row.rows}</td></tr>'
        for row in lengths
    )
    return f"<h2>{_safe(title)}</h2><table>{rows}</table>"


def _preview(example: "Preview") -> str:
    pieces = "".join(
        f'<span class="{" ".join(["learned"] * piece.learned + ["cut"] * piece.cut)}">{_safe(piece.text)}</span>'
        for piece in example.pieces
    )
    return f"<h3>{_safe(preview_title(example))}</h3><pre>{pieces}</pre>"


def _safe(text: str) -> str:
    """``text`` as text and nothing else: no markup, no control characters, nothing that turns the line around."""
    return escape(plain(text))
