"""Compiles the engine's and the trainer's kernels while the package is built or installed, by the C compiler there is.

Without a compiler, or on a processor they are not written for, nothing is compiled and both multiply through torch.
``python hatch_build.py`` compiles in place.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).parent / "src/tunesmith/inference/worker/native"
TRAINER = Path(__file__).parent / "src/tunesmith/training/loop/native"
# each library and its sources, in the order in which its library.py takes their digest
LIBRARIES = {
    ENGINE / "kernels.so": sorted(ENGINE.glob("*.[ch]")),
    TRAINER / "kernels.so": [
        *sorted(TRAINER.glob("*.[ch]")),
        *(ENGINE / name for name in ("pairs_16.h", "pool.c", "pool.h", "vector.h", "wide.c", "wide.h")),
    ],
}
FLAGS = ("-std=gnu11", "-O3", "-mavx2", "-mfma", "-mf16c", "-fno-math-errno", "-Wall", "-Wextra", "-shared", "-fPIC")


def compiled() -> bool:
    """Compile, unless there is nothing new to be compiled; whether the libraries are there."""
    done = [_compiled(library, sources) for library, sources in LIBRARIES.items()]
    return all(done)


def _compiled(library: Path, sources: list[Path]) -> bool:
    if library.exists() and library.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return True
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform == "win32" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    made = library.with_name(f".{library.name}.{os.getpid()}")
    units = [str(source) for source in sources if source.suffix == ".c"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    flags = [*FLAGS, f'-DSOURCES="{digest}"', f"-I{ENGINE}"]
    try:
        done = subprocess.run([*compiler.split(), *flags, "-o", str(made), *units, "-lpthread", "-lm"])
        if done.returncode:
            return False
        made.replace(library)
    finally:
        made.unlink(missing_ok=True)
    return True


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    pass
else:

    class Kernels(BuildHookInterface[Any]):
        """Puts the libraries into the wheel, which is then for this kind of machine."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name == "wheel" and compiled():
                build_data["artifacts"].append("*.so")
                build_data["pure_python"] = False
                machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["tag"] = f"py3-none-{machine}"  # any Python: they are loaded by ctypes


if __name__ == "__main__":
    sys.exit(not compiled())
