"""The command line: verbs over the same services the dialects call.

One module a group of verbs. None of them imports a service before its verb runs, so that help and completion answer
at once.
"""


def main() -> None:
    """The console script: run the verb the arguments name and exit with 0, 1, 2 or 130."""
    from tunesmith.cli.commands import app

    app(prog_name="tunesmith")


__all__ = ["main"]
