"""``tunesmith doctor``: what is here, what would not work, and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import PROBLEM, HomeOption, JsonOption, line, plain, say, show_json, verb

if TYPE_CHECKING:
    from tunesmith.cli.checks import Check

HELP = say(
    "检查环境：有什么、什么不能用、为什么", "Look this machine over. Says what is here, what would not work, and why."
)
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red"), "info": ("·", "dim")}


@verb
def doctor(
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help=say(
                "另外导入 torch（数秒）并试算一次", "Also import torch (takes seconds) and compute something with it."
            ),
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    from tunesmith.cli import checks, service_checks

    found = [*checks.machine(), *checks.software(), *checks.home_folder(home), *service_checks.services(home)]
    if deep:
        found += checks.torch_works()
    healthy = not any(check.level == "error" for check in found)
    if as_json:
        show_json({"ok": healthy, "checks": [check.as_dict() for check in found]})
    else:
        _print(found)
    if not healthy:
        raise typer.Exit(PROBLEM)


def _print(found: "list[Check]") -> None:
    from rich.text import Text

    from tunesmith.cli.screen import console

    screen = console()
    width = max(len(check.name) for check in found)
    for check in found:
        mark, style = _MARKS[check.level]
        row = Text(f"{mark} ", style=style)
        row.append(f"{check.name:<{width}}  ", style="bold")
        row.append(plain(check.value), style="default")
        if check.advice and check.level == "info":
            row.append(f"  ({plain(check.advice)})", style="dim")
        screen.print(row, soft_wrap=True)
        if check.advice and check.level != "info":
            screen.print(Text(f"  {'':<{width}}  {plain(check.advice)}", style=style), soft_wrap=True)
    errors = sum(check.level == "error" for check in found)
    warnings = sum(check.level == "warning" for check in found)
    line()
    line(
        say(f"{errors} 个错误，{warnings} 个警告", f"{errors} errors, {warnings} warnings")
        if errors or warnings
        else say("一切正常", "everything is in order")
    )
