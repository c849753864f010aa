"""The tree of verbs."""

from typing import Annotated

import typer

from tunesmith import __version__
from tunesmith.cli import (
    asking,
    bench,
    checking,
    data,
    dataset_files,
    demo,
    doctor,
    evaluating,
    jobs,
    keys,
    models,
    projects,
    providers,
    runs,
    serve,
    training,
    users,
)
from tunesmith.cli.screen import say

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=say(
        "用 LoRA 在自己的机器上微调语言模型，并看到它是否有效。先试试：tunesmith demo",
        "Fine-tune language models with LoRA on your own machine, and see that it helped. Try first: tunesmith demo",
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help=say("打印版本", "Print the version.")),
    ] = False,
) -> None:
    """Options before the verb."""


app.command("demo", help=demo.HELP)(demo.demo)
app.command("serve", help=serve.HELP)(serve.serve)
app.command("train", help=training.HELP)(training.train)
app.command("evaluate", help=evaluating.HELP)(evaluating.evaluate)
app.command("chat", help=asking.CHAT_HELP)(asking.chat)
app.command("compare", help=asking.COMPARE_HELP)(asking.compare)
data.app.command("check", help=checking.HELP)(checking.check)
data.app.command("export", help=dataset_files.HELP)(dataset_files.export)
app.add_typer(data.app, name="datasets")
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
app.add_typer(jobs.app, name="jobs")
app.add_typer(projects.app, name="projects")
app.add_typer(users.app, name="users")
app.add_typer(keys.app, name="keys")
app.add_typer(providers.app, name="providers")
app.command("doctor", help=doctor.HELP)(doctor.doctor)
app.add_typer(bench.app, name="bench")
