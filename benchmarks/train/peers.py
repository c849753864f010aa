"""Contestants as processes: their virtual environments, made on the first run, and one training each at a time."""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunesmith.training.surroundings import ALLOCATOR

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCH = "torch==2.13.0"
TRL = ("trl==1.16.0", "peft", "transformers", "accelerate", "datasets")
LLAMA_FACTORY = "llamafactory==0.9.5"
# They come with it, and load only beside the one build of torch that they were made for. Text needs neither.
UNWANTED = ("torchvision", "torchaudio")
_PATIENCE = 3.0  # times the budget: a single step cannot be interrupted, but a process can be ended


class LeftOut(Exception):
    """A contestant that cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who trains, and how.

    Attributes:
        python: of its environment. script: what trains. settings: its own options.
        environment: variables that who starts it sets.
    """

    name: str
    python: Path
    script: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


def trl_python(folder: Path) -> Path:
    """An environment with TRL, in the versions that Tunesmith has.

    Raises:
        LeftOut: it cannot be made.
    """
    held = ["-c", str(ROOT / "constraints.txt")]
    steps = [["install", TORCH, *held], ["install", *TRL, *held]]
    python = _environment(folder / "trl", " ".join(TRL), steps)
    _import(python, "trl")
    return python


def factory_python(folder: Path) -> Path:
    """An environment with LLaMA-Factory, without what it installs for pictures and sound.

    Raises:
        LeftOut: it cannot be made.
    """
    # torch first and held: unheld, the wheel with CUDA replaces it
    steps = [["install", TORCH], ["install", TORCH, LLAMA_FACTORY], ["uninstall", "--yes", *UNWANTED]]
    return _environment(folder / "llamafactory", f"{LLAMA_FACTORY} without {' '.join(UNWANTED)}", steps)


def trained(contestant: Contestant, job: Mapping[str, Any], log: Path) -> dict[str, Any]:
    """What one training of ``contestant`` printed as its result.

    Raises:
        LeftOut: it failed; the end of its log is in the text.
    """
    return asked(
        contestant.python, contestant.script, {**job, "settings": contestant.settings}, log, contestant.environment
    )


def asked(
    python: Path, script: Path, job: Mapping[str, Any], log: Path, more: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The result that ``script`` prints for ``job``; as ``trained``."""
    environ = dict(more) | {
        name: os.environ[name] for name in ("PATH", "LANG", "HOME", "LD_LIBRARY_PATH") if name in os.environ
    }
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(job["threads"]),
                "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": "", "HF_DATASETS_CACHE": str(log.parent / "datasets")}  # fmt: skip
    command = [str(python), str(script), json.dumps(job)]
    limit_s = _PATIENCE * job["budget_s"]
    try:
        with log.open("ab") as output:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=output, env=environ, check=False, timeout=limit_s
            )
    except subprocess.TimeoutExpired as error:
        raise LeftOut(f"two steps are not done within {limit_s:.0f} s, and no more was waited for") from error
    results = [line for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("RESULT ")]
    if done.returncode or not results:
        raise LeftOut(f"exit {done.returncode}: {_last_line(log)}")
    return dict(json.loads(results[-1].removeprefix("RESULT ")))


def ours(settings: Mapping[str, Any]) -> Contestant:
    """Tunesmith as it lies in this tree, with the allocator its executor starts a trainer with."""
    return Contestant("tunesmith", Path(sys.executable), HERE / "ours.py", settings, ALLOCATOR)


def _environment(place: Path, wanted: str, steps: list[list[str]]) -> Path:
    python, done, log = place / "bin" / "python", place / ".installed", place.with_suffix(".install.log")
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {wanted} ...", file=sys.stderr, flush=True)
    venv.create(place, with_pip=True, clear=True)
    for step in steps:
        command = [str(python), "-m", "pip", "--quiet", *step]
        with log.open("ab") as output:
            # a folder of its own to unpack into: a shared one may be emptied by others
            environ = {**os.environ, "TMPDIR": str(place)}
            if subprocess.run(command, stdout=output, stderr=output, env=environ, check=False).returncode:
                raise LeftOut(f"{wanted} cannot be installed: {_last_line(log)}")
    done.write_text(wanted)
    return python


def _import(python: Path, module: str) -> None:
    done = subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if re.match(r"\w+(Error|Exception): ", line)]
        raise LeftOut(f"import {module} fails: " + (" -> ".join(dict.fromkeys([*said[:1], *said[-1:]])) or "exit 1"))


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"
