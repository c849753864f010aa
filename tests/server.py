"""A real ``tunesmith serve`` on a home folder of its own, for tests that speak HTTP to it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tunesmith.accounts.service import AccountService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    home: Path
    process: "subprocess.Popen[bytes]"

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def post(self, path: str, body: object = None, **options: object) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)  # type: ignore[arg-type]

    def delete(self, path: str, **options: object) -> requests.Response:
        return requests.delete(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        return (self.home / "server.log").read_text()


@contextmanager
def serving(home: Path, environ: Mapping[str, str] | None = None, options: Sequence[str] = ()) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it afterwards."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.cli", "serve", "--home", str(home), "--port", str(port), *options],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "TUNESMITH_THREADS": "1",
                "TUNESMITH_LANG": "zh",
                "TUNESMITH_WARM_TRAINER": "0",
                **(environ or {}),
            },
        )
    server = Server(f"http://127.0.0.1:{port}", home, process)
    try:
        wait_until(lambda: _answers(server), f"the server did not start: {server.log()}", 90)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: "object", message: str, seconds: float) -> None:
    """Ask ``true()`` again and again until it is."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, message
        time.sleep(0.05)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, f"the server ended: {server.log()}"
    try:
        return requests.get(server.url + "/health", timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def add_user(home: Path, name: str, password: str, *, admin: bool = False) -> None:
    """Make a user as ``tunesmith users add`` does, here: a process of it spends its time on imports (it has tests of its own)."""
    settings = Settings.read(os.environ, home=home)
    database = Database(settings.database_url or f"sqlite:///{Home(settings.home).root}/tunesmith.db")
    database.migrate()
    accounts = AccountService(database, Home(settings.home))
    try:
        accounts.add(name, password, "admin" if admin else "member")
    finally:
        accounts.close()
        database.close()
