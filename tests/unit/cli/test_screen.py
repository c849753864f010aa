"""What every verb has in common: the language, the exit code, the shape of an error."""

import json

import pytest
import typer
from typer.testing import CliRunner, Result

from tunesmith.cli.screen import duration, language, plain, verb
from tunesmith.kernel.problems import Conflict, Problem, TooMany


def run(failure: BaseException, *arguments: str) -> Result:
    app = typer.Typer()

    @app.command()
    @verb
    def fail(as_json: bool = typer.Option(False, "--json")) -> None:
        raise failure

    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "TUNESMITH_LANG": "en"}, "en"),
        ({"LANG": "de_DE.UTF-8", "TUNESMITH_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "TUNESMITH_LANG": "klingon"}, "zh"),
    ],
)
def test_the_language_follows_the_override_and_then_the_locale(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_a_problem_is_one_line_on_standard_error_and_exit_1() -> None:
    result = run(Conflict("满了", "it is full"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "it is full" in result.stderr or "满了" in result.stderr
    assert "Traceback" not in result.output


def test_a_problem_with_json_is_an_error_object_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    result = run(TooMany("太多了", "too many", limit=3), "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout) == {"error": {"kind": "too_many", "message": "太多了", "details": {"limit": 3}}}


def test_ctrl_c_exits_130_without_traceback() -> None:
    result = run(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_refusal_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    result = run(PermissionError(13, "Permission denied", "/etc/secret"))
    assert result.exit_code == 1
    assert "/etc/secret" in result.stderr
    assert "Permission denied" in result.stderr


def test_a_bug_is_not_dressed_up_as_a_problem() -> None:
    assert isinstance(run(ZeroDivisionError()).exception, ZeroDivisionError)


def test_wrong_usage_exits_2() -> None:
    assert run(Problem("", ""), "--no-such-option").exit_code == 2


def test_text_cannot_drive_the_terminal() -> None:
    assert plain("a\x1b[2Jb\rc\u202ed") == "a\ufffd[2Jb\ufffdc\ufffdd"
    assert plain("一行\n\t两行 🙂") == "一行\n\t两行 🙂"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7805, "2 h 10 min")],
)
def test_durations_are_as_exact_as_a_person_needs(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
