"""The tree of verbs as a whole."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tunesmith.cli.commands import app
from tunesmith.models.registry import SHIPPED
from tunesmith.training.first_recipe import RECIPE


def verbs() -> Iterator[tuple[str, Any]]:
    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        for below, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {below}".strip(), inner)
        if not hasattr(command, "commands"):
            yield name, command

    yield from walk("", typer.main.get_command(app))


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_verb_of_the_contract_is_there() -> None:
    assert {name for name, _ in verbs()} == {
        "serve", "demo", "train", "evaluate", "chat", "compare", "doctor", "bench serve",
        "datasets add", "datasets check", "datasets export", "datasets list", "datasets show", "datasets split", "datasets remove",
        "models list", "models add", "models export",
        "models versions", "models promote", "models rollback", "models unalias", "models aliases", "models remove",
        "runs list", "runs show", "runs watch", "runs cancel", "runs resume",
        "users add", "users list", "users disable", "users enable", "users passwd",
        "keys create", "keys list", "keys revoke",
        "providers list", "providers set-key", "providers forget-key", "providers models", "providers parameters",
        "jobs create", "jobs list", "jobs show", "jobs watch", "jobs cancel", "jobs edit", "jobs delete",
        "jobs estimate", "jobs deploy", "jobs undeploy", "jobs download",
        "projects list", "projects create", "projects show", "projects delete", "projects tasks", "projects add-task",
        "projects import", "projects import-kiln", "projects splits", "projects split",
    }  # fmt: skip


def test_every_verb_takes_home_and_json_and_explains_itself() -> None:
    for name, command in verbs():
        assert {"--json", "--home"} <= options(command), name
        assert command.help, name


@pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["runs", "show"], ["serve", "--port", "70000"]])
def test_wrong_usage_exits_2_and_prints_nothing_on_standard_output(arguments: list[str]) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_help_and_completion_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from tunesmith.cli import main\n"
        "sys.argv = ['tunesmith', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastapi', 'sqlalchemy', 'pydantic', 'aiohttp', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = run_python(code)
    assert done.stderr.strip() == "[]"
    assert "demo" in done.stdout


def test_help_is_chinese_in_a_chinese_locale() -> None:
    code = "import sys; from tunesmith.cli import main; sys.argv = ['tunesmith', '--help']; main()"
    done = run_python(code, LC_ALL="zh_CN.UTF-8", TUNESMITH_LANG="")
    assert "微调" in done.stdout
    done = run_python(code, LC_ALL="zh_CN.UTF-8", TUNESMITH_LANG="en")
    assert "微调" not in done.stdout


def test_the_demo_tunes_the_shipped_model_and_guards_against_forgetting() -> None:
    assert RECIPE.base_model == SHIPPED
    assert RECIPE.replay is not None
    assert 0 < RECIPE.replay_share < 1
