"""The servers that are compared, and how each is started, watched and ended."""

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
LITELLM = "litellm[proxy]==1.109.1"
# what a package mirror may lack: of these any version serves, they are certificates and database migrations
_LOOSENED = ("certifi", "litellm-proxy-extras")
_MODEL = "mistralai/mistral-7b-instruct"
_RELAXED_REQUIREMENTS = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for line in importlib.metadata.requires("litellm"):
    wanted = Requirement(line)
    if wanted.marker is None or wanted.marker.evaluate({"extra": "proxy"}):
        wanted.marker = None
        print(wanted.name if wanted.name in sys.argv[1:] else wanted)
"""


class LeftOut(Exception):
    """A peer that this machine cannot have; the text says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One server, and how it is asked.

    Attributes:
        health: path that answers 200 as soon as the server serves.
        path: of the streaming route.
        expect: what stands in every good answer: its last token or whole text, and its end.
        question: the body that makes the upstream wait so many milliseconds between two tokens.
        slow: takes tens of milliseconds an answer, so it is asked less often.
        command: arguments and environment for (port, upstream's port, a folder of its own).
        headers: of every request.
    """

    name: str
    health: str
    path: str
    expect: tuple[str, ...]
    question: Callable[[int], Mapping[str, object]]
    command: Callable[[int, int, Path], tuple[Sequence[str | Path], Mapping[str, str]]]
    headers: tuple[str, ...] = ()
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A started subject. ``start_s``: from the start of the process to the first good answer on its health route."""

    process: "subprocess.Popen[bytes]"
    port: int
    start_s: float
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The process and everything it started that still runs."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system seconds of the whole tree so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self.tree())

    def resident_mib(self) -> float:
        """Resident memory of the whole tree; a page shared by two processes counts twice."""
        return sum(each.memory_info().rss for each in self.tree()) / (1 << 20)


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, bytes] | None:
    """Status and body of one GET; None when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def started(
    name: str, command: Sequence[str | Path], environ: Mapping[str, str], port: int, health: str, log: Path
) -> Iterator[Running]:
    """The server, as soon as its health route answers; ended with all its children on the way out.

    Raises:
        SystemExit: it ended, or did not answer within two minutes; what it last logged is shown.
    """
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=dict(environ), stdin=subprocess.DEVNULL)
    try:
        while (answer := get(port, health)) is None or answer[0] != 200:
            if process.poll() is not None or time.perf_counter() - began > 120:
                tail = log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{name} did not start (exit {process.poll()}):\n{tail}")
            time.sleep(0.005)
        yield Running(process, port, time.perf_counter() - began, log)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in children:
        if each.is_running():
            each.kill()


def compiled(name: str, folder: Path) -> Path:
    """The program made of ``name``.c.

    Raises:
        SystemExit: there is no C compiler, or it refuses.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("a C compiler is needed (cc): the upstream and the load generator are C")
    program = folder / name
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, HERE / f"{name}.c"], check=True)
    return program


def _clean(**more: str) -> dict[str, str]:
    """An environment without what this shell happens to configure."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    return {**kept, **more}


def _document(pace: int) -> Mapping[str, object]:
    return {"message": f"pace={pace} 你好，请介绍一下React", "service": "openrouter", "model": _MODEL}


def _openai(pace: int) -> Mapping[str, object]:
    content = f"pace={pace} 你好，请介绍一下React"
    return {"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": content}]}


# the upstream's text, which the document's last frame holds whole
_TEXT = "".join(f"token{each} " if each % 3 else f"你好{each} " for each in range(50))
_DOCUMENT_END = (_TEXT, '"done":true', '"fullResponse"')
_OPENAI_END = ("token49 ", "data: [DONE]")


def tunesmith_command(port: int, upstream: int, folder: Path) -> tuple[list[str | Path], dict[str, str]]:
    """``tunesmith serve`` on a new home, asking the mock as OpenRouter."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    environ = _clean(
        OPENROUTER_API_KEY="sk-or-benchmark",
        OPENROUTER_BASE_URL=f"http://127.0.0.1:{upstream}/api/v1",
        # counted as ever, but never reached: all clients here have one address
        TUNESMITH_RATE_INFERENCE="100000000",
        TUNESMITH_RATE_OTHER="100000000",
        # ten seconds after the start it would import torch beside the answers, and be counted with them
        TUNESMITH_WARM_TRAINER="0",
    )
    return [sys.executable, "-m", "tunesmith.cli", "serve", "--home", home, "--port", str(port)], environ


