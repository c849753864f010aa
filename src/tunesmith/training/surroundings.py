"""How a process that trains is started: its command and its environment."""

import os
import sys

from tunesmith.settings import Settings

_UNPASSED = frozenset(
    {"HF_TOKEN", "OPENROUTER_API_KEY", "TOGETHER_API_KEY", "FIREWORKS_API_KEY", "TUNESMITH_VLLM_API_KEY"}
)
# Tensors of megabytes come and go at every layer. By default glibc gives each back to the system, which hands it out
# again page by page, zeroed: a tenth of a step's time (see docs/performance.md). Read when a process starts.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184",
    "THP_MEM_ALLOC_ENABLE": "1",
}


def command(module: str, settings: Settings) -> list[str]:
    """What runs ``module``: this Python, or ``torchrun`` where several processes are to train together."""
    if settings.trainer_processes == 1:
        return [sys.executable, "-P", "-m", module]
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={settings.trainer_processes}"]
    return [sys.executable, "-P", "-m", *torchrun, "-m", module]


def environment(settings: Settings) -> dict[str, str]:
    """This process's, without the keys of providers, which no trainer asks."""
    passed = {name: value for name, value in os.environ.items() if name not in _UNPASSED}
    passed = ALLOCATOR | passed | {"PYTHONSAFEPATH": "1"}
    if settings.threads:
        passed["OMP_NUM_THREADS"] = str(settings.threads)
    return passed
