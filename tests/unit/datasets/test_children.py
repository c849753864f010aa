"""Child processes: they answer, fail, break and are ended, and the asker is told which."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import structlog

from tunesmith.datasets.children import Children
from tunesmith.datasets.worker.crew import COMMAND, Crew
from tunesmith.datasets.worker.tasks import Count, CountSpan, Progress, Read, Span, Tabulate, encode
from tunesmith.kernel.problems import Invalid, NotFound, Unavailable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 7)
    return path


def children_of_ours() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it ended just now
            if "tunesmith.datasets.worker" in child.cmdline():
                found.append(child)
    return found


async def test_a_child_answers_and_is_gone(file: Path) -> None:
    told: list[Progress] = []
    answer = await Children().perform(Count(str(file), "x.jsonl", "json"), Read, told.append)
    assert answer == Read(7)
    assert told[-1] == Progress("checking", 63, 63, 7)
    assert children_of_ours() == []


async def test_a_problem_comes_back_as_it_was(file: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        await Children().perform(Count(str(file), "x.csv", "csv"), Read)
    assert (caught.value.details["file"], caught.value.details["line"]) == ("x.csv", 1)
    assert "内容是 JSON" in caught.value.zh
    with pytest.raises(NotFound):
        await Children().perform(Count(str(tmp_path / "no"), "no", "json"), Read)


async def test_a_child_that_breaks_is_told_and_logged(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable, match="ended unexpectedly"):
        await Children().perform(Tabulate(str(tmp_path), ("missing",)), Read)
    assert "FileNotFoundError" in logs[0]["stderr"]
    assert logs[0]["exit"] == 1


@pytest.fixture
def endless(tmp_path: Path) -> Tabulate:
    """A task that waits for ever: it reads a pipe nobody writes to."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    return Tabulate(str(tmp_path), ("pipe",))


async def test_canceling_the_asker_kills_the_child(endless: Tabulate) -> None:
    asked = asyncio.create_task(Children().perform(endless, Read))
    child = await asyncio.to_thread(first_child)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not child.is_running()


def first_child() -> psutil.Process:
    while not (found := children_of_ours()):
        pass
    return found[0]


async def test_only_so_many_run_at_once_and_every_one_is_answered(file: Path) -> None:
    children, most = Children(2), 0
    tasks = [asyncio.create_task(children.perform(Count(str(file), "x", "json"), Read)) for _ in range(6)]
    while not all(task.done() for task in tasks):
        most = max(most, len(children_of_ours()))
        await asyncio.sleep(0.005)
    assert [task.result() for task in tasks] == [Read(7)] * 6
    assert 1 <= most <= 2


def test_a_child_ends_when_its_parent_is_gone(endless: Tabulate) -> None:
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        child.stdin.write(encode(endless) + b"\n")
        child.stdin.close()  # as when the parent is killed
        assert child.wait(60) == 1


def test_a_crew_that_is_ended_starts_nobody_any_more(file: Path) -> None:
    crew = Crew()
    task = CountSpan(Span(str(file), "x.jsonl", "jsonl"))
    assert crew.ask(task, lambda _: None) == Read(7)
    crew.end()
    with pytest.raises(RuntimeError):
        crew.ask(task, lambda _: None)


def test_asking_children_loads_nothing_heavy() -> None:
    code = (
        "import sys, tunesmith.datasets.service, tunesmith.datasets.uploads, tunesmith.datasets.worker.__main__\n"
        "print([name for name in ('numpy', 'pyarrow', 'torch', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
