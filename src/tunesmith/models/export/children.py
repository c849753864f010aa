"""A module of this package run as a process of its own: what it is asked and what it answers are files."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tunesmith.kernel.problems import Problem, Unavailable

T = TypeVar("T")
_MOST_TOLD = 400  # characters of what a child that broke had to say


class _Said(msgspec.Struct, omit_defaults=True):
    """What a child writes last: an answer, or the two messages of a Problem."""

    answer: msgspec.Raw = msgspec.Raw(b"")
    zh: str = ""
    en: str = ""


def asked(module: str, task: object, answer: type[T], *, threads: int) -> T:
    """What ``python -m module`` answers to ``task``; it ends with this process.

    Args:
        threads: of the CPU, for whatever counts them.

    Raises:
        Problem: it answered with one. Unavailable: it ended without an answer, and what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as scratch:
        given, made, told = (Path(scratch) / name for name in ("task.json", "answer.json", "log"))
        given.write_bytes(msgspec.json.encode(task))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        with told.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(given), str(made)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
            try:
                process.wait()
            finally:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        if not made.exists():
            raise _broken(process.returncode, told.read_bytes().decode(errors="replace"))
        said = msgspec.json.decode(made.read_bytes(), type=_Said)
    if not bytes(said.answer):
        raise Problem(said.zh, said.en)
    return msgspec.json.decode(said.answer, type=answer)


def answer(task: type[T], work: Callable[[T], Any]) -> None:
    """Be such a child: do ``work`` with the task and write what it gives."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    given, made = (Path(argument) for argument in sys.argv[1:3])
    try:
        said = _Said(msgspec.Raw(msgspec.json.encode(work(msgspec.json.decode(given.read_bytes(), type=task)))))
    except Problem as problem:
        said = _Said(zh=problem.zh, en=problem.en)
    partial = made.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(said))
    partial.replace(made)
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's threads would hold the interpreter


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _broken(status: int, told: str) -> Unavailable:
    last = next((line.strip() for line in reversed(told.splitlines()) if line.strip()), "")[:_MOST_TOLD]
    how_zh = f"被信号 {-status} 终止（内存不足？）" if status < 0 else f"退出码 {status}"
    how_en = f"ended by signal {-status} (out of memory?)" if status < 0 else f"exit status {status}"
    return Unavailable(f"比较用的子进程失败（{how_zh}）：{last}", f"the comparing process failed ({how_en}): {last}")
