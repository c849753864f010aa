"""The services, composed for one verb and closed after it."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from tunesmith.cli.screen import INTERRUPTED, TERMINATED
from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Unavailable

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.settings import Settings

T = TypeVar("T")


def compose_services(home: Path | None) -> "Services":
    """The services on ``home`` (or the usual home folder), with logs on standard error.

    Raises:
        Problem: a setting, the home folder or the database cannot be used.
    """
    with importing():
        from tunesmith.app import compose
    from tunesmith.kernel.logs import log_to_stderr
    from tunesmith.settings import Settings

    log_to_stderr("warning")
    settings = Settings.read(os.environ, home=home)
    with compose_failures(settings):
        return compose(settings)


@contextmanager
def compose_failures(settings: "Settings") -> Iterator[None]:
    """What the system or the database says against a home folder, as a Problem."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise Unavailable(
            f"主目录 {settings.home} 或其数据库不可用：{reason}",
            f"the home folder {settings.home} or its database cannot be used: {reason}",
            home=str(settings.home),
        ) from error


@contextmanager
def opened(home: Path | None) -> Iterator["Services"]:
    """The services for a verb that starts no engine."""
    services = compose_services(home)
    try:
        yield services
    finally:
        services.database.close()


class Session:
    """Composed services and the event loop they live on.

    Between two ``run`` calls the loop rests, so a verb may wait for a person in plain blocking code. Whatever way the
    session ends, its engines end with it.
    """

    def __init__(self, home: Path | None) -> None:
        self.services = compose_services(home)
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._terminated = False

    def __enter__(self) -> "Session":
        self._before = signal.signal(signal.SIGTERM, self._on_terminate)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self.services.close())
        finally:
            self._runner.close()
            signal.signal(signal.SIGTERM, self._before)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``.

        Raises:
            Problem: from ``work``.
            KeyboardInterrupt: Ctrl-C; ``work`` was cancelled first, and more may be run.
            typer.Exit: 143 after SIGTERM; ``work`` was cancelled first.
        """

        async def remembered() -> T:
            self._task = asyncio.current_task()
            try:
                return await work
            finally:
                self._task = None

        try:
            return self._runner.run(remembered())
        except asyncio.CancelledError:
            raise typer.Exit(TERMINATED if self._terminated else INTERRUPTED) from None

    def _on_terminate(self, *_: object) -> None:
        self._terminated = True
        if self._task is None:
            raise typer.Exit(TERMINATED)
        self._task.cancel()
        self._runner.get_loop().call_soon_threadsafe(lambda: None)  # wakes a loop that waits for input


def run_inside(home: Path | None, work: Callable[["Services"], Coroutine[Any, Any, T]]) -> T:
    """Run ``work`` on composed services and close them; raises as ``Session.run``."""
    with Session(home) as session:
        return session.run(work(session.services))