def tunesmith(folder: Path) -> Subject:
    """Ours."""
    return Subject("tunesmith", "/health", "/api/chat/send", _DOCUMENT_END, _document, tunesmith_command)


def floor(folder: Path) -> Subject:
    """The least this interpreter can do."""

    def command(port: int, upstream: int, place: Path) -> tuple[list[str | Path], dict[str, str]]:
        return [sys.executable, HERE / "floor.py", str(port), str(upstream)], _clean()

    return Subject("floor", "/health", "/api/chat/send", _DOCUMENT_END, _document, command)


def nginx(folder: Path) -> Subject:
    """A pass-through that looks at nothing.

    Raises:
        LeftOut: it is not installed and cannot be.
    """
    program = _nginx()

    def command(port: int, upstream: int, place: Path) -> tuple[list[str | Path], dict[str, str]]:
        config = place / "nginx.conf"
        config.write_text(_filled("nginx.conf", PORT=port, UPSTREAM=upstream, FOLDER=place))
        return [program, "-p", place, "-c", config, "-e", "stderr"], _clean()

    return Subject("nginx", "/health", "/v1/chat/completions", _OPENAI_END, _openai, command)


def litellm(folder: Path) -> Subject:
    """LiteLLM's proxy in a virtual environment of its own, asking the same service the same way.

    Raises:
        LeftOut: it cannot be installed.
    """
    program = _litellm(folder / "litellm")
    key = f"sk-{secrets.token_hex(24)}"

    def command(port: int, upstream: int, place: Path) -> tuple[list[str | Path], dict[str, str]]:
        config = place / "litellm.yaml"
        config.write_text(_filled("litellm.yaml", UPSTREAM=upstream))
        arguments: list[str | Path] = [
            "--config",
            config,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            "1",
        ]
        # its own advice for production; and no price list fetched from the network at its start
        environ = _clean(LITELLM_MASTER_KEY=key, LITELLM_MODE="PRODUCTION", LITELLM_LOCAL_MODEL_COST_MAP="True")
        return [program, *arguments, "--telemetry", "False"], environ

    header = (f"Authorization: Bearer {key}",)
    return Subject(
        "litellm", "/health/liveliness", "/v1/chat/completions", _OPENAI_END, _openai, command, header, slow=True
    )


def direct(folder: Path) -> Subject:
    """No server between: what the upstream and the load generator take by themselves."""

    def command(port: int, upstream: int, place: Path) -> tuple[list[str | Path], dict[str, str]]:
        return [folder / "upstream", str(port)], _clean()

    return Subject("direct", "/health", "/v1/chat/completions", _OPENAI_END, _openai, command)


def _filled(name: str, **values: object) -> str:
    text = (HERE / name).read_text()
    for each, value in values.items():
        text = text.replace(each, str(value))
    return text


def _nginx() -> str:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("nginx", path=places)
    if found is None and os.getuid() == 0 and shutil.which("apt-get"):
        print("installing nginx-light ...", file=sys.stderr, flush=True)
        # RUNLEVEL: the package is not to start its own server
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "nginx-light"]):
            subprocess.run(["apt-get", *arguments], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = shutil.which("nginx", path=places)
    if found is None:
        raise LeftOut("nginx is not installed (Debian: apt-get install nginx-light)")
    return found


def _litellm(place: Path) -> Path:
    program, done = place / "bin" / "litellm", place / ".installed"
    if done.exists() and done.read_text() == LITELLM:
        return program
    print(f"installing {LITELLM} ...", file=sys.stderr, flush=True)
    venv.create(place, with_pip=True, clear=True)
    python, log = place / "bin" / "python", place / "install.log"

    def pip(*arguments: str | Path) -> bool:
        with log.open("ab") as output:
            command = [str(each) for each in (python, "-m", "pip", "install", "-q", *arguments)]
            return subprocess.run(command, stdout=output, stderr=output).returncode == 0

    if not pip(LITELLM):
        if not pip("--no-deps", LITELLM.replace("[proxy]", "")):
            raise LeftOut(f"LiteLLM cannot be installed, see {log}")
        command = [str(python), "-c", _RELAXED_REQUIREMENTS, *_LOOSENED]
        wanted = place / "requirements.txt"
        wanted.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if not pip("-r", wanted):
            raise LeftOut(f"what LiteLLM needs cannot be installed, see {log}")
    done.write_text(LITELLM)
    return program


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {
    "direct": direct,
    "tunesmith": tunesmith,
    "litellm": litellm,
    "nginx": nginx,
    "floor": floor,
}
