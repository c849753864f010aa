"""A server is killed at each point between the record of a run and the provider's answer: there is one job, always.

The provider's books are a file, so that it remembers what it was asked for when nobody else does.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosted_server import TAG, Servers, found, make_home
from tunesmith.training.executors.scripted_provider import ScriptedProvider
from tunesmith.training.run import State


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as started:
        yield started


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a database and no run, copied for each kill."""
    folder = tmp_path_factory.mktemp("template") / "home"
    make_home(folder, {"books": str(folder / "nobody")}, empty=True)
    return folder


def test_however_often_and_wherever_a_server_is_killed_there_is_one_job(
    servers: Servers, template: Path, tmp_path: Path
) -> None:
    """Its first life ends at each point in turn; a second one at some point later, where there is one."""

    def lives(name: str, *kills: int) -> tuple[Path, ScriptedProvider, list[str]]:
        provider = {"books": str(tmp_path / f"{name}.books")}
        home = make_home(tmp_path / name, provider, template)
        points = []
        for kill_at in kills:
            ended = servers.serve(home, provider, kill_at=kill_at)
            assert ended["killed"], kill_at
            points.append(ended["points"][-1])
        assert not servers.serve(home, provider)["killed"]
        return home, ScriptedProvider(Path(provider["books"])), points

    undisturbed = {"books": str(tmp_path / "undisturbed.books")}
    passed = servers.serve(make_home(tmp_path / "undisturbed", undisturbed, template), undisturbed)["points"]
    assert passed.count("before create") == 1 and len(passed) >= 14, passed
    seen = set()
    # between what is behind us and what comes next nothing happens: one kill there is enough
    for number in (at for at, point in enumerate(passed, 1) if point.startswith("before") or at == len(passed)):
        again = (2,) if passed[number - 1] in ("before create", "before upload") else ()
        home, provider, points = lives(f"killed-{number}", number, *again)
        seen |= set(points)
        assert [job["tag"] for job in provider.jobs()] == [TAG], (number, points)
        run, news = found(home)
        assert run.state is State.RUNNING and news.job_id == "job-1"
        files = [row["tag"] for row in provider._rows("file")]
        assert sorted(files) == [TAG, f"{TAG}-v"], (number, points)
    assert {"before upload", "before create", "before saving"} <= seen


@pytest.mark.parametrize("number", [9, 10, 11])
def test_what_is_canceled_after_a_kill_does_not_train_on(
    servers: Servers, template: Path, tmp_path: Path, number: int
) -> None:
    provider = {"books": str(tmp_path / "books")}
    home = make_home(tmp_path / "home", provider, template)
    assert servers.serve(home, provider, kill_at=number)["killed"]
    servers.serve(home, provider, cancel=True)
    run, _ = found(home)
    assert run.state is State.CANCELED
    books = ScriptedProvider(Path(provider["books"]))
    assert len(list(books._rows("stop"))) >= len(books.jobs())
