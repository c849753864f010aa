"""A person's word before something that costs money."""

import sys

import typer

from tunesmith.cli.screen import PROBLEM, note, say, wrong_usage


def may_ask(*, yes: bool) -> None:
    """Return where ``agreed`` can get a word.

    Raises:
        typer.Exit: 2, there is no terminal to ask on and ``yes`` is false.
    """
    if not yes and not sys.stdin.isatty():
        raise wrong_usage(
            "这会产生费用，而没有终端可供确认；请使用 --yes",
            "this costs money and there is no terminal to ask on; use --yes",
        )


def agreed(zh: str, en: str, *, yes: bool) -> None:
    """Return when the person agrees: by ``yes``, or asked on the terminal with that question.

    Raises:
        typer.Exit: 1, they do not. 2, as ``may_ask``.
    """
    may_ask(yes=yes)
    if not yes and not typer.confirm(say(zh, en), err=True):
        note(say("什么也没有做", "nothing was done"))
        raise typer.Exit(PROBLEM)
