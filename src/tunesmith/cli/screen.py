"""What a person sees: the language, plain lines, tables, problems, and the exit codes of every verb."""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from tunesmith.kernel.problems import Invalid, Problem

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

P = ParamSpec("P")

DONE, PROBLEM, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# everything that moves the cursor or rings: a model's answer must not drive the terminal
_PIPE_WIDTH = 160  # where nobody can say how wide
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def language(environ: Mapping[str, str] = os.environ) -> str:
    """ "zh" or "en": TUNESMITH_LANG if set, else Chinese where the locale's language is Chinese."""
    chosen = environ.get("TUNESMITH_LANG", "")
    if chosen in ("zh", "en"):
        return chosen
    locale = environ.get("LC_ALL") or environ.get("LC_MESSAGES") or environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"


def say(zh: str, en: str) -> str:
    """Whichever of the two the person reads."""
    return zh if language() == "zh" else en


def plain(text: str) -> str:
    """``text`` without characters that could drive a terminal; new lines and tabs stay."""
    return _CONTROL.sub("\ufffd", text)


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help=say(
            "主目录，默认为 TUNESMITH_HOME 或 ~/.tunesmith",
            "Home folder; TUNESMITH_HOME or ~/.tunesmith when not given.",
        ),
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help=say("在标准输出打印 JSON", "Print JSON on standard output."))]


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Make ``function`` end as every verb does: a Problem becomes one line and exit 1, Ctrl-C exit 130.

    With ``as_json`` among its arguments a Problem is printed as ``{"error": {...}}`` on standard output instead.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Problem as problem:
            show_problem(problem, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(PROBLEM) from None
        except BrokenPipeError:
            # the reader (``| head``) has left; the interpreter's own flush at exit must not complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PROBLEM) from None
        except OSError as error:
            show_problem(_of_system(error), as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(PROBLEM) from None
        except KeyboardInterrupt:
            note(say("已中断", "interrupted"))
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def show_problem(problem: Problem, *, as_json: bool) -> None:
    """One clear line on standard error, or the JSON object on standard output."""
    message = problem.message(language())
    if as_json:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(problem).__name__).lower()
        show_json({"error": {"kind": kind, "message": message, "details": problem.details}})
    else:
        sys.stderr.write(f"{say('错误', 'error')}: {plain(message)}\n")


def show_json(value: Any) -> None:
    """One JSON value on one line of standard output; dates, paths and dataclasses are understood."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(encoded.decode() + "\n")
    sys.stdout.flush()


def note(text: str = "") -> None:
    """A line of progress or advice on standard error, where it never mixes with results."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def line(text: str = "") -> None:
    """A line of the result on standard output."""
    sys.stdout.write(plain(text) + "\n")


def console(*, stderr: bool = False) -> "Console":
    """A rich console that takes text as it stands: no markup, no guessed colours."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PIPE_WIDTH
    return made


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, on_stderr: bool = False
) -> None:
    """A table of results; numbers are to the right. A pipe gets it as wide as it needs to be."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        (note if on_stderr else line)(say("（空）", "(none)"))
        return
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, heading in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or row[index] == "" for row in rows)
        drawn.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    console(stderr=on_stderr).print(drawn)


def aligned(facts: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values as lines whose values begin in one column; a Han character is two columns wide."""
    from rich.cells import cell_len, set_cell_size

    known = list(facts)
    width = max(cell_len(name) for name, _ in known)
    return [f"{set_cell_size(name, width)}  {value}" for name, value in known]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else plain(str(value))


def megabytes(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def moment(at: "datetime | None") -> str:
    """A date with its minute, as lists show it; a dash for never."""
    return f"{at:%Y-%m-%d %H:%M}" if at else "-"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def wrong_usage(zh: str, en: str) -> typer.Exit:
    """Say what was wrong with the arguments; raise what this gives to exit with 2."""
    sys.stderr.write(f"{say('用法错误', 'wrong usage')}: {plain(say(zh, en))}\n")
    return typer.Exit(WRONG_USAGE)


def _of_system(error: OSError) -> Problem:
    """The operating system's refusal of a path somebody gave, as a Problem."""
    what = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    return Invalid(f"无法访问{where}（{what}）", f"the system refused{where} ({what})")
